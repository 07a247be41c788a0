//! What free segments hold, and which of them comes next.

use std::thread;

use super::*;
use crate::channel::layout::Control;

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
    Validator { inode, modified_ns: 1, ..Validator::default() }
}

fn asked(at: Instant) -> Asked {
    Asked { at, epoch: 0 }
}

fn held(key: &[u8], inode: u64) -> Option<Held> {
    Held::after(None, key, file(inode), asked(Instant::now()))
}

/// The segment that comes next for `key`, and the file that it holds.
fn next(pool: &Pool, key: &[u8]) -> (Consumer, Option<Validator>) {
    let (consumer, held) = pool.acquire(&Nowhere, key, Instant::now()).expect("one is free");
    (consumer, held.map(|held| held.file))
}

#[test]
fn the_one_with_the_file_comes_first_then_a_blank_one_then_the_one_not_asked_for_the_longest() {
    let pool = pool(4);
    let taken: Vec<_> = (0..3).map(|_| next(&pool, A).0).collect();
    let keys = [A, B, A];
    for (consumer, (key, inode)) in taken.into_iter().zip(keys.into_iter().zip([1, 2, 1])) {
        pool.give_back_holding(consumer, held(key, inode), Vec::new());
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
    pool.give_back_holding(first, held(A, 1), Vec::new());
    pool.give_back_holding(second, held(B, 2), Vec::new());
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
            let waiter = scope.spawn(|| pool.acquire(&Nowhere, key, Instant::now() + Duration::from_secs(60)));
            while pool.waiters() == 0 {
                thread::yield_now();
            }
            pool.give_back_holding(consumer, held(A, 1), Vec::new());
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
        pool.give_back_holding(consumer, held(&at.to_le_bytes(), 1), Vec::new());
    }
    let (forgotten, found) = next(&pool, &0_usize.to_le_bytes());
    assert_eq!((forgotten.lead(), found), (0, None));
    assert_eq!(next(&pool, &1_usize.to_le_bytes()).1, Some(file(1)));
}

#[test]
fn what_is_held_ages_from_its_reading() {
    let read = Instant::now();
    let at = |ms| read + Duration::from_millis(ms);
    let held = Held::after(None, A, file(1), asked(read)).expect("settled");
    assert!(held.is_worth_an_offer(at(99)) && !held.is_worth_an_offer(at(100)));
    let confirmed = Held::after(Some(held), A, file(1), Asked { at: at(90), epoch: 7 }).expect("the same");
    assert!(!confirmed.is_worth_an_offer(at(100)), "saying that it is the same is not reading it again");
    assert_eq!(confirmed.epoch, 7);
    let changed = Held::after(Some(confirmed), A, file(2), asked(at(95))).expect("settled");
    assert!(changed.is_worth_an_offer(at(194)), "another state was read");
}

#[test]
fn a_file_is_settled_a_tick_after_its_last_write() {
    let nanos = |ns| Validator { modified_ns: ns, ..Validator::default() };
    let after = |ns, age| nanos(ns).is_settled(std::time::UNIX_EPOCH + Duration::from_nanos(ns) + age);
    let tick = Duration::from_millis(10);
    let moment = Duration::from_nanos(1);
    assert!(after(1_500_000_001, tick) && !after(1_500_000_001, tick - moment));
    // What may be of a file system that knows seconds only.
    assert!(after(5_000_000_000, Duration::from_secs(2)) && !after(5_000_000_000, Duration::from_secs(2) - moment));
    assert!(!nanos(u64::MAX).is_settled(SystemTime::now()), "in the future");
}
