//! A log line about bad clients, at most one a second, so that a flood of them does not become a flood of lines.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Complaints {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl Complaints {
    /// Logs `what`, or counts it where another line was logged less than a second ago.
    pub(super) fn log(&self, what: fmt::Arguments<'_>) {
        if let Some(suppressed) = self.admit(Instant::now()) {
            match suppressed {
                0 => log::warn!("{what}"),
                _ => log::warn!("{what} (and {suppressed} such lines left out)"),
            }
        }
    }

    /// Whether a line may be logged at `now`, and how many were left out before it.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.last.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_that_counts_the_others() {
        let complaints = Complaints::default();
        let start = Instant::now();
        assert_eq!(complaints.admit(start), Some(0));
        assert_eq!(complaints.admit(start + INTERVAL / 2), None);
        assert_eq!(complaints.admit(start + INTERVAL * 9 / 10), None);
        assert_eq!(complaints.admit(start + INTERVAL), Some(2));
        assert_eq!(complaints.admit(start + INTERVAL * 2), Some(0));
    }
}
