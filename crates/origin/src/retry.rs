//! When a failed attempt is followed by another, and after what wait.

use std::time::{Duration, Instant};

use super::config::Config;

/// No wait is longer, whatever `retry_within` is; a `Retry-After` beyond it is not waited for.
const LONGEST: Duration = Duration::from_secs(60);
/// The bytes of progress that give the resumes back, or a sixteenth of the body if that is less. A single byte must not
/// suffice: an origin could hold a worker for long.
const PROGRESS: u64 = 64 << 10;

/// The attempts of one request.
#[derive(Debug)]
pub(super) struct Retry {
    retries_left: u32,
    resumes: u32,
    resumes_left: u32,
    backoff: Duration,
    wait: Duration,
    within: Duration,
    /// The start of the request, or of the attempt that last brought something.
    trouble_since: Instant,
    /// The bytes since the resumes were last given back.
    progress: u64,
}

/// What an attempt that failed had reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// The client has no header yet.
    Nothing,
    /// The client has a part of the file of `of` bytes, to which this attempt added `more`.
    Body { more: u64, of: u64 },
}

impl Retry {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        Self {
            retries_left: config.retries,
            resumes: config.resumes,
            resumes_left: config.resumes,
            backoff: config.backoff,
            wait: config.backoff,
            within: config.retry_within,
            trouble_since: now,
            progress: 0,
        }
    }

    /// The wait before the next attempt, which is `least` or more, or `None` if there is to be none.
    pub(super) fn next(&mut self, reached: Reached, least: Duration, now: Instant) -> Option<Duration> {
        let left = match reached {
            Reached::Nothing => &mut self.retries_left,
            Reached::Body { more, of } => {
                self.advance(more, of, now);
                &mut self.resumes_left
            }
        };
        *left = left.checked_sub(1)?;
        // Between half of the wait and all of it, so that workers that failed together do not come back together.
        let wait = self.wait.mul_f64(0.5 + 0.5 * fastrand::f64()).max(least);
        self.wait = (self.wait * 2).min(LONGEST);
        let too_late = !self.within.is_zero() && now.duration_since(self.trouble_since) + wait > self.within;
        (!too_late && least <= LONGEST).then_some(wait)
    }

    fn advance(&mut self, more: u64, of: u64, now: Instant) {
        if more > 0 {
            self.trouble_since = now;
        }
        self.progress += more;
        if self.progress >= (of / 16).clamp(1, PROGRESS) {
            self.progress = 0;
            self.resumes_left = self.resumes;
            self.wait = self.backoff;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_MORE: Reached = Reached::Body { more: 0, of: 1 << 30 };
    const A_BYTE: Reached = Reached::Body { more: 1, of: 1 << 30 };
    const MUCH: Reached = Reached::Body { more: 1 << 20, of: 1 << 30 };

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
        let mut retry = Retry::new(&config(), now);
        for full in [100, 200, 400] {
            let wait = retry.next(Reached::Nothing, Duration::ZERO, now).expect("a retry");
            assert!((full / 2..=full).contains(&(wait.as_millis() as u64)), "{wait:?} of {full}");
        }
        assert_eq!(retry.next(Reached::Nothing, Duration::ZERO, now), None);
    }

    #[test]
    fn progress_gives_the_resumes_back_and_a_byte_is_none() {
        let now = Instant::now();
        let mut retry = Retry::new(&config(), now);
        for _ in 0..100 {
            let wait = retry.next(MUCH, Duration::ZERO, now).expect("progress");
            assert!(wait <= Duration::from_millis(100), "{wait:?}");
        }
        assert!(retry.next(A_BYTE, Duration::ZERO, now).is_some());
        assert_eq!(retry.next(A_BYTE, Duration::ZERO, now), None);
        let sixteenth = Reached::Body { more: 62, of: 1000 };
        assert!(retry.next(sixteenth, Duration::ZERO, now).is_some());
    }

    #[test]
    fn none_begins_after_the_deadline_unless_there_was_progress() {
        let start = Instant::now();
        let late = start + Duration::from_secs(10);
        let next = |config: &Config, reached| Retry::new(config, start).next(reached, Duration::ZERO, late);
        assert_eq!(next(&config(), Reached::Nothing), None);
        assert_eq!(next(&config(), NO_MORE), None);
        assert!(next(&config(), A_BYTE).is_some());
        let unlimited = Config { retry_within: Duration::ZERO, ..config() };
        assert!(next(&unlimited, Reached::Nothing).is_some());
    }

    #[test]
    fn a_longer_wait_is_kept_up_to_the_limits() {
        let now = Instant::now();
        let unlimited = Config { retry_within: Duration::ZERO, ..config() };
        for (config, seconds, waits) in
            [(&config(), 9, true), (&config(), 11, false), (&unlimited, 60, true), (&unlimited, 61, false)]
        {
            let least = Duration::from_secs(seconds);
            let wait = Retry::new(config, now).next(NO_MORE, least, now);
            assert_eq!(wait, waits.then_some(least));
        }
    }
}
