//! What free segments hold, and which of them comes next.

use std::thread;

use super::*;
use crate::client::cache::extent::RequestStamp;
use crate::memory::layout::{Control, Validator};

const A: &[u8] = b"/a";
const B: &[u8] = b"/b";

/// No stream runs in these tests.
struct Nowhere;

impl Area for Nowhere {
    fn control(&self, _: u16) -> &Control {
        unreachable!("nothing is in quarantine")
    }

    fn segment_size(&self) -> u32 {
        1000
    }
}

fn pool(segments: u16) -> Pool {
    Pool::new((0..segments).map(|head| Consumer::new(head, 0)).collect())
}

fn file(inode: u64) -> Validator {
    Validator { inode, len: 2500, modified_ns: 1, ..Validator::default() }
}

fn asked(at: Instant) -> RequestStamp {
    RequestStamp { at, generation: 0 }
}

/// What a segment holds after the part `at` of a file was read, so long ago.
fn part(key: &[u8], inode: u64, at: u64, age: Duration) -> Option<Extent> {
    Some(Extent::after(None, key, file(inode), at, 1000, asked(Instant::now() - age)))
}

/// The same of the first part, just now.
fn extent(key: &[u8], inode: u64) -> Option<Extent> {
    part(key, inode, 0, Duration::ZERO)
}

fn give_back(pool: &Pool, consumer: Consumer, extent: Option<Extent>) {
    assert_eq!(pool.give_back_cached([(consumer, extent)], None), None);
}

fn first(key: &[u8]) -> Lookup<'_> {
    Lookup::First { key, asked: asked(Instant::now()) }
}

fn at(inode: u64, at: u64) -> Lookup<'static> {
    Lookup::At { file: file(inode), at, begun: Instant::now() }
}

/// The segment that comes next for `key`, and the file that it holds.
fn next(pool: &Pool, key: &[u8]) -> (Consumer, Option<Validator>) {
    let (consumer, extent) = pool.acquire(&Nowhere, Some(key), Instant::now()).expect("one is free");
    (consumer, extent.map(|extent| extent.file))
}

#[test]
fn the_one_with_the_file_comes_first_then_a_blank_one_then_the_one_that_was_read_first() {
    let pool = pool(4);
    let taken: Vec<_> = (0..3).map(|_| next(&pool, A).0).collect();
    let keys = [A, B, A];
    for (consumer, (key, inode)) in taken.into_iter().zip(keys.into_iter().zip([1, 2, 1])) {
        give_back(&pool, consumer, extent(key, inode));
    }
    let (consumer, found) = next(&pool, A);
    assert_eq!((consumer.head(), found), (2, Some(file(1))), "the newest with the file");
    let (other, found) = next(&pool, b"/none");
    assert_eq!((other.head(), found), (3, None), "the blank one");
    let (oldest, found) = next(&pool, b"/none");
    assert_eq!((oldest.head(), found), (0, None));
    let (last, found) = next(&pool, B);
    assert_eq!((last.head(), found), (1, Some(file(2))));
    pool.give_back([consumer, other, oldest, last]);
    assert_eq!(next(&pool, A).1, None, "a stream that was given back without a file has overwritten it");
}

#[test]
fn loans_are_blank_ones_first_and_one_stays() {
    let pool = pool(4);
    let (first, _) = next(&pool, A);
    let (second, _) = next(&pool, B);
    give_back(&pool, first, extent(A, 1));
    give_back(&pool, second, extent(B, 2));
    let grants = pool.borrow(&Nowhere, 3).expect("no violation");
    assert_eq!(grants.iter().map(Consumer::head).collect::<Vec<_>>(), [2, 3, 0]);
    assert!(pool.borrow(&Nowhere, 3).expect("no violation").is_empty(), "one stays free");
    assert_eq!(next(&pool, B).1, Some(file(2)));
}

#[test]
fn who_waited_learns_what_the_segment_holds_only_if_it_is_the_file() {
    for (key, expected) in [(A, Some(file(1))), (B, None)] {
        let pool = pool(1);
        let (consumer, _) = next(&pool, A);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.acquire(&Nowhere, Some(key), Instant::now() + Duration::from_secs(60)));
            while pool.waiters() == 0 {
                thread::yield_now();
            }
            give_back(&pool, consumer, extent(A, 1));
            let (_, extent) = waiter.join().expect("no panic").expect("one is free");
            assert_eq!(extent.map(|extent| extent.file), expected);
        });
    }
}

#[test]
fn only_so_many_are_remembered() {
    let pool = pool(MAX_CACHED_SEGMENTS as u16 + 1);
    let taken: Vec<_> = (0..=MAX_CACHED_SEGMENTS).map(|_| next(&pool, A).0).collect();
    for (at, consumer) in taken.into_iter().enumerate() {
        give_back(&pool, consumer, extent(&at.to_le_bytes(), 1));
    }
    let (forgotten, found) = next(&pool, &0_usize.to_le_bytes());
    assert_eq!((forgotten.head(), found), (0, None));
    assert_eq!(next(&pool, &1_usize.to_le_bytes()).1, Some(file(1)));
}

#[test]
fn what_is_held_ages_from_its_reading() {
    let read = Instant::now();
    let at = |ms| read + Duration::from_millis(ms);
    let extent = Extent::after(None, A, file(1), 0, 1000, asked(read));
    assert!(extent.is_worth_an_offer(at(99)) && !extent.is_worth_an_offer(at(100)));
    let confirmed = Extent::after(Some(extent), A, file(1), 0, 1000, RequestStamp { at: at(90), generation: 7 });
    assert!(!confirmed.is_worth_an_offer(at(100)), "saying that it is the same is not guard it again");
    let opens =
        |generation| Lookup::First { key: A, asked: RequestStamp { at: at(99), generation } }.accept(&confirmed);
    assert!(opens(7) && !opens(0));
    let changed = Extent::after(Some(confirmed), A, file(2), 0, 1000, asked(at(95)));
    assert!(changed.is_worth_an_offer(at(194)), "another state was read");
}

#[test]
fn those_who_want_the_same_read_in_the_same_segment() {
    let pool = pool(2);
    let (consumer, _) = next(&pool, A);
    give_back(&pool, consumer, extent(A, 1));
    let expected = ExtentView { segment: 0, file: file(1), at: 0, len: 1000 };
    assert_eq!(pool.attach(&first(A)), Some(expected));
    assert_eq!(pool.attach(&at(1, 999)), Some(expected));
    assert_eq!(pool.attach(&at(1, 1000)), None, "behind its end");
    assert_eq!(pool.attach(&first(B)), None);
    assert_eq!(pool.counts(&Nowhere), (1, 0));
    assert_eq!(next(&pool, A).0.head(), 1, "a segment with readers is not to be changed");
    pool.detach(expected);
    pool.acquire(&Nowhere, Some(A), Instant::now()).expect_err("one reader is left");
    pool.detach(expected);
    assert_eq!(next(&pool, A).0.head(), 0);
}

#[test]
fn a_stream_that_has_ended_leaves_all_its_parts_and_a_reader() {
    let pool = pool(4);
    let (head, _) = next(&pool, A);
    let grants = pool.borrow(&Nowhere, 2).expect("no violation");
    let views = [extent(A, 1), part(A, 1, 1000, Duration::ZERO), None];
    let segments = [head].into_iter().chain(grants).zip(views);
    let read = pool.give_back_cached(segments, Some(&at(1, 1000))).expect("it is there");
    assert_eq!((read.segment, read.at), (1, 1000));
    assert_eq!(pool.attach(&first(A)).map(|view| view.segment), Some(0));
    assert_eq!(pool.attach(&first(b"")), None, "only the first view has a key");
    assert_eq!(pool.counts(&Nowhere), (2, 0));
}

#[test]
fn a_transfer_goes_on_with_what_was_read_since_it_began_or_shortly_before() {
    let pool = pool(1);
    let (consumer, _) = next(&pool, A);
    give_back(&pool, consumer, part(A, 1, 0, Duration::from_millis(150)));
    assert_eq!(pool.attach(&at(1, 0)), None);
    assert_eq!(pool.attach(&first(A)), None);
    let begun = Instant::now() - Duration::from_millis(100);
    assert!(pool.attach(&Lookup::At { file: file(1), at: 0, begun }).is_some());
    assert_eq!(pool.attach(&Lookup::At { file: file(2), at: 0, begun }), None, "another state");
}

#[test]
fn what_is_too_old_is_overwritten_first() {
    let pool = pool(3);
    let taken: Vec<_> = (0..2).map(|_| next(&pool, A).0).collect();
    for (consumer, age) in taken.into_iter().zip([0, 1000]) {
        give_back(&pool, consumer, part(A, 1, 0, Duration::from_millis(age)));
    }
    assert_eq!([(); 3].map(|()| next(&pool, B).0.head()), [1, 2, 0]);
}

#[test]
fn who_waits_is_not_overtaken_for_ever() {
    let pool = pool(1);
    let (consumer, _) = next(&pool, A);
    give_back(&pool, consumer, extent(A, 1));
    // As many readers as there are, one after the other, so that the segment is never free.
    let mut view = pool.attach(&first(A)).expect("it is there");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.acquire(&Nowhere, Some(B), Instant::now() + Duration::from_secs(60)).is_ok());
        while pool.waiters() == 0 {
            thread::yield_now();
        }
        let mut barged = 0;
        while let Some(next) = pool.attach(&at(1, 0)) {
            pool.detach(std::mem::replace(&mut view, next));
            barged += 1;
        }
        assert_eq!(barged, MAX_BARGED);
        pool.detach(view);
        assert!(waiter.join().expect("no panic"));
    });
}
