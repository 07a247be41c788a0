//! What the kernel says that a process holds.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use nix::unistd::Pid;

/// What a process could lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    pub descriptors: usize,
    /// Mappings of shared memory; other mappings come and go with the heap.
    pub areas: usize,
    pub threads: usize,
}

impl Holdings {
    pub fn of(pid: Pid) -> Self {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
        Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").count(),
            areas: maps.lines().filter(|line| line.contains("/memfd:")).count(),
            threads: fs::read_dir(format!("/proc/{pid}/task")).expect("task").count(),
        }
    }

    /// Whether nothing has been added. Less is no loss: a client's connection may still have been open before.
    pub fn no_more_than(&self, before: &Self) -> bool {
        self.descriptors <= before.descriptors && self.areas <= before.areas && self.threads <= before.threads
    }
}

/// The names in /dev/shm.
pub fn shared_memory_names() -> BTreeSet<PathBuf> {
    fs::read_dir("/dev/shm").expect("/dev/shm").map(|entry| entry.expect("an entry").path()).collect()
}

/// The bytes of memory that a process has for itself.
pub fn anonymous_memory(pid: Pid) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    line.expect("RssAnon").parse::<usize>().expect("a number") << 10
}
