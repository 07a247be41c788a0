//! The process as Linux sees it, under the names that Prometheus' own clients use.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::unistd::{SysconfVar, sysconf};
use prometheus::Counter;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::Metrics;

pub(super) fn register(metrics: &Metrics) {
    let none = &[];
    metrics.gauge("process_open_fds", "Open descriptors.", none, open_descriptors);
    metrics.gauge("process_max_fds", "The limit of open descriptors.", none, || {
        getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
    });
    metrics.gauge("process_resident_memory_bytes", "Resident memory.", none, resident_bytes);
    metrics.gauge("process_threads", "Threads.", none, || entries("/proc/self/task"));
    metrics.gauge("process_start_time_seconds", "Start time of the process since the Unix epoch.", none, start_time);
    let help = "User and system time of the process.";
    let seconds = Counter::new("process_cpu_seconds_total", help).expect("a name that is written here");
    metrics.register(CpuSeconds(seconds));
}

/// A counter of fractions, unlike all others.
struct CpuSeconds(Counter);

impl Collector for CpuSeconds {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.reset();
        self.0.inc_by(cpu_seconds());
        self.0.collect()
    }
}

/// Less the one that counting them takes.
fn open_descriptors() -> u64 {
    entries("/proc/self/fd").saturating_sub(1)
}

fn entries(directory: &str) -> u64 {
    fs::read_dir(directory).map_or(0, |entries| entries.count() as u64)
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    pages * page.cast_unsigned()
}

fn cpu_seconds() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        let times = [usage.user_time(), usage.system_time()];
        times.iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6).sum()
    })
}

/// When the process was started. Linux gives that in clock ticks since its own start, and the time since then.
fn start_time() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    // The second field, a name in parentheses, may hold anything; the start is the 20th after it.
    let started = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)?.parse::<f64>().ok());
    let uptime = uptime.split(' ').next().and_then(|uptime| uptime.parse::<f64>().ok());
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
    match (started, uptime) {
        (Some(started), Some(uptime)) => (now - (uptime - started / ticks)).round() as u64,
        _ => 0,
    }
}
