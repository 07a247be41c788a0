//! What simplecached tells.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Daemon;
use shm_channel::{OpenFile, ServerStats};
use telemetry::metrics::Metrics;

/// Tells of a daemon, as long as it lives.
pub(super) fn tell(metrics: &Metrics, daemon: &Arc<Daemon>) {
    let none = &[];
    let of_daemon = |read: fn(&Daemon) -> u64| {
        let daemon = Arc::downgrade(daemon);
        move || daemon.upgrade().map_or(0, |daemon| read(&daemon))
    };
    let stats = |read: fn(&ServerStats) -> u64| {
        let daemon = Arc::downgrade(daemon);
        move || daemon.upgrade().and_then(|daemon| daemon.stats()).map_or(0, |stats| read(&stats))
    };
    let help = "Requests that ended, by status; one that is parked has not ended.";
    type Read = fn(&ServerStats) -> u64;
    let by_status: [(&str, Read); 5] = [
        ("ok", |s| s.served),
        ("not_found", |s| s.not_found),
        ("error", |s| s.failed),
        ("changed", |s| s.changed),
        ("cancelled", |s| s.cancelled),
    ];
    for (status, read) in by_status {
        metrics.count("requests_total", help, &[("status", status)], stats(read));
    }
    metrics.count("read_bytes_total", "Bytes of files put into shared memory.", none, stats(|s| s.bytes));
    let help = "Requests for a file that the proxy still had in its segment.";
    metrics.count("confirmed_total", help, none, stats(|s| s.confirmed));
    metrics.count("parks_total", "Times that a transfer was parked.", none, stats(|s| s.pauses));
    metrics.count("resumes_total", "Requests to go on with a transfer.", none, stats(|s| s.resumes));
    metrics.gauge(
        "parked_files",
        "Files that are held for transfers that were parked.",
        none,
        stats(|s| s.paused as u64),
    );
    metrics.gauge("peers", "Connected proxies.", none, stats(|s| s.peers as u64));
    metrics.count("sessions_total", "Proxies that connected.", none, stats(|s| s.sessions));
    metrics.count("sessions_dropped_total", "Sessions ended for a fault of the proxy.", none, stats(|s| s.dropped));
    metrics.gauge("workers", "Worker threads.", none, stats(|s| s.threads as u64));
    metrics.gauge("workers_idle", "Worker threads that wait for a request.", none, stats(|s| s.idle as u64));
    metrics
        .gauge("open_files", "Open files, kept for later or in use by transfers.", none, || OpenFile::count() as u64);
    metrics.gauge(
        "catalog_entries",
        "Entries of the locals file.",
        none,
        of_daemon(|d| d.store.files.read().catalog().len() as u64),
    );
    let help = "Times that the locals file was loaded again, or was to be.";
    metrics.count("reloads_total", help, &[("result", "ok")], of_daemon(|d| d.reloads[0].load(Ordering::Acquire)));
    metrics.count("reloads_total", help, &[("result", "refused")], of_daemon(|d| d.reloads[1].load(Ordering::Acquire)));
    metrics.count(
        "log_lines_dropped_total",
        "Log lines that standard error did not take.",
        none,
        telemetry::logging::dropped,
    );
}
