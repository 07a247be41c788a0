//! A limit for log lines that somebody else can cause at will: a flood of faults becomes a few lines.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::time::{Duration, Instant};

use log::warn;
use parking_lot::Mutex;

/// After as many lines as may come at once, there is one for each of these.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most causes that have an allowance of their own. Further ones share one, until an earlier cause was quiet.
const MANY: usize = 256;

/// The lines that may still be logged.
#[derive(Debug)]
struct Allowance {
    lines: u32,
    since: Instant,
    left_out: u64,
}

/// Warnings, a few for each cause: a process, or a client's address.
#[derive(Debug)]
pub struct Limiter<K> {
    target: &'static str,
    burst: u32,
    causes: Mutex<HashMap<Option<K>, Allowance>>,
}

impl<K: Eq + Hash> Limiter<K> {
    /// `target` is that of the lines, `burst` how many may come at once.
    pub fn new(target: &'static str, burst: u32) -> Self {
        Self { target, burst, causes: Mutex::default() }
    }

    /// Logs a line, or counts it where its cause had too many.
    pub fn warn(&self, cause: K, what: fmt::Arguments<'_>) {
        if let Some(left_out) = self.admit(cause) {
            warn!(target: self.target, "{what}{}", LeftOut(left_out));
        }
    }

    /// Whether a line may be logged, and how many were left out before it.
    pub fn admit(&self, cause: K) -> Option<u64> {
        self.admit_at(cause, Instant::now())
    }

    fn admit_at(&self, cause: K, now: Instant) -> Option<u64> {
        let mut causes = self.causes.lock();
        if causes.len() >= MANY {
            causes.retain(|_, allowance| now.duration_since(allowance.since) < INTERVAL * self.burst);
        }
        let cause = Some(cause);
        let cause = if causes.len() < MANY || causes.contains_key(&cause) { cause } else { None };
        let allowance = causes.entry(cause).or_insert(Allowance { lines: self.burst, since: now, left_out: 0 });
        let earned = now.duration_since(allowance.since).as_millis() / INTERVAL.as_millis();
        if earned > 0 {
            allowance.lines = self.burst.min(allowance.lines.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)));
            allowance.since = now;
        }
        if allowance.lines == 0 {
            allowance.left_out += 1;
            return None;
        }
        allowance.lines -= 1;
        Some(std::mem::take(&mut allowance.left_out))
    }
}

/// The end of a line before which others were left out.
pub struct LeftOut(
    /// How many.
    pub u64,
);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " (and {count} such lines left out)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_quiet_causes_are_not_its_victims() {
        let (limiter, start) = (Limiter::new("", 32), Instant::now());
        let told = (0..1000).filter(|_| limiter.admit_at(1, start).is_some()).count();
        assert_eq!(told, 32);
        assert_eq!(limiter.admit_at(2, start), Some(0));
        assert_eq!(limiter.admit_at(1, start + INTERVAL), Some(1000 - 32));
        assert_eq!(limiter.admit_at(1, start + INTERVAL), None);
    }

    #[test]
    fn with_a_burst_of_one_there_is_one_line_a_second() {
        let (limiter, start) = (Limiter::new("", 1), Instant::now());
        assert_eq!(limiter.admit_at((), start), Some(0));
        assert_eq!(limiter.admit_at((), start + INTERVAL / 2), None);
        assert_eq!(limiter.admit_at((), start + INTERVAL * 9 / 10), None);
        assert_eq!(limiter.admit_at((), start + INTERVAL), Some(2));
        assert_eq!(limiter.admit_at((), start + INTERVAL * 2), Some(0));
    }

    #[test]
    fn causes_are_not_remembered_for_ever_and_a_crowd_of_them_is_no_flood() {
        let (limiter, start) = (Limiter::new("", 32), Instant::now());
        for cause in 0..10_000 {
            limiter.admit_at(cause, start + INTERVAL * cause);
            assert!(limiter.causes.lock().len() <= MANY + 1);
        }
        let now = start + INTERVAL * 20_000;
        let told = (0..10_000).filter(|&cause| limiter.admit_at(cause, now).is_some()).count();
        assert_eq!(told, MANY + 32);
    }
}
