//! The hand-off of chunks through one segment's control words: one producer, one consumer, a ring of segments.
//!
//! A *stream* is one answer of the daemon: it begins with a request, carries any number of chunks, and ends with
//! exactly one chunk whose kind ends it. The ring begins with the segment that the request names (the head); the
//! consumer may grant further segments while the stream runs and take them back one by one. Chunk k has
//! descriptor k mod 8.
//!
//! SYNC POINTS
//! - chunk: the producer writes data, file words and descriptor, then stores `produced` (Release); the consumer loads
//!   `produced` (Acquire), then reads them.
//! - release: the consumer is done with the data and writes `reclaimed`, then stores `consumed` (Release); the producer
//!   loads `consumed` (Acquire), then writes the segment again.
//! - grant: the consumer writes `granted[i]`, then stores `granted_count` (Release); the producer loads it (Acquire).
//! - sleep: the sleeper stores `sleeping` = 1, a SeqCst fence, checks its condition again, then sleeps only if the word
//!   has not moved; the other side stores its word, a SeqCst fence, then wakes only if `sleeping` is 1. One of the two
//!   sees the other. Only the sleeper clears `sleeping`: a late clear by the waker could hide a sleep that began since.
//!
//! Cursors are private. A peer's word is believed only as far as it can be true, else it is a [`Violation`].

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod properties;

use std::ops::Range;
use std::time::Duration;

use crate::memory::backoff;
use crate::memory::layout::{Control, DESCRIPTORS, Descriptor, Kind, MAX_RING, Validator};
use crate::memory::sync::{AtomicU32, Ordering, fence, futex};

/// The peer wrote what no honest peer writes. It names the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer broke the protocol: {0}")]
pub(crate) struct Violation(pub(crate) &'static str);

/// Where the control words are.
pub(crate) trait Area {
    /// The control words of a segment of this area.
    fn control(&self, segment: u16) -> &Control;
    /// The bytes of each segment.
    fn segment_size(&self) -> u32;
}

/// Neighbouring segments that are filled, sent and released together: their bytes follow each other in memory. All are
/// full but the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u16,
    pub(crate) count: u16,
    /// The bytes of all.
    pub(crate) len: u32,
}

/// The most bytes of a run of several segments: enough to make the two system calls cheap beside what they move, and
/// little enough for the two sides to work at the same time.
pub(crate) const MAX_RUN_BYTES: u32 = 32 << 10;

/// Segments below this size are filled and sent faster than a thread falls asleep and wakes up.
pub(crate) const SMALL_SEGMENT: u32 = 64 << 10;

impl Run {
    pub(crate) fn segments(self) -> Range<u16> {
        self.first..self.first + self.count
    }
}

/// A small set of segment indices; never more than a ring holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SegmentList {
    items: [u16; MAX_RING],
    len: usize,
}

impl SegmentList {
    pub(crate) fn push(&mut self, segment: u16) {
        self.items[self.len] = segment;
        self.len += 1;
    }

    pub(crate) fn as_slice(&self) -> &[u16] {
        &self.items[..self.len]
    }

    pub(crate) fn contains(&self, segment: u16) -> bool {
        self.as_slice().contains(&segment)
    }

    pub(crate) fn remove(&mut self, segment: u16) {
        if let Some(at) = self.as_slice().iter().position(|&s| s == segment) {
            self.len -= 1;
            self.items[at] = self.items[self.len];
        }
    }

    fn take(&mut self, segment: u16) -> Option<u16> {
        let is_there = self.contains(segment);
        self.remove(segment);
        is_there.then_some(segment)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

fn slot(sequence: u32) -> usize {
    sequence as usize % DESCRIPTORS
}

/// The daemon's side of one stream.
pub(crate) struct Producer<'c> {
    control: &'c Control,
    head: u16,
    produced: u32,
    consumed: u32,
    granted: u32,
    retains_all: bool,
    in_flight: [u16; DESCRIPTORS],
    /// Segments of the ring that hold no chunk.
    free: SegmentList,
    /// All segments of the ring.
    ring: SegmentList,
    /// Bytes published since the consumer was last woken, or seen awake.
    untold: u32,
}

/// The bytes for which a sleeping consumer is woken, since a wake costs more than a small chunk. It is woken for fewer
/// if the producer must wait itself. The number is small, since the client waits for these bytes.
const NOTIFY_BYTES: u32 = 32 << 10;

impl<'c> Producer<'c> {
    /// Begins a stream on the head segment; `sequence` is the request's.
    pub(crate) fn new(control: &'c Control, head: u16, sequence: u32) -> Self {
        let mut free = SegmentList::default();
        free.push(head);
        Self {
            control,
            head,
            produced: sequence,
            consumed: sequence,
            granted: 0,
            retains_all: control.consumer.retains.load(Ordering::Relaxed) != 0,
            in_flight: [head; DESCRIPTORS],
            free,
            ring: free,
            untold: 0,
        }
    }

    /// Takes in what the consumer released, granted and took back; `segments` is the number of segments of the area. A
    /// consumer that grants a segment which is in use elsewhere spoils its own data and nobody else's.
    pub(crate) fn poll(&mut self, segments: u32) -> Result<(), Violation> {
        let words = &self.control.consumer;
        // Before `consumed`: of a segment that was taken back and granted again, the first must not be missed.
        let granted = words.granted_count.load(Ordering::Acquire);
        let consumed = words.consumed.load(Ordering::Acquire);
        let released = consumed.wrapping_sub(self.consumed);
        if released > self.produced.wrapping_sub(self.consumed) {
            return Err(Violation("consumed"));
        }
        let reclaimed = words.reclaimed.load(Ordering::Relaxed);
        while self.consumed != consumed {
            let at = slot(self.consumed);
            let segment = self.in_flight[at];
            if segment != self.head && reclaimed & (1 << at) != 0 {
                self.ring.remove(segment);
            } else {
                self.free.push(segment);
            }
            self.consumed = self.consumed.wrapping_add(1);
        }
        if granted < self.granted || granted as usize > words.granted.len() {
            return Err(Violation("granted_count"));
        }
        while self.granted != granted {
            let segment = words.granted[self.granted as usize].load(Ordering::Relaxed);
            if self.ring.len() == MAX_RING || segment >= segments || self.ring.contains(segment as u16) {
                return Err(Violation("granted"));
            }
            let segment = segment as u16;
            self.ring.push(segment);
            self.free.push(segment);
            self.granted += 1;
        }
        Ok(())
    }

    /// A segment to fill, if one is free. In the order of the area, so that runs of neighbours come about.
    pub(crate) fn take_free(&mut self) -> Option<u16> {
        let first = self.free.as_slice().iter().copied().min()?;
        self.free.take(first)
    }

    /// The segment behind `segment`, if it is free.
    pub(crate) fn take_behind(&mut self, segment: u16) -> Option<u16> {
        self.free.take(segment.checked_add(1)?)
    }

    /// Whether the consumer wants no more.
    pub(crate) fn cancelled(&self) -> bool {
        self.control.consumer.cancelled.load(Ordering::Acquire) != 0
    }

    /// Whether the consumer releases nothing, so that there is nothing to wait for once no segment is free.
    pub(crate) fn retains_all(&self) -> bool {
        self.retains_all
    }

    /// Tells what the file is. To be called before the first chunk, unless there is no file.
    pub(crate) fn describe(&self, file: &Validator) {
        let words = &self.control.producer;
        words.file_len.store(file.len, Ordering::Relaxed);
        words.device.store(file.device, Ordering::Relaxed);
        words.inode.store(file.inode, Ordering::Relaxed);
        words.modified_ns.store(file.modified_ns, Ordering::Relaxed);
        words.changed_ns.store(file.changed_ns, Ordering::Relaxed);
    }

    /// Publishes a run, one chunk for each segment, and wakes the consumer if it sleeps and this is worth it. The
    /// segments are those of [`Self::take_free`] and [`Self::take_behind`], or the head with 0 bytes at an end without
    /// data. `kind` is the last chunk's.
    pub(crate) fn publish(&mut self, run: Run, segment_size: u32, kind: Kind) {
        let mut left = run.len;
        for segment in run.segments() {
            let at = slot(self.produced);
            let len = left.min(segment_size);
            left -= len;
            let kind = if left == 0 { kind } else { Kind::Data };
            self.in_flight[at] = segment;
            let descriptor = Descriptor { len, segment, kind };
            self.control.descriptors.chunk[at].store(descriptor.to_bits(), Ordering::Relaxed);
            self.produced = self.produced.wrapping_add(1);
        }
        self.control.producer.produced.store(self.produced, Ordering::Release);
        self.untold = self.untold.saturating_add(run.len);
        if self.untold >= NOTIFY_BYTES || self.free.is_empty() || kind.ends_stream() {
            self.wake_consumer();
        }
    }

    fn wake_consumer(&mut self) {
        self.untold = 0;
        fence(Ordering::SeqCst);
        if self.control.consumer.sleeping.load(Ordering::Relaxed) != 0 {
            futex::wake(&self.control.producer.produced);
        }
    }

    /// Waits until about half of the ring is released, the stream is cancelled, or `timeout` is over. Half, because
    /// each wake costs more than a small chunk. `yields`: not asleep at first.
    pub(crate) fn wait(&self, yields: bool, timeout: Duration) {
        let in_flight = self.produced.wrapping_sub(self.consumed);
        let notify_at = self.consumed.wrapping_add(in_flight.div_ceil(2));
        let (mine, theirs) = (&self.control.producer, &self.control.consumer);
        let is_over = || reached(theirs.consumed.load(Ordering::Relaxed), notify_at) || self.cancelled();
        if yields && backoff::until(is_over) {
            return;
        }
        mine.notify_at.store(notify_at, Ordering::Relaxed);
        mine.sleeping.store(1, Ordering::Release);
        fence(Ordering::SeqCst);
        let consumed = theirs.consumed.load(Ordering::Relaxed);
        if !reached(consumed, notify_at) && theirs.cancelled.load(Ordering::Relaxed) == 0 {
            futex::wait(&theirs.consumed, consumed, timeout);
        }
        mine.sleeping.store(0, Ordering::Relaxed);
    }
}

/// Wakes a producer that sleeps on this control block: its session has ended. Called in the producer's process.
pub(crate) fn wake_producer(control: &Control) {
    futex::wake(&control.consumer.consumed);
}

/// Ends all sleep of consumers on this control block: the session has ended. Called in the consumers' process. A mere
/// wake could come between a consumer's last look and its sleep, so this moves the word that it sleeps on. That is
/// safe: the area is not used again, and the new value is far from that of any published chunk.
pub(crate) fn dismiss_consumer(control: &Control) {
    let produced = &control.producer.produced;
    produced.store(produced.load(Ordering::Relaxed).wrapping_add(1 << 31), Ordering::Release);
    futex::wake(produced);
}

fn reached(value: u32, target: u32) -> bool {
    value.wrapping_sub(target) < u32::MAX / 2
}

/// A chunk as the consumer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) segment: u16,
    pub(crate) len: u32,
    pub(crate) kind: Kind,
}

impl Published {
    /// Whether this is a part of a file, and not only an end.
    pub(crate) fn has_data(&self) -> bool {
        self.len > 0 && matches!(self.kind, Kind::Data | Kind::End | Kind::Paused)
    }
}

impl From<Published> for Run {
    fn from(chunk: Published) -> Self {
        Self { first: chunk.segment, count: 1, len: chunk.len }
    }
}

/// The proxy's side of one segment: its place in the sequence survives from stream to stream.
#[derive(Debug)]
pub(crate) struct Consumer {
    head: u16,
    /// The chunk that comes next.
    next: u32,
    /// The value of `consumed`.
    released: u32,
    granted: u32,
    reclaimed: u32,
    /// All segments of the ring.
    ring: SegmentList,
}

impl Consumer {
    /// The side of a segment whose next chunk is `sequence`.
    pub(crate) fn new(head: u16, sequence: u32) -> Self {
        let mut ring = SegmentList::default();
        ring.push(head);
        Self { head, next: sequence, released: sequence, granted: 0, reclaimed: 0, ring }
    }

    /// Makes the words ready for a stream and returns the sequence that the request must carry. To be called only while
    /// no stream runs on this segment: the ring is the head alone again.
    pub(crate) fn begin(&mut self, control: &Control) -> u32 {
        *self = Self::new(self.head, self.next);
        let words = &control.consumer;
        words.granted_count.store(0, Ordering::Relaxed);
        words.reclaimed.store(0, Ordering::Relaxed);
        words.retains.store(0, Ordering::Relaxed);
        words.cancelled.store(0, Ordering::Relaxed);
        words.consumed.store(self.next, Ordering::Release);
        self.next
    }

    /// Tells the producer that nothing of the stream will be released. To be called before its request.
    pub(crate) fn retain_all(&self, control: &Control) {
        control.consumer.retains.store(1, Ordering::Relaxed);
    }

    /// The next chunk, if it is there. It stays the consumer's until [`Self::release`].
    pub(crate) fn poll(&mut self, control: &Control, segment_size: u32) -> Result<Option<Published>, Violation> {
        let produced = control.producer.produced.load(Ordering::Acquire);
        let ready = produced.wrapping_sub(self.next);
        if ready == 0 {
            return Ok(None);
        }
        if ready as usize > DESCRIPTORS {
            return Err(Violation("produced"));
        }
        let bits = control.descriptors.chunk[slot(self.next)].load(Ordering::Relaxed);
        let descriptor = Descriptor::from_bits(bits).ok_or(Violation("descriptor"))?;
        let Descriptor { len, segment, kind } = descriptor;
        if len > segment_size || !self.ring.contains(segment) || (kind == Kind::Data && len == 0) {
            return Err(Violation("descriptor"));
        }
        self.next = self.next.wrapping_add(1);
        Ok(Some(Published { segment, len, kind }))
    }

    /// The next chunk, if it is there and its data lie right behind those of `previous`.
    pub(crate) fn poll_behind(
        &mut self,
        control: &Control,
        segment_size: u32,
        previous: Published,
    ) -> Result<Option<Published>, Violation> {
        if previous.len != segment_size || previous.kind.ends_stream() {
            return Ok(None);
        }
        let next = self.next;
        let follows = |chunk: &Published| chunk.segment == previous.segment + 1 && chunk.has_data();
        let chunk = self.poll(control, segment_size)?.filter(follows);
        if chunk.is_none() {
            self.next = next;
        }
        Ok(chunk)
    }

    /// What the file is; valid once a chunk was polled.
    pub(crate) fn file(&self, control: &Control) -> Validator {
        let words = &control.producer;
        Validator {
            device: words.device.load(Ordering::Relaxed),
            inode: words.inode.load(Ordering::Relaxed),
            len: words.file_len.load(Ordering::Relaxed),
            modified_ns: words.modified_ns.load(Ordering::Relaxed),
            changed_ns: words.changed_ns.load(Ordering::Relaxed),
        }
    }

    /// Waits until a chunk is there, [`dismiss_consumer`] was called, or `timeout` is over; `yields`: not asleep at
    /// first.
    pub(crate) fn wait(&self, control: &Control, yields: bool, timeout: Duration) {
        let (mine, theirs) = (&control.consumer, &control.producer);
        let is_over = || theirs.produced.load(Ordering::Relaxed) != self.next;
        if yields && backoff::until(is_over) {
            return;
        }
        mine.sleeping.store(1, Ordering::Release);
        fence(Ordering::SeqCst);
        if theirs.produced.load(Ordering::Relaxed) == self.next {
            futex::wait(&theirs.produced, self.next, timeout);
        }
        mine.sleeping.store(0, Ordering::Relaxed);
    }

    /// Gives the segments of polled chunks back to the producer, except those to `reclaim` (never the head), and wakes
    /// the producer if it sleeps and has waited for this.
    pub(crate) fn release(&mut self, control: &Control, run: Run, mut reclaim: impl FnMut(u16) -> bool) {
        for segment in run.segments() {
            let bit = 1 << slot(self.released);
            if reclaim(segment) {
                self.ring.remove(segment);
                self.reclaimed |= bit;
            } else {
                self.reclaimed &= !bit;
            }
            self.released = self.released.wrapping_add(1);
        }
        control.consumer.reclaimed.store(self.reclaimed, Ordering::Relaxed);
        store_and_wake(control, &control.consumer.consumed, self.released);
    }

    /// Whether one more segment can be granted to this stream.
    pub(crate) fn can_grant(&self) -> bool {
        (self.granted as usize) < MAX_RING - 1 && self.ring.len() < MAX_RING
    }

    /// Adds a segment to the ring. [`Self::can_grant`] said yes.
    pub(crate) fn grant(&mut self, control: &Control, segment: u16) {
        control.consumer.granted[self.granted as usize].store(u32::from(segment), Ordering::Relaxed);
        self.granted += 1;
        self.ring.push(segment);
        control.consumer.granted_count.store(self.granted, Ordering::Release);
    }

    /// The next chunk, if the one that ends the stream is published.
    pub(crate) fn poll_ended(&mut self, control: &Control, segment_size: u32) -> Result<Option<Published>, Violation> {
        let produced = control.producer.produced.load(Ordering::Acquire);
        if produced == self.next {
            return Ok(None);
        }
        let last = control.descriptors.chunk[slot(produced.wrapping_sub(1))].load(Ordering::Relaxed);
        match Descriptor::from_bits(last) {
            Some(last) if last.kind.ends_stream() => self.poll(control, segment_size),
            _ => Ok(None),
        }
    }

    /// Asks the producer to end the stream and skips what it published. True once the stream's end was seen, as with
    /// [`Self::drain`].
    pub(crate) fn cancel(&mut self, control: &Control, segment_size: u32) -> Result<bool, Violation> {
        control.consumer.cancelled.store(1, Ordering::Release);
        // Pairs with the fence of `publish`: either the drain sees the producer's last chunk, so that `consumed` moves,
        // or the producer sees the cancellation before it sleeps.
        fence(Ordering::SeqCst);
        let ended = self.drain(control, segment_size)?;
        if !ended {
            // A producer that sleeps has all of its ring in flight, so this moves the word that it sleeps on.
            self.released = self.next;
            store_and_wake(control, &control.consumer.consumed, self.released);
        }
        Ok(ended)
    }

    /// Skips what a cancelled stream still publishes. True once its end was seen: its segments are the consumer's
    /// again.
    pub(crate) fn drain(&mut self, control: &Control, segment_size: u32) -> Result<bool, Violation> {
        while let Some(chunk) = self.poll(control, segment_size)? {
            if chunk.kind.ends_stream() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The segment that the stream was asked for.
    pub(crate) fn head(&self) -> u16 {
        self.head
    }
}

/// Moves `consumed`, then wakes the producer if it sleeps until this value or an earlier one, or must see a
/// cancellation.
fn store_and_wake(control: &Control, consumed: &AtomicU32, value: u32) {
    consumed.store(value, Ordering::Release);
    fence(Ordering::SeqCst);
    let producer = &control.producer;
    if producer.sleeping.load(Ordering::Acquire) != 0
        && (reached(value, producer.notify_at.load(Ordering::Relaxed))
            || control.consumer.cancelled.load(Ordering::Relaxed) != 0)
    {
        futex::wake(consumed);
    }
}
