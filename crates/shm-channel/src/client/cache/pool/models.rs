//! Loom models of the pool: segments change hands, come back from quarantine, and nobody who waits is forgotten. As in
//! `ring::models`, a wait for the deadline has no end, so whoever is forgotten is a deadlock.

use std::array::from_fn;

use loom::sync::atomic::AtomicU32;
use loom::thread;

use super::*;
use crate::client::cache::extent::RequestStamp;
use crate::memory::layout::{Control, Kind, Validator};
use crate::memory::ring::{Producer, Run};
use crate::memory::sync::{futex, let_time_pass};

const SEGMENTS: usize = 2;
const FIRST: u32 = u32::MAX - 1;
const KEY: &[u8] = b"/key";

/// Control words, and for each segment who has it.
struct Shared {
    controls: [Control; SEGMENTS],
    owners: [AtomicU32; SEGMENTS],
    pool: Pool,
}

impl Area for Shared {
    fn control(&self, segment: u16) -> &Control {
        &self.controls[usize::from(segment)]
    }

    fn segment_size(&self) -> u32 {
        1000
    }
}

impl Shared {
    fn owner(&self, consumer: &Consumer) -> &AtomicU32 {
        &self.owners[usize::from(consumer.head())]
    }

    /// Takes a segment, which must be nobody's, and gives it back.
    fn take_and_give_back(&self) {
        let (consumer, _) = self.pool.acquire(self, Some(KEY), far()).unwrap();
        assert_eq!(self.owner(&consumer).swap(1, Ordering::Relaxed), 0, "two owners");
        self.owner(&consumer).store(0, Ordering::Relaxed);
        self.pool.give_back([consumer]);
    }

    /// Gives a stream up and leaves its segment in quarantine until the daemon's end is seen.
    fn cancel(&self, mut consumer: Consumer) {
        assert_eq!(consumer.cancel(self.control(consumer.head()), self.segment_size()), Ok(false));
        self.pool.quarantine(consumer, Vec::new());
    }

    /// The daemon's answer to a cancelled stream.
    fn end_cancelled(&self, sequence: u32) {
        let no_data = Run { first: 0, count: 1, len: 0 };
        Producer::new(&self.controls[0], 0, sequence).publish(no_data, self.segment_size(), Kind::Cancelled);
        let _state = self.pool.state.lock();
        let_time_pass();
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(1000)
}

fn model(segments: usize, body: impl Fn(Arc<Shared>) + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || {
        futex::set_up();
        let consumers = (0..segments).map(|head| Consumer::new(head as u16, FIRST)).collect();
        let pool = Pool::new(consumers);
        body(Arc::new(Shared {
            controls: from_fn(|_| Control::new(FIRST)),
            owners: from_fn(|_| AtomicU32::new(0)),
            pool,
        }));
    });
}

fn spawn(shared: &Arc<Shared>, body: impl FnOnce(&Shared) + 'static) -> thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || body(&shared))
}

#[test]
fn a_segment_has_one_owner_and_everybody_gets_one() {
    model(1, |shared| {
        let others = [(); 2].map(|()| spawn(&shared, Shared::take_and_give_back));
        shared.take_and_give_back();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(shared.pool.counts(&*shared), (1, 0));
    });
}

#[test]
fn loans_leave_one_for_whoever_comes_next() {
    model(2, |shared| {
        let other = spawn(&shared, Shared::take_and_give_back);
        let grants = shared.pool.borrow(&*shared, SEGMENTS).unwrap();
        assert!(grants.len() < SEGMENTS);
        shared.pool.give_back(grants);
        other.join().unwrap();
        assert_eq!(shared.pool.counts(&*shared), (2, 0));
    });
}

/// In the future, so that it is new however long the model takes.
fn extent() -> Option<Extent> {
    Some(Extent::after(None, KEY, Validator::default(), 0, 0, RequestStamp { at: far(), generation: 0 }))
}

fn lookup() -> Lookup<'static> {
    Lookup::First { key: KEY, asked: RequestStamp { at: Instant::now(), generation: 0 } }
}

#[test]
fn a_segment_that_holds_a_file_is_one_of_all() {
    model(2, |shared| {
        let others = [(); 2].map(|()| {
            spawn(&shared, |shared| {
                let (consumer, _) = shared.pool.acquire(shared, Some(KEY), far()).unwrap();
                assert_eq!(shared.owner(&consumer).swap(1, Ordering::Relaxed), 0, "two owners");
                shared.owner(&consumer).store(0, Ordering::Relaxed);
                shared.pool.give_back_cached([(consumer, extent())], None);
            })
        });
        let grants = shared.pool.borrow(&*shared, SEGMENTS).unwrap();
        shared.pool.give_back(grants);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(shared.pool.counts(&*shared), (2, 0));
    });
}

#[test]
fn a_segment_is_overwritten_once_its_last_reader_has_left_and_reaches_who_waits() {
    model(1, |shared| {
        let (consumer, _) = shared.pool.acquire(&*shared, None, far()).unwrap();
        let owner = u32::from(consumer.head());
        let view = shared.pool.give_back_cached([(consumer, extent())], Some(&lookup())).unwrap();
        assert_eq!(u32::from(view.segment), owner);
        let reader = spawn(&shared, |shared| {
            if let Some(view) = shared.pool.attach(&lookup()) {
                assert_eq!(shared.owners[0].load(Ordering::Relaxed), 0, "a reader of a segment that is overwritten");
                shared.pool.detach(view);
            }
        });
        let writer = spawn(&shared, Shared::take_and_give_back);
        assert_eq!(shared.owners[0].load(Ordering::Relaxed), 0, "overwritten before its reader has left");
        shared.pool.detach(view);
        reader.join().unwrap();
        writer.join().unwrap();
        assert_eq!(shared.pool.counts(&*shared), (1, 0));
    });
}

#[test]
fn a_segment_in_quarantine_reaches_all_who_wait() {
    model(1, |shared| {
        let (mut consumer, _) = shared.pool.acquire(&*shared, Some(KEY), far()).unwrap();
        let sequence = consumer.begin(&shared.controls[0]);
        let others = [(); 2].map(|()| spawn(&shared, Shared::take_and_give_back));
        shared.cancel(consumer);
        shared.end_cancelled(sequence);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(shared.pool.counts(&*shared), (1, 0));
    });
}

#[test]
fn a_served_waiter_passes_the_quarantine_on() {
    model(2, |shared| {
        let (mut zero, _) = shared.pool.acquire(&*shared, Some(KEY), far()).unwrap();
        let (one, _) = shared.pool.acquire(&*shared, Some(KEY), far()).unwrap();
        assert_eq!((zero.head(), one.head()), (0, 1));
        let sequence = zero.begin(&shared.controls[0]);
        // Two wait; whoever is first gets segment 1 and keeps it. The other must find segment 0.
        let keepers =
            [(); 2].map(|()| spawn(&shared, |shared| drop(shared.pool.acquire(shared, Some(KEY), far()).unwrap())));
        shared.cancel(zero);
        shared.pool.give_back([one]);
        shared.end_cancelled(sequence);
        keepers.into_iter().for_each(|keeper| keeper.join().unwrap());
    });
}

#[test]
fn the_end_of_the_session_sends_everybody_away() {
    model(1, |shared| {
        let (consumer, _) = shared.pool.acquire(&*shared, Some(KEY), far()).unwrap();
        let others = [(); 2].map(|()| {
            spawn(&shared, |shared| {
                assert_eq!(shared.pool.acquire(shared, Some(KEY), far()).err(), Some(NoSegment::Closed))
            })
        });
        shared.pool.close();
        others.into_iter().for_each(|other| other.join().unwrap());
        drop(consumer);
    });
}
