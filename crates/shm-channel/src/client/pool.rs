//! The segments of one session, handed out in the order of asking.

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::held::{Held, Part, Wanted};
use crate::ring::{Area, Consumer, Violation};
use crate::sync::{AtomicU32, Condvar, Mutex, Ordering};

/// How often a waiter looks whether quarantined segments are free again.
const REAP: Duration = Duration::from_millis(5);

/// Free segments that hold something are remembered up to this number: one look goes through all of them.
const MOST_HOLDING: usize = 256;

/// So many transfers may become readers of segments while somebody waits for one, until each has its segment.
const MOST_OVERTAKE: u32 = 64;

/// A segment that holds something. It is free while it has no readers; none of them may change it.
#[derive(Debug)]
struct Holding {
    consumer: Consumer,
    held: Held,
    readers: u32,
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
    holding: Vec<Holding>,
    /// How many of those have readers.
    being_read: usize,
    queue: VecDeque<Arc<Seat>>,
    /// How many became readers since the first in the queue is that.
    overtook: u32,
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

    /// A segment, after everybody who asked before; with what it holds, if that is what the file behind `key` begins with.
    pub(crate) fn acquire(&self, area: &impl Area, key: Option<&[u8]>, deadline: Instant) -> Result<Free, NoSegment> {
        let (consumer, held) = self.acquire_any(area, key, deadline)?;
        Ok((consumer, held.filter(|held| key.is_some_and(|key| held.begins(key)))))
    }

    fn acquire_any(&self, area: &impl Area, key: Option<&[u8]>, deadline: Instant) -> Result<Free, NoSegment> {
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
            if state.queue.front().is_some_and(|first| Arc::ptr_eq(first, &seat)) {
                state.overtook = 0;
            }
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

    /// Takes the segments of a lease that has ended back, with what they hold. The caller becomes a reader of what it
    /// wants, if that is there.
    pub(crate) fn give_back_holding(
        &self,
        segments: impl IntoIterator<Item = (Consumer, Option<Held>)>,
        wanted: Option<&Wanted<'_>>,
    ) -> Option<Part> {
        let mut state = self.state.lock();
        for (consumer, held) in segments {
            match held {
                Some(held) => state.hold(consumer, held),
                None => state.keep([consumer]),
            }
        }
        let part = wanted.and_then(|wanted| state.attach(wanted));
        state.serve_queue();
        part
    }

    /// Makes the caller a reader of a segment with the bytes that it wants, if one holds them.
    pub(crate) fn attach(&self, wanted: &Wanted<'_>) -> Option<Part> {
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            return state.attach(wanted);
        }
        // Else segments with many readers might never be free.
        if state.overtook == MOST_OVERTAKE {
            return None;
        }
        let part = state.attach(wanted);
        state.overtook += u32::from(part.is_some());
        part
    }

    /// Ends what [`Self::attach`] began.
    pub(crate) fn detach(&self, part: Part) {
        let mut state = self.state.lock();
        let holding = state.holding.iter_mut().find(|holding| holding.consumer.lead() == part.segment);
        let holding = holding.expect("it has a reader");
        holding.readers -= 1;
        if holding.readers == 0 {
            state.being_read -= 1;
            state.serve_queue();
        }
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
        self.blank.len() + self.holding.len() - self.being_read
    }

    /// A free segment for `key`: one that holds the begin of its file, else a blank one, else the one that was read first.
    fn take(&mut self, key: Option<&[u8]>) -> Option<Free> {
        let begins = |held: &Held| key.is_some_and(|key| held.begins(key));
        let newest = self.unread().filter(|(_, held)| begins(held)).max_by_key(|(_, held)| held.confirmed);
        if let Some((at, _)) = newest {
            return Some(self.take_holding(at));
        }
        self.take_other().map(|consumer| (consumer, None))
    }

    /// The free ones among the segments that hold something.
    fn unread(&self) -> impl Iterator<Item = (usize, &Held)> {
        let unread = self.holding.iter().enumerate().filter(|(_, holding)| holding.readers == 0);
        unread.map(|(at, holding)| (at, &holding.held))
    }

    fn take_holding(&mut self, at: usize) -> Free {
        let Holding { consumer, held, .. } = self.holding.swap_remove(at);
        (consumer, Some(held))
    }

    /// The segment whose content is of the least use: one that was read too long ago, since it is in the processor's cache
    /// sooner than a blank one; then a blank one; then the one that was read first.
    fn take_other(&mut self) -> Option<Consumer> {
        let now = Instant::now();
        if self.oldest().is_some_and(|(_, held)| !held.is_worth_an_offer(now)) {
            return self.take_oldest();
        }
        self.take_blank().or_else(|| self.take_oldest())
    }

    fn take_oldest(&mut self) -> Option<Consumer> {
        let (at, _) = self.oldest()?;
        Some(self.take_holding(at).0)
    }

    fn oldest(&self) -> Option<(usize, &Held)> {
        self.unread().min_by_key(|(_, held)| held.read)
    }

    /// The newest of what is wanted, unless that is too old.
    fn attach(&mut self, wanted: &Wanted<'_>) -> Option<Part> {
        let of_wanted = self.holding.iter_mut().filter(|holding| wanted.are_in(&holding.held));
        let Holding { consumer, held, readers } = of_wanted.max_by_key(|holding| holding.held.confirmed)?;
        if !wanted.accept(held) {
            return None;
        }
        self.being_read += usize::from(*readers == 0);
        *readers += 1;
        Some(Part { segment: consumer.lead(), file: held.file, at: held.at, len: held.len })
    }

    fn take_blank(&mut self) -> Option<Consumer> {
        Some(self.blank.pop_first()?.1)
    }

    /// Takes segments back that hold no file.
    fn keep(&mut self, segments: impl IntoIterator<Item = Consumer>) {
        self.blank.extend(segments.into_iter().map(|consumer| (consumer.lead(), consumer)));
    }

    /// Takes a segment back that holds something.
    fn hold(&mut self, consumer: Consumer, held: Held) {
        if self.holding.len() - self.being_read >= MOST_HOLDING {
            let forgotten = self.take_oldest();
            self.keep(forgotten);
        }
        self.holding.push(Holding { consumer, held, readers: 0 });
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
            let newest = self.unread().max_by_key(|(_, held)| held.confirmed).map(|(at, _)| at);
            let free = match newest {
                Some(at) => Some(self.take_holding(at)),
                None => self.take_blank().map(|consumer| (consumer, None)),
            };
            *seat.given.lock() = free;
            self.overtook = 0;
            seat.called.notify_one();
        }
    }
}
