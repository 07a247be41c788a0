//! When a failed attempt is followed by another, and after what wait.

use std::time::{Duration, Instant};

use super::config::Config;

/// The attempts of one request.
#[derive(Debug)]
pub(super) struct Repetition {
    retries_left: u32,
    resumes_left: u32,
    wait: Duration,
    within: Duration,
    /// The start of the request, or of the attempt that last brought something.
    trouble_since: Instant,
}

/// What an attempt that failed had reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// The client has no header yet.
    Nothing,
    /// The client has a part of the file; `more` if it was this attempt that brought it on.
    Body { more: bool },
}

impl Repetition {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        Self {
            retries_left: config.retries,
            resumes_left: config.resumes,
            wait: config.backoff,
            within: config.retry_within,
            trouble_since: now,
        }
    }

    /// The wait before the next attempt, or `None` if there is to be none.
    pub(super) fn next(&mut self, reached: Reached, now: Instant) -> Option<Duration> {
        let left = match reached {
            Reached::Nothing => &mut self.retries_left,
            Reached::Body { more } => {
                if more {
                    self.trouble_since = now;
                }
                &mut self.resumes_left
            }
        };
        *left = left.checked_sub(1)?;
        // Between half of the wait and all of it, so that workers that failed together do not come back together.
        let wait = self.wait.mul_f64(0.5 + 0.5 * fastrand::f64());
        self.wait *= 2;
        let too_late = !self.within.is_zero() && now.duration_since(self.trouble_since) + wait > self.within;
        (!too_late).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            retries: 3,
            resumes: 2,
            backoff: Duration::from_millis(100),
            retry_within: Duration::from_secs(10),
            ..Config::default()
        }
    }

    #[test]
    fn waits_double_with_a_spread_and_end() {
        let now = Instant::now();
        let mut repetition = Repetition::new(&config(), now);
        for full in [100, 200, 400] {
            let wait = repetition.next(Reached::Nothing, now).expect("a retry");
            assert!((full / 2..=full).contains(&(wait.as_millis() as u64)), "{wait:?} of {full}");
        }
        assert_eq!(repetition.next(Reached::Nothing, now), None);
        assert!(repetition.next(Reached::Body { more: true }, now).is_some());
        assert!(repetition.next(Reached::Body { more: true }, now).is_some());
        assert_eq!(repetition.next(Reached::Body { more: true }, now), None);
    }

    #[test]
    fn none_begins_after_the_deadline_unless_there_was_progress() {
        let start = Instant::now();
        let late = start + Duration::from_secs(10);
        assert_eq!(Repetition::new(&config(), start).next(Reached::Nothing, late), None);
        assert_eq!(Repetition::new(&config(), start).next(Reached::Body { more: false }, late), None);
        assert!(Repetition::new(&config(), start).next(Reached::Body { more: true }, late).is_some());
        let unlimited = Config { retry_within: Duration::ZERO, ..config() };
        assert!(Repetition::new(&unlimited, start).next(Reached::Nothing, late).is_some());
    }
}
