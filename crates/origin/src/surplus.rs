//! Origins that send bytes that belong to no answer. One that appends to a file while it serves it does that. On a kept
//! connection such bytes can come at any moment. Just after a request they cannot be told from its answer. So
//! connections to such an origin are not kept for a while.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long connections are not kept, and how often a line tells of it.
const WHILE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Surplus(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    seen: Option<Instant>,
    told: Option<Instant>,
    /// How often there was some since a line was logged.
    untold: u64,
}

impl Surplus {
    /// Notes that there was some at `now`, and logs it once in a while.
    pub(super) fn seen(&self, now: Instant) {
        if let Some(untold) = self.0.lock().admit(now) {
            let more = if untold == 0 { String::new() } else { format!(", and did so {untold} times more") };
            log::warn!(
                "the origin sent bytes that belong to no answer{more}: they are dropped, and for a minute no \
                 connection to it is kept"
            );
        }
    }

    /// Whether connections are not to be kept.
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        self.0.lock().seen.is_some_and(|seen| now.saturating_duration_since(seen) < WHILE)
    }
}

impl State {
    /// Whether a line may be logged at `now`, and how many were left out before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        self.seen = Some(now);
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < WHILE) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_that_counts_the_others() {
        let mut state = State::default();
        let start = Instant::now();
        assert_eq!(state.admit(start), Some(0));
        assert_eq!(state.admit(start + WHILE / 2), None);
        assert_eq!(state.admit(start + WHILE), Some(1));
        assert_eq!(state.admit(start + WHILE * 2), Some(0));
    }

    #[test]
    fn connections_are_kept_again_a_minute_after_the_last() {
        let surplus = Surplus::default();
        let start = Instant::now();
        assert!(!surplus.is_recent(start));
        surplus.seen(start);
        surplus.seen(start + WHILE / 2);
        assert!(surplus.is_recent(start + WHILE));
        assert!(!surplus.is_recent(start + WHILE / 2 + WHILE));
    }
}
