//! The segments of one session, handed out in the order of asking.

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::channel::layout::Validator;
use crate::channel::ring::{Area, Consumer, Violation};
use crate::channel::store::HOLDS_FOR;
use crate::channel::sync::{AtomicU32, Condvar, Mutex, Ordering};

/// How often a waiter looks whether quarantined segments are free again.
const REAP: Duration = Duration::from_millis(5);

/// Free segments that still hold a file are remembered up to this number: one look goes through all of them.
const MOST_HOLDING: usize = 256;

/// When a request was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    /// That of the area, at that time or before.
    pub(crate) epoch: u32,
}

/// What a segment holds: all of a file.
#[derive(Debug)]
pub(crate) struct Held {
    key: Box<[u8]>,
    pub(crate) file: Validator,
    /// That of the last request that the daemon answered with this state of the file.
    pub(crate) epoch: u32,
    /// When the request was made that the daemon answered by reading the file.
    read: Instant,
    /// When the last request was made that the daemon answered with this state of the file.
    confirmed: Instant,
}

impl Held {
    /// What a segment holds after an answer with all of a file, to a request that offered `offered`.
    pub(crate) fn after(offered: Option<Self>, key: &[u8], file: Validator, asked: Asked) -> Option<Self> {
        let Asked { at, epoch } = asked;
        match offered {
            Some(offered) if offered.file == file => Some(Self { confirmed: at, epoch, ..offered }),
            // Else a write from now on might not show.
            _ => file.is_settled(SystemTime::now() - at.elapsed()).then(|| Self {
                key: key.into(),
                file,
                epoch,
                read: at,
                confirmed: at,
            }),
        }
    }

    /// Whether it needs no second reading, should the daemon say that the file is unchanged.
    pub(crate) fn is_worth_an_offer(&self, now: Instant) -> bool {
        now.duration_since(self.read) < HOLDS_FOR
    }
}

/// A segment that is free, and what it holds.
type Free = (Consumer, Option<Held>);

/// The segments of a lease that was given up before its end was seen. The daemon may still write into them.
#[derive(Debug)]
struct Quarantined {
    consumer: Consumer,
    loans: Vec<Consumer>,
}

/// One thread's place in the queue.
#[derive(Debug, Default)]
struct Seat {
    given: Mutex<Option<Free>>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Free segments that hold no file, by index. The lowest go first: so the same ones are used again, which are in the
    /// processor's cache, and those of a transfer are neighbours, which are filled and sent together.
    blank: BTreeMap<u16, Consumer>,
    /// Free segments that hold a file, the one used last at the end.
    holding: VecDeque<(Consumer, Held)>,
    queue: VecDeque<Arc<Seat>>,
    quarantine: Vec<Quarantined>,
    closed: bool,
}

#[derive(Debug)]
pub(crate) struct Pool {
    size: usize,
    state: Mutex<State>,
    waiting: AtomicU32,
}

/// Why there is no segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoSegment {
    /// The session has ended.
    Closed,
    /// None became free in time.
    TimedOut,
    Violation(Violation),
}

impl Pool {
    pub(crate) fn new(segments: Vec<Consumer>) -> Self {
        let size = segments.len();
        let mut state = State::default();
        state.keep(segments);
        Self { size, state: Mutex::new(state), waiting: AtomicU32::new(0) }
    }

    /// A segment, after everybody who asked before; with what it holds, if that is the file behind `key`.
    pub(crate) fn acquire(&self, area: &impl Area, key: &[u8], deadline: Instant) -> Result<Free, NoSegment> {
        let (consumer, held) = self.acquire_any(area, key, deadline)?;
        Ok((consumer, held.filter(|held| *held.key == *key)))
    }

    fn acquire_any(&self, area: &impl Area, key: &[u8], deadline: Instant) -> Result<Free, NoSegment> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(NoSegment::Closed);
        }
        if state.queue.is_empty() {
            state.reap(area).map_err(NoSegment::Violation)?;
            if let Some(free) = state.take(key) {
                return Ok(free);
            }
        }
        let seat = Arc::new(Seat::default());
        state.queue.push_back(Arc::clone(&seat));
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let outcome = loop {
            let until = if state.quarantine.is_empty() { deadline } else { deadline.min(Instant::now() + REAP) };
            seat.called.wait_until(&mut state, until);
            if let Some(free) = seat.given.lock().take() {
                break Ok(free);
            }
            if state.closed {
                break Err(NoSegment::Closed);
            }
            if let Err(violation) = state.reap(area) {
                break Err(NoSegment::Violation(violation));
            }
            state.serve_queue();
            if let Some(free) = seat.given.lock().take() {
                break Ok(free);
            }
            if Instant::now() >= deadline {
                break Err(NoSegment::TimedOut);
            }
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if outcome.is_err() {
            state.queue.retain(|other| !Arc::ptr_eq(other, &seat));
        }
        state.call_reaper();
        outcome
    }

    /// Whether just so many segments are not here.
    pub(crate) fn has_lent_out(&self, count: usize) -> bool {
        self.state.lock().free() + count == self.size
    }

    /// Up to `most` segments to lend to a transfer, if nobody waits; one stays free for whoever comes next.
    pub(crate) fn borrow(&self, area: &impl Area, most: usize) -> Result<Vec<Consumer>, Violation> {
        let mut state = self.state.lock();
        if !state.queue.is_empty() || state.closed {
            return Ok(Vec::new());
        }
        if state.free() <= most {
            state.reap(area)?;
        }
        let count = most.min(state.free().saturating_sub(1));
        Ok((0..count).filter_map(|_| state.take_other()).collect())
    }

    /// Takes segments back whose lease has ended.
    pub(crate) fn give_back(&self, segments: impl IntoIterator<Item = Consumer>) {
        let mut state = self.state.lock();
        state.keep(segments);
        state.serve_queue();
    }

    /// Takes the segments of a lease that has ended back: its lead, which may hold a file, and its loans.
    pub(crate) fn give_back_holding(&self, lead: Consumer, held: Option<Held>, loans: Vec<Consumer>) {
        let mut state = self.state.lock();
        state.keep(loans);
        match held {
            Some(held) => state.hold(lead, held),
            None => state.keep([lead]),
        }
        state.serve_queue();
    }

    /// Takes segments of a cancelled lease, which are free once the daemon has published its end.
    pub(crate) fn quarantine(&self, consumer: Consumer, loans: Vec<Consumer>) {
        let mut state = self.state.lock();
        state.quarantine.push(Quarantined { consumer, loans });
        state.call_reaper();
    }

    /// How many threads wait for a segment.
    pub(crate) fn waiters(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Sends all waiters away: the session has ended.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for seat in state.queue.drain(..) {
            seat.called.notify_one();
        }
    }

    /// Segments that are free now, and those in quarantine.
    pub(crate) fn census(&self, area: &impl Area) -> (usize, usize) {
        let mut state = self.state.lock();
        // A violation shows again to whoever wants a segment next.
        let _ = state.reap(area);
        state.serve_queue();
        (state.free(), state.quarantine.iter().map(|q| 1 + q.loans.len()).sum())
    }
}

impl State {
    /// How many segments are free.
    fn free(&self) -> usize {
        self.blank.len() + self.holding.len()
    }

    /// A free segment for `key`: one that holds its file, else a blank one, else the one whose file was not asked for the
    /// longest.
    fn take(&mut self, key: &[u8]) -> Option<Free> {
        let of_key = self.holding.iter().enumerate().filter(|(_, (_, held))| *held.key == *key);
        if let Some((at, _)) = of_key.max_by_key(|(_, (_, held))| held.confirmed) {
            return self.holding.remove(at).map(|(consumer, held)| (consumer, Some(held)));
        }
        self.take_other().map(|consumer| (consumer, None))
    }

    fn take_other(&mut self) -> Option<Consumer> {
        self.take_blank().or_else(|| Some(self.holding.pop_front()?.0))
    }

    fn take_blank(&mut self) -> Option<Consumer> {
        Some(self.blank.pop_first()?.1)
    }

    /// Takes segments back that hold no file.
    fn keep(&mut self, segments: impl IntoIterator<Item = Consumer>) {
        self.blank.extend(segments.into_iter().map(|consumer| (consumer.lead(), consumer)));
    }

    /// Takes a segment back that holds a file.
    fn hold(&mut self, consumer: Consumer, held: Held) {
        if self.holding.len() == MOST_HOLDING
            && let Some((oldest, _)) = self.holding.pop_front()
        {
            self.keep([oldest]);
        }
        self.holding.push_back((consumer, held));
    }

    /// Frees the quarantined segments whose lease has ended meanwhile.
    fn reap(&mut self, area: &impl Area) -> Result<(), Violation> {
        let mut i = 0;
        while i < self.quarantine.len() {
            let consumer = &mut self.quarantine[i].consumer;
            let control = area.control(consumer.lead());
            if consumer.drain(control, area.segment_size())? {
                let Quarantined { consumer, loans } = self.quarantine.swap_remove(i);
                self.keep(loans.into_iter().chain([consumer]));
            } else {
                i += 1;
            }
        }
        Ok(())
    }

    /// While there is a quarantine somebody who waits must look after it: the first in the queue. To be called when the
    /// quarantine gets its first entry, and when the first in the queue leaves.
    fn call_reaper(&self) {
        if !self.quarantine.is_empty()
            && let Some(seat) = self.queue.front()
        {
            seat.called.notify_one();
        }
    }

    /// Gives free segments to those who wait.
    fn serve_queue(&mut self) {
        while self.free() > 0
            && let Some(seat) = self.queue.pop_front()
        {
            // The one used last, as a rule the only one: perhaps with the very file.
            let holding = self.holding.pop_back().map(|(consumer, held)| (consumer, Some(held)));
            *seat.given.lock() = holding.or_else(|| Some((self.take_blank()?, None)));
            seat.called.notify_one();
        }
    }
}
