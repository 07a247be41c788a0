//! The time limits of a transfer that libcurl does not have as they are needed here. Its low-speed limit would blame
//! the origin for a client that reads slowly. It has no limit for the first byte.

use std::time::{Duration, Instant};

use super::config::Config;

/// The clock of one request, over all its attempts.
#[derive(Debug)]
pub(super) struct Deadlines {
    first_byte: Duration,
    low_speed_limit: u64,
    low_speed_time: Duration,
    deadline: Option<Instant>,
    attempt_began: Instant,
    /// The window over which the speed is taken, once the body has begun.
    window: Option<Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    bytes: u64,
}

/// A limit that was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Late {
    #[error("the origin sent no body within {0:?}")]
    FirstByte(Duration),
    #[error("the origin sent fewer than {0} bytes a second for {1:?}")]
    LowSpeed(u64, Duration),
    #[error("the answer took longer than its total time")]
    Total,
}

impl Deadlines {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        let low_speed = config.low_speed_limit > 0 && !config.low_speed_time.is_zero();
        Self {
            first_byte: config.first_byte_timeout,
            low_speed_limit: if low_speed { config.low_speed_limit } else { 0 },
            low_speed_time: config.low_speed_time,
            deadline: (!config.total_timeout.is_zero()).then(|| now + config.total_timeout),
            attempt_began: now,
            window: None,
        }
    }

    pub(super) fn attempt_begins(&mut self, now: Instant) {
        self.attempt_began = now;
        self.window = None;
    }

    pub(super) fn body_begins(&mut self, now: Instant) {
        self.window = Some(Window { began: now, bytes: 0 });
    }

    /// Counts bytes of the body that took the client from `before` to `after`; that time is not the origin's.
    pub(super) fn received(&mut self, bytes: usize, before: Instant, after: Instant) {
        if let Some(window) = &mut self.window {
            window.bytes += bytes as u64;
            window.began += after - before;
        }
    }

    /// Whether the time for the whole answer is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    pub(super) fn check(&mut self, now: Instant) -> Result<(), Late> {
        if self.is_over(now) {
            return Err(Late::Total);
        }
        match &mut self.window {
            None if !self.first_byte.is_zero() && now.duration_since(self.attempt_began) >= self.first_byte => {
                Err(Late::FirstByte(self.first_byte))
            }
            Some(window) if now.saturating_duration_since(window.began) >= self.low_speed_time => {
                let wanted = self.low_speed_limit as f64 * self.low_speed_time.as_secs_f64();
                if (window.bytes as f64) < wanted {
                    return Err(Late::LowSpeed(self.low_speed_limit, self.low_speed_time));
                }
                *window = Window { began: now, bytes: 0 };
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn deadlines(change: impl FnOnce(&mut Config)) -> (Deadlines, Instant) {
        let mut config = Config {
            first_byte_timeout: 10 * SECOND,
            low_speed_limit: 100,
            low_speed_time: 5 * SECOND,
            ..Config::default()
        };
        change(&mut config);
        let now = Instant::now();
        (Deadlines::new(&config, now), now)
    }

    #[test]
    fn the_first_byte_has_its_limit_in_each_attempt() {
        let (mut deadlines, start) = deadlines(|_| ());
        assert_eq!(deadlines.check(start + 9 * SECOND), Ok(()));
        assert_eq!(deadlines.check(start + 10 * SECOND), Err(Late::FirstByte(10 * SECOND)));
        deadlines.attempt_begins(start + 10 * SECOND);
        assert_eq!(deadlines.check(start + 19 * SECOND), Ok(()));
    }

    #[test]
    fn a_slow_body_is_late_and_a_fast_one_is_not() {
        let (mut deadlines, start) = deadlines(|_| ());
        deadlines.body_begins(start);
        deadlines.received(500, start, start);
        assert_eq!(deadlines.check(start + 5 * SECOND), Ok(()));
        deadlines.received(499, start, start);
        assert_eq!(deadlines.check(start + 9 * SECOND), Ok(()));
        assert_eq!(deadlines.check(start + 10 * SECOND), Err(Late::LowSpeed(100, 5 * SECOND)));
    }

    #[test]
    fn the_time_of_a_slow_client_is_not_the_origins() {
        let (mut deadlines, start) = deadlines(|_| ());
        deadlines.body_begins(start);
        deadlines.received(1, start + SECOND, start + 60 * SECOND);
        assert_eq!(deadlines.check(start + 63 * SECOND), Ok(()));
        assert!(deadlines.check(start + 64 * SECOND).is_err());
    }

    #[test]
    fn zero_is_no_limit_and_the_total_counts_everything() {
        let (mut unlimited, start) = deadlines(|c| {
            c.first_byte_timeout = Duration::ZERO;
            c.low_speed_limit = 0;
        });
        assert_eq!(unlimited.check(start + 9999 * SECOND), Ok(()));
        unlimited.body_begins(start);
        assert_eq!(unlimited.check(start + 9999 * SECOND), Ok(()));
        let (mut limited, start) = deadlines(|c| c.total_timeout = 3 * SECOND);
        limited.attempt_begins(start + 2 * SECOND);
        assert_eq!(limited.check(start + 3 * SECOND), Err(Late::Total));
    }
}
