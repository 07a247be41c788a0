//! Yields before a sleep: other threads run for a moment, where the awaited event takes less time than a sleep and a
//! wake.
//!
//! Beside a thread with much to do, each yield lasts until the end of that thread's time slice. A thread that sleeps
//! gets the processor when it is woken. So a yield that takes long is followed by a rest, in which the thread sleeps
//! without yields. The rest doubles with each further long yield.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// How often other threads are let run: some 25 us where none wants to. Never in loom's models, whose sleeps are to be
/// explored.
const YIELDS: u32 = if cfg!(loom) { 0 } else { 50 };

/// A yield takes long from here on: shorter than a time slice, longer than what a thread of ours has to do at a time.
const LONG_YIELD: Duration = Duration::from_millis(1);
const SHORTEST_REST: Duration = Duration::from_millis(2);
const LONGEST_REST: Duration = Duration::from_millis(32);

#[derive(Clone, Copy)]
struct Rest {
    until: Option<Instant>,
    length: Duration,
}

thread_local! {
    static REST: Cell<Rest> = const { Cell::new(Rest { until: None, length: SHORTEST_REST }) };
}

/// Lets other threads run until `is_over`. False once that has taken long enough: it is time to sleep.
pub(super) fn until(is_over: impl Fn() -> bool) -> bool {
    let mut before = Instant::now();
    let Rest { until, length } = REST.get();
    if until.is_some_and(|until| before < until) {
        return false;
    }
    for yields in 0..YIELDS {
        if is_over() {
            if yields > 0 {
                REST.set(Rest { until: None, length: (length / 2).max(SHORTEST_REST) });
            }
            return true;
        }
        thread::yield_now();
        let now = Instant::now();
        if now.duration_since(before) >= LONG_YIELD {
            REST.set(Rest { until: Some(now + length), length: (length * 2).min(LONGEST_REST) });
            return is_over();
        }
        before = now;
    }
    is_over()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_needs_no_yield_and_what_does_not_come_is_slept_for() {
        REST.set(Rest { until: None, length: LONGEST_REST });
        assert!(until(|| true));
        assert_eq!(REST.get().length, LONGEST_REST, "nothing was learnt");
        let looks = Cell::new(0);
        assert!(!until(|| {
            looks.set(looks.get() + 1);
            false
        }));
        assert!((1..=YIELDS + 1).contains(&looks.get()));
    }

    #[test]
    fn a_long_yield_is_followed_by_a_rest_that_doubles() {
        REST.set(Rest { until: None, length: SHORTEST_REST });
        // Time that passes here looks like time that others took.
        let slow = || {
            thread::sleep(LONG_YIELD);
            false
        };
        assert!(!until(slow));
        assert!(REST.get().until.is_some());
        assert_eq!(REST.get().length, SHORTEST_REST * 2);
        REST.set(Rest { until: None, ..REST.get() });
        assert!(!until(slow));
        assert_eq!(REST.get().length, SHORTEST_REST * 4);
        REST.set(Rest { until: Some(Instant::now() + Duration::from_secs(3600)), ..REST.get() });
        assert!(!until(|| panic!("a look during the rest")));
    }
}
