//! What free segments hold, and which of them comes next.

use std::thread;

use super::super::held::Asked;
use super::*;
use crate::layout::{Control, Validator};

const A: &[u8] = b"/a";
const B: &[u8] = b"/b";

/// No lease runs in these tests.
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
    Pool::new((0..segments).map(|lead| Consumer::new(lead, 0)).collect())
}

fn file(inode: u64) -> Validator {
    Validator { inode, len: 2500, modified_ns: 1, ..Validator::default() }
}

fn asked(at: Instant) -> Asked {
    Asked { at, epoch: 0 }
}

/// What a segment holds after the part `at` of a file was read, so long ago.
fn part(key: &[u8], inode: u64, at: u64, age: Duration) -> Option<Held> {
    Some(Held::after(None, key, file(inode), at, 1000, asked(Instant::now() - age)))
}

/// The same of the first part, just now.
fn held(key: &[u8], inode: u64) -> Option<Held> {
    part(key, inode, 0, Duration::ZERO)
}

fn give_back(pool: &Pool, consumer: Consumer, held: Option<Held>) {
    assert_eq!(pool.give_back_holding([(consumer, held)], None), None);
}

fn first(key: &[u8]) -> Wanted<'_> {
    Wanted::First { key, asked: asked(Instant::now()) }
}

fn at(inode: u64, at: u64) -> Wanted<'static> {
    Wanted::At { file: file(inode), at, begun: Instant::now() }
}

/// The segment that comes next for `key`, and the file that it holds.
fn next(pool: &Pool, key: &[u8]) -> (Consumer, Option<Validator>) {
    let (consumer, held) = pool.acquire(&Nowhere, Some(key), Instant::now()).expect("one is free");
    (consumer, held.map(|held| held.file))
}

#[test]
fn the_one_with_the_file_comes_first_then_a_blank_one_then_the_one_that_was_read_first() {
    let pool = pool(4);
    let taken: Vec<_> = (0..3).map(|_| next(&pool, A).0).collect();
    let keys = [A, B, A];
    for (consumer, (key, inode)) in taken.into_iter().zip(keys.into_iter().zip([1, 2, 1])) {
        give_back(&pool, consumer, held(key, inode));
    }
    let (consumer, found) = next(&pool, A);
    assert_eq!((consumer.lead(), found), (2, Some(file(1))), "the newest with the file");
    let (other, found) = next(&pool, b"/none");
    assert_eq!((other.lead(), found), (3, None), "the blank one");
    let (oldest, found) = next(&pool, b"/none");
    assert_eq!((oldest.lead(), found), (0, None));
    let (last, found) = next(&pool, B);
    assert_eq!((last.lead(), found), (1, Some(file(2))));
    pool.give_back([consumer, other, oldest, last]);
    assert_eq!(next(&pool, A).1, None, "a lease that was given back without a file has overwritten it");
}

#[test]
fn loans_are_blank_ones_first_and_one_stays() {
    let pool = pool(4);
    let (first, _) = next(&pool, A);
    let (second, _) = next(&pool, B);
    give_back(&pool, first, held(A, 1));
    give_back(&pool, second, held(B, 2));
    let loans = pool.borrow(&Nowhere, 3).expect("no violation");
    assert_eq!(loans.iter().map(Consumer::lead).collect::<Vec<_>>(), [2, 3, 0]);
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
            give_back(&pool, consumer, held(A, 1));
            let (_, held) = waiter.join().expect("no panic").expect("one is free");
            assert_eq!(held.map(|held| held.file), expected);
        });
    }
}

#[test]
fn only_so_many_are_remembered() {
    let pool = pool(MOST_HOLDING as u16 + 1);
    let taken: Vec<_> = (0..=MOST_HOLDING).map(|_| next(&pool, A).0).collect();
    for (at, consumer) in taken.into_iter().enumerate() {
        give_back(&pool, consumer, held(&at.to_le_bytes(), 1));
    }
    let (forgotten, found) = next(&pool, &0_usize.to_le_bytes());
    assert_eq!((forgotten.lead(), found), (0, None));
    assert_eq!(next(&pool, &1_usize.to_le_bytes()).1, Some(file(1)));
}

#[test]
fn what_is_held_ages_from_its_reading() {
    let read = Instant::now();
    let at = |ms| read + Duration::from_millis(ms);
    let held = Held::after(None, A, file(1), 0, 1000, asked(read));
    assert!(held.is_worth_an_offer(at(99)) && !held.is_worth_an_offer(at(100)));
    let confirmed = Held::after(Some(held), A, file(1), 0, 1000, Asked { at: at(90), epoch: 7 });
    assert!(!confirmed.is_worth_an_offer(at(100)), "saying that it is the same is not reading it again");
    let opens = |epoch| Wanted::First { key: A, asked: Asked { at: at(99), epoch } }.accept(&confirmed);
    assert!(opens(7) && !opens(0));
    let changed = Held::after(Some(confirmed), A, file(2), 0, 1000, asked(at(95)));
    assert!(changed.is_worth_an_offer(at(194)), "another state was read");
}

#[test]
fn those_who_want_the_same_read_in_the_same_segment() {
    let pool = pool(2);
    let (consumer, _) = next(&pool, A);
    give_back(&pool, consumer, held(A, 1));
    let expected = Part { segment: 0, file: file(1), at: 0, len: 1000 };
    assert_eq!(pool.attach(&first(A)), Some(expected));
    assert_eq!(pool.attach(&at(1, 999)), Some(expected));
    assert_eq!(pool.attach(&at(1, 1000)), None, "behind its end");
    assert_eq!(pool.attach(&first(B)), None);
    assert_eq!(pool.census(&Nowhere), (1, 0));
    assert_eq!(next(&pool, A).0.lead(), 1, "a segment with readers is not to be changed");
    pool.detach(expected);
    pool.acquire(&Nowhere, Some(A), Instant::now()).expect_err("one reader is left");
    pool.detach(expected);
    assert_eq!(next(&pool, A).0.lead(), 0);
}

#[test]
fn a_lease_that_has_ended_leaves_all_its_parts_and_a_reader() {
    let pool = pool(4);
    let (lead, _) = next(&pool, A);
    let loans = pool.borrow(&Nowhere, 2).expect("no violation");
    let parts = [held(A, 1), part(A, 1, 1000, Duration::ZERO), None];
    let segments = [lead].into_iter().chain(loans).zip(parts);
    let read = pool.give_back_holding(segments, Some(&at(1, 1000))).expect("it is there");
    assert_eq!((read.segment, read.at), (1, 1000));
    assert_eq!(pool.attach(&first(A)).map(|part| part.segment), Some(0));
    assert_eq!(pool.attach(&first(b"")), None, "only the first part has a key");
    assert_eq!(pool.census(&Nowhere), (2, 0));
}

#[test]
fn a_transfer_goes_on_with_what_was_read_since_it_began_or_shortly_before() {
    let pool = pool(1);
    let (consumer, _) = next(&pool, A);
    give_back(&pool, consumer, part(A, 1, 0, Duration::from_millis(150)));
    assert_eq!(pool.attach(&at(1, 0)), None);
    assert_eq!(pool.attach(&first(A)), None);
    let begun = Instant::now() - Duration::from_millis(100);
    assert!(pool.attach(&Wanted::At { file: file(1), at: 0, begun }).is_some());
    assert_eq!(pool.attach(&Wanted::At { file: file(2), at: 0, begun }), None, "another state");
}

#[test]
fn what_is_too_old_is_overwritten_first() {
    let pool = pool(3);
    let taken: Vec<_> = (0..2).map(|_| next(&pool, A).0).collect();
    for (consumer, age) in taken.into_iter().zip([0, 1000]) {
        give_back(&pool, consumer, part(A, 1, 0, Duration::from_millis(age)));
    }
    assert_eq!([(); 3].map(|()| next(&pool, B).0.lead()), [1, 2, 0]);
}

#[test]
fn who_waits_is_not_overtaken_for_ever() {
    let pool = pool(1);
    let (consumer, _) = next(&pool, A);
    give_back(&pool, consumer, held(A, 1));
    // As many readers as there are, one after the other, so that the segment is never free.
    let mut part = pool.attach(&first(A)).expect("it is there");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.acquire(&Nowhere, Some(B), Instant::now() + Duration::from_secs(60)).is_ok());
        while pool.waiters() == 0 {
            thread::yield_now();
        }
        let mut overtook = 0;
        while let Some(next) = pool.attach(&at(1, 0)) {
            pool.detach(std::mem::replace(&mut part, next));
            overtook += 1;
        }
        assert_eq!(overtook, MOST_OVERTAKE);
        pool.detach(part);
        assert!(waiter.join().expect("no panic"));
    });
}
