//! What the serving processes cost, from /proc.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// What a group of processes has used since they started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU seconds of all threads, in user mode and in the kernel.
    pub cpu_seconds: f64,
    /// Context switches of all threads, voluntary and not.
    pub context_switches: u64,
}

impl Usage {
    /// The usage of these processes up to now.
    pub fn of(processes: &[u32]) -> Self {
        let mut usage = Self::default();
        for &process in processes {
            usage.cpu_seconds += cpu_seconds(process).unwrap_or(0.0);
            usage.context_switches += context_switches(process);
        }
        usage
    }

    /// What was used after `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            context_switches: self.context_switches.saturating_sub(earlier.context_switches),
        }
    }
}

/// `roots` and all that descends from them.
pub fn family(roots: &[u32]) -> Vec<u32> {
    let mut family: HashSet<u32> = roots.iter().copied().collect();
    let all: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|process| Some((process, stat(process)?.get(1)?.parse().ok()?)))
        .collect();
    loop {
        let before = family.len();
        family.extend(
            all.iter().filter(|(_, parent)| family.contains(parent)).map(|&(process, _)| process).collect::<Vec<_>>(),
        );
        if family.len() == before {
            return family.into_iter().collect();
        }
    }
}

/// Resident memory in bytes, where memory that several processes share is divided among them.
pub fn resident(processes: &[u32]) -> u64 {
    let kilobytes = |process: &u32| -> Option<u64> {
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    processes.iter().filter_map(kilobytes).sum::<u64>() * 1024
}

/// Counts the system calls of processes with strace, which slows them down a good deal.
pub struct SystemCalls {
    strace: Child,
    summary: PathBuf,
}

impl SystemCalls {
    /// Begins to count, or says why that cannot be.
    pub fn count(processes: &[u32], directory: &Path) -> Result<Self, String> {
        let summary = directory.join("strace.txt");
        let strace = Command::new("strace")
            .args(["-f", "-c", "-q", "-U", "calls,name", "-o"])
            .arg(&summary)
            .args(processes.iter().map(|process| format!("-p{process}")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("strace: {e}"))?;
        let mut counter = Self { strace, summary };
        let deadline = Instant::now() + Duration::from_secs(5);
        while !processes.iter().all(|&process| traced(process)) {
            if Instant::now() > deadline || !matches!(counter.strace.try_wait(), Ok(None)) {
                drop(counter.strace.kill());
                drop(counter.strace.wait());
                return Err("strace cannot attach".to_owned());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(counter)
    }

    /// Ends counting and lets go of the processes.
    pub fn total(mut self) -> Result<u64, String> {
        let failed = |e: &dyn std::fmt::Display| format!("strace: {e}");
        let process = Pid::from_raw(i32::try_from(self.strace.id()).expect("a pid"));
        kill(process, Signal::SIGINT).map_err(|e| failed(&e))?;
        self.strace.wait().map_err(|e| failed(&e))?;
        let text = fs::read_to_string(&self.summary).map_err(|e| failed(&e))?;
        let total = text.lines().find(|line| line.trim_end().ends_with("total"));
        let calls = total.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
        calls.ok_or_else(|| failed(&"no summary"))
    }
}

/// Whether every thread of `process` is traced.
fn traced(process: u32) -> bool {
    threads(process).all(|status| !status.contains("TracerPid:\t0\n"))
}

/// The status of every thread of `process`.
fn threads(process: u32) -> impl Iterator<Item = String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok())
}

fn cpu_seconds(process: u32) -> Option<f64> {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok()??;
    let stat = stat(process)?;
    let (user, system): (u64, u64) = (stat.get(11)?.parse().ok()?, stat.get(12)?.parse().ok()?);
    Some((user + system) as f64 / ticks as f64)
}

/// The fields of /proc/PID/stat after the name, which may hold anything: the state is the first.
fn stat(process: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_ascii_whitespace().map(str::to_owned).collect())
}

fn context_switches(process: u32) -> u64 {
    let of_thread = |status: String| -> u64 {
        let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:")?.1.trim().parse::<u64>().ok());
        counts.sum()
    };
    threads(process).map(of_thread).sum()
}
