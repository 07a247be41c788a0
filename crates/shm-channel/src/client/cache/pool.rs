//! The segments of one session, handed out in the order of asking.

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::cache::extent::{Extent, ExtentView, Lookup};
use crate::memory::ring::{Area, Consumer, Violation};
use crate::memory::sync::{AtomicU32, Condvar, Mutex, Ordering};

/// How often a waiter looks whether quarantined segments are free again.
const REAP_INTERVAL: Duration = Duration::from_millis(5);

/// Free segments that hold something are remembered up to this number: one look goes through all of them.
const MAX_CACHED_SEGMENTS: usize = 256;

/// While a transfer waits for a segment, at most this many others may become readers of segments, until the first in
/// the queue has its segment.
const MAX_BARGED: u32 = 64;

/// A segment that holds something. It is free while it has no readers; none of them may change it.
#[derive(Debug)]
struct CachedSegment {
    consumer: Consumer,
    extent: Extent,
    readers: u32,
}

/// A segment that is free, and what it holds.
type Free = (Consumer, Option<Extent>);

/// The segments of a stream that was given up before its end was seen. The daemon may still write into them.
#[derive(Debug)]
struct Quarantined {
    consumer: Consumer,
    grants: Vec<Consumer>,
}

/// One thread's place in the queue.
#[derive(Debug, Default)]
struct Waiter {
    given: Mutex<Option<Free>>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Free segments that hold no file, by index. The lowest go first: so the same ones are used again, which are in
    /// the processor's cache, and those of a transfer are neighbours, which are filled and sent together.
    blank: BTreeMap<u16, Consumer>,
    cached: Vec<CachedSegment>,
    /// How many of those have readers.
    being_read: usize,
    queue: VecDeque<Arc<Waiter>>,
    /// How many became readers since the first in the queue came first.
    barged: u32,
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
        state.put_blank(segments);
        Self { size, state: Mutex::new(state), waiting: AtomicU32::new(0) }
    }

    /// A segment, in the order of asking. It comes with its extent, if that is the beginning of the file behind `key`.
    pub(crate) fn acquire(&self, area: &impl Area, key: Option<&[u8]>, deadline: Instant) -> Result<Free, NoSegment> {
        let (consumer, extent) = self.acquire_any(area, key, deadline)?;
        Ok((consumer, extent.filter(|extent| key.is_some_and(|key| extent.begins(key)))))
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
        let waiter = Arc::new(Waiter::default());
        state.queue.push_back(Arc::clone(&waiter));
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let outcome = loop {
            let until =
                if state.quarantine.is_empty() { deadline } else { deadline.min(Instant::now() + REAP_INTERVAL) };
            waiter.called.wait_until(&mut state, until);
            if let Some(free) = waiter.given.lock().take() {
                break Ok(free);
            }
            if state.closed {
                break Err(NoSegment::Closed);
            }
            if let Err(violation) = state.reap(area) {
                break Err(NoSegment::Violation(violation));
            }
            state.serve_queue();
            if let Some(free) = waiter.given.lock().take() {
                break Ok(free);
            }
            if Instant::now() >= deadline {
                break Err(NoSegment::TimedOut);
            }
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if outcome.is_err() {
            if state.queue.front().is_some_and(|first| Arc::ptr_eq(first, &waiter)) {
                state.barged = 0;
            }
            state.queue.retain(|other| !Arc::ptr_eq(other, &waiter));
        }
        state.wake_first();
        outcome
    }

    /// Whether exactly this many segments are not here.
    pub(crate) fn has_lent_out(&self, count: usize) -> bool {
        self.state.lock().free() + count == self.size
    }

    /// Up to `most` segments to grant to a transfer, if nobody waits. One stays free for the next transfer.
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

    /// Takes segments back whose stream has ended.
    pub(crate) fn give_back(&self, segments: impl IntoIterator<Item = Consumer>) {
        let mut state = self.state.lock();
        state.put_blank(segments);
        state.serve_queue();
    }

    /// Takes the segments of an ended stream back, with their extents. The caller becomes a reader of the extent that
    /// it wants, if one is there.
    pub(crate) fn give_back_cached(
        &self,
        segments: impl IntoIterator<Item = (Consumer, Option<Extent>)>,
        lookup: Option<&Lookup<'_>>,
    ) -> Option<ExtentView> {
        let mut state = self.state.lock();
        for (consumer, extent) in segments {
            match extent {
                Some(extent) => state.put_extent(consumer, extent),
                None => state.put_blank([consumer]),
            }
        }
        let view = lookup.and_then(|lookup| state.attach(lookup));
        state.serve_queue();
        view
    }

    /// Makes the caller a reader of a segment with the bytes that it wants, if one holds them.
    pub(crate) fn attach(&self, lookup: &Lookup<'_>) -> Option<ExtentView> {
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            return state.attach(lookup);
        }
        // Else segments with many readers might never be free.
        if state.barged == MAX_BARGED {
            return None;
        }
        let view = state.attach(lookup);
        state.barged += u32::from(view.is_some());
        view
    }

    /// Ends what [`Self::attach`] began.
    pub(crate) fn detach(&self, view: ExtentView) {
        let mut state = self.state.lock();
        let cached = state.cached.iter_mut().find(|cached| cached.consumer.head() == view.segment);
        let cached = cached.expect("it has a reader");
        cached.readers -= 1;
        if cached.readers == 0 {
            state.being_read -= 1;
            state.serve_queue();
        }
    }

    /// Takes segments of a cancelled stream, which are free once the daemon has published its end.
    pub(crate) fn quarantine(&self, consumer: Consumer, grants: Vec<Consumer>) {
        let mut state = self.state.lock();
        state.quarantine.push(Quarantined { consumer, grants });
        state.wake_first();
    }

    /// How many threads wait for a segment.
    pub(crate) fn waiters(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Sends all waiters away: the session has ended.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for waiter in state.queue.drain(..) {
            waiter.called.notify_one();
        }
    }

    /// Segments that are free now, and those in quarantine.
    pub(crate) fn counts(&self, area: &impl Area) -> (usize, usize) {
        let mut state = self.state.lock();
        // A violation shows again to the next transfer that wants a segment.
        let _ = state.reap(area);
        state.serve_queue();
        (state.free(), state.quarantine.iter().map(|q| 1 + q.grants.len()).sum())
    }
}

impl State {
    /// How many segments are free.
    fn free(&self) -> usize {
        self.blank.len() + self.cached.len() - self.being_read
    }

    /// A free segment for `key`: one that holds the beginning of its file, otherwise a blank one, otherwise the one
    /// that was read first.
    fn take(&mut self, key: Option<&[u8]>) -> Option<Free> {
        let begins = |extent: &Extent| key.is_some_and(|key| extent.begins(key));
        let newest = self.unread().filter(|(_, extent)| begins(extent)).max_by_key(|(_, extent)| extent.confirmed);
        if let Some((at, _)) = newest {
            return Some(self.take_holding(at));
        }
        self.take_other().map(|consumer| (consumer, None))
    }

    /// The free ones among the segments that hold something.
    fn unread(&self) -> impl Iterator<Item = (usize, &Extent)> {
        let unread = self.cached.iter().enumerate().filter(|(_, cached)| cached.readers == 0);
        unread.map(|(at, cached)| (at, &cached.extent))
    }

    fn take_holding(&mut self, at: usize) -> Free {
        let CachedSegment { consumer, extent, .. } = self.cached.swap_remove(at);
        (consumer, Some(extent))
    }

    /// The segment whose content is of the least use. First choice: one that was read too long ago, which is more
    /// likely in the processor's cache than a blank one. Then a blank one, then the one that was read first.
    fn take_other(&mut self) -> Option<Consumer> {
        let now = Instant::now();
        if self.oldest().is_some_and(|(_, extent)| !extent.is_worth_an_offer(now)) {
            return self.take_oldest();
        }
        self.take_blank().or_else(|| self.take_oldest())
    }

    fn take_oldest(&mut self) -> Option<Consumer> {
        let (at, _) = self.oldest()?;
        Some(self.take_holding(at).0)
    }

    fn oldest(&self) -> Option<(usize, &Extent)> {
        self.unread().min_by_key(|(_, extent)| extent.read)
    }

    /// The newest of what is wanted, unless that is too old.
    fn attach(&mut self, lookup: &Lookup<'_>) -> Option<ExtentView> {
        let of_wanted = self.cached.iter_mut().filter(|cached| lookup.are_in(&cached.extent));
        let CachedSegment { consumer, extent, readers } = of_wanted.max_by_key(|cached| cached.extent.confirmed)?;
        if !lookup.accept(extent) {
            return None;
        }
        self.being_read += usize::from(*readers == 0);
        *readers += 1;
        Some(ExtentView { segment: consumer.head(), file: extent.file, at: extent.at, len: extent.len })
    }

    fn take_blank(&mut self) -> Option<Consumer> {
        Some(self.blank.pop_first()?.1)
    }

    /// Takes segments back that hold no file.
    fn put_blank(&mut self, segments: impl IntoIterator<Item = Consumer>) {
        self.blank.extend(segments.into_iter().map(|consumer| (consumer.head(), consumer)));
    }

    /// Takes a segment back that holds something.
    fn put_extent(&mut self, consumer: Consumer, extent: Extent) {
        if self.cached.len() - self.being_read >= MAX_CACHED_SEGMENTS {
            let forgotten = self.take_oldest();
            self.put_blank(forgotten);
        }
        self.cached.push(CachedSegment { consumer, extent, readers: 0 });
    }

    /// Frees the quarantined segments whose stream has ended meanwhile.
    fn reap(&mut self, area: &impl Area) -> Result<(), Violation> {
        let mut i = 0;
        while i < self.quarantine.len() {
            let consumer = &mut self.quarantine[i].consumer;
            let control = area.control(consumer.head());
            if consumer.drain(control, area.segment_size())? {
                let Quarantined { consumer, grants } = self.quarantine.swap_remove(i);
                self.put_blank(grants.into_iter().chain([consumer]));
            } else {
                i += 1;
            }
        }
        Ok(())
    }

    /// Wakes the first in the queue, which looks after the quarantine while there is one. To be called when the
    /// quarantine gets its first entry, and when the first in the queue leaves.
    fn wake_first(&self) {
        if !self.quarantine.is_empty()
            && let Some(waiter) = self.queue.front()
        {
            waiter.called.notify_one();
        }
    }

    /// Gives free segments to those who wait.
    fn serve_queue(&mut self) {
        while self.free() > 0
            && let Some(waiter) = self.queue.pop_front()
        {
            // The segment used last, usually the only free one. It may hold the wanted file.
            let newest = self.unread().max_by_key(|(_, extent)| extent.confirmed).map(|(at, _)| at);
            let free = match newest {
                Some(at) => Some(self.take_holding(at)),
                None => self.take_blank().map(|consumer| (consumer, None)),
            };
            *waiter.given.lock() = free;
            self.barged = 0;
            waiter.called.notify_one();
        }
    }
}
