//! The segments of one session, handed out in the order of asking.

#[cfg(all(test, loom))]
mod models;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::channel::ring::{Area, Consumer, Violation};
use crate::channel::sync::{AtomicU32, Condvar, Mutex, Ordering};

/// How often a waiter looks whether quarantined segments are free again.
const REAP: Duration = Duration::from_millis(5);

/// The segments of a lease that was given up before its end was seen. The daemon may still write into them.
#[derive(Debug)]
struct Quarantined {
    consumer: Consumer,
    loans: Vec<Consumer>,
}

/// One thread's place in the queue.
#[derive(Debug, Default)]
struct Seat {
    given: Mutex<Option<Consumer>>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Last in, first out: the segment used last is the one in the processor's cache.
    free: Vec<Consumer>,
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
        let state = State { free: segments, ..State::default() };
        Self { size, state: Mutex::new(state), waiting: AtomicU32::new(0) }
    }

    /// A segment, after everybody who asked before.
    pub(crate) fn acquire(&self, area: &impl Area, deadline: Instant) -> Result<Consumer, NoSegment> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(NoSegment::Closed);
        }
        if state.queue.is_empty() {
            state.reap(area).map_err(NoSegment::Violation)?;
            if let Some(consumer) = state.free.pop() {
                return Ok(consumer);
            }
        }
        let seat = Arc::new(Seat::default());
        state.queue.push_back(Arc::clone(&seat));
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let outcome = loop {
            let until = if state.quarantine.is_empty() { deadline } else { deadline.min(Instant::now() + REAP) };
            seat.called.wait_until(&mut state, until);
            if let Some(consumer) = seat.given.lock().take() {
                break Ok(consumer);
            }
            if state.closed {
                break Err(NoSegment::Closed);
            }
            if let Err(violation) = state.reap(area) {
                break Err(NoSegment::Violation(violation));
            }
            state.serve_queue();
            if let Some(consumer) = seat.given.lock().take() {
                break Ok(consumer);
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
        self.state.lock().free.len() + count == self.size
    }

    /// Up to `most` segments to lend to a transfer, if nobody waits; one stays free for whoever comes next.
    pub(crate) fn borrow(&self, area: &impl Area, most: usize) -> Result<Vec<Consumer>, Violation> {
        let mut state = self.state.lock();
        if !state.queue.is_empty() || state.closed {
            return Ok(Vec::new());
        }
        // Those of the transfer that streamed before, as a rule.
        if state.free.len() <= most {
            state.reap(area)?;
        }
        let keep = state.free.len().saturating_sub(most).max(1).min(state.free.len());
        Ok(state.free.split_off(keep))
    }

    /// Takes segments back whose lease has ended.
    pub(crate) fn give_back(&self, segments: impl IntoIterator<Item = Consumer>) {
        let mut state = self.state.lock();
        state.free.extend(segments);
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
        (state.free.len(), state.quarantine.iter().map(|q| 1 + q.loans.len()).sum())
    }
}

impl State {
    /// Frees the quarantined segments whose lease has ended meanwhile.
    fn reap(&mut self, area: &impl Area) -> Result<(), Violation> {
        let mut i = 0;
        while i < self.quarantine.len() {
            let consumer = &mut self.quarantine[i].consumer;
            let control = area.control(consumer.lead());
            if consumer.drain(control, area.segment_size())? {
                let Quarantined { consumer, loans } = self.quarantine.swap_remove(i);
                self.free.push(consumer);
                self.free.extend(loans);
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
        while !self.free.is_empty()
            && let Some(seat) = self.queue.pop_front()
        {
            *seat.given.lock() = self.free.pop();
            seat.called.notify_one();
        }
    }
}
