//! What is told about peers that misbehave: each fault once, with its process; a flood of faults as a few lines.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use log::warn;
use parking_lot::Mutex;

/// So many lines about one process may come at once; after that, one for each [`INTERVAL`].
const BURST: u32 = 32;
const INTERVAL: Duration = Duration::from_secs(1);
/// So many processes are remembered before those that have been quiet are forgotten.
const MANY: usize = 256;

/// How much may still be told about one process.
#[derive(Debug)]
struct Allowance {
    lines: u32,
    since: Instant,
    left_out: u64,
}

#[derive(Debug, Default)]
pub(super) struct Complaints {
    processes: Mutex<HashMap<i32, Allowance>>,
}

impl Complaints {
    /// Logs a line about a process, or counts it where there were too many.
    pub(super) fn tell(&self, pid: i32, what: fmt::Arguments<'_>) {
        match self.admit(pid, Instant::now()) {
            Some(0) => warn!("{what}"),
            Some(left_out) => warn!("{what} (and {left_out} lines about this process left out)"),
            None => {}
        }
    }

    /// Whether a line may be logged at `now`, and how many were left out before it.
    fn admit(&self, pid: i32, now: Instant) -> Option<u64> {
        let mut processes = self.processes.lock();
        if processes.len() >= MANY {
            processes.retain(|_, allowance| now.duration_since(allowance.since) < INTERVAL * BURST);
        }
        let allowance = processes.entry(pid).or_insert(Allowance { lines: BURST, since: now, left_out: 0 });
        let earned = now.duration_since(allowance.since).as_millis() / INTERVAL.as_millis();
        if earned > 0 {
            allowance.lines = BURST.min(allowance.lines.saturating_add(u32::try_from(earned).unwrap_or(BURST)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_quiet_processes_are_not_its_victims() {
        let complaints = Complaints::default();
        let start = Instant::now();
        let told = (0..1000).filter(|_| complaints.admit(1, start).is_some()).count();
        assert_eq!(told, BURST as usize);
        assert_eq!(complaints.admit(2, start), Some(0));
        assert_eq!(complaints.admit(1, start + INTERVAL), Some(1000 - u64::from(BURST)));
        assert_eq!(complaints.admit(1, start + INTERVAL), None);
    }

    #[test]
    fn processes_are_not_remembered_for_ever() {
        let complaints = Complaints::default();
        let start = Instant::now();
        for pid in 0..10_000 {
            complaints.admit(pid, start + INTERVAL * u32::try_from(pid).expect("positive"));
        }
        assert!(complaints.processes.lock().len() <= MANY);
    }
}
