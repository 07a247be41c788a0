//! What webproxy counts, and what it tells of its channel.

use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;

use super::{PacedReply, Proxy, Source};
use getfile::Outcome;
use shm_channel::ClientStats;
use telemetry::metrics::{Metrics, Seconds};

/// The counters of one source of files.
#[derive(Debug)]
struct PerSource {
    /// By outcome: sent, not found, failed, cut.
    requests: [IntCounter; 4],
    bytes: IntCounter,
    seconds: Seconds,
    resumed: IntCounter,
}

/// The counters that each request touches.
#[derive(Debug)]
pub(super) struct Requests {
    cache: PerSource,
    origin: PerSource,
}

impl Requests {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self { cache: PerSource::new(metrics, Source::Cache), origin: PerSource::new(metrics, Source::Origin) }
    }

    pub(super) fn count(&self, source: Source, outcome: &Outcome, reply: &PacedReply<'_>, took: Duration) {
        let source = match source {
            Source::Cache => &self.cache,
            Source::Origin => &self.origin,
        };
        let outcome = match outcome {
            Outcome::Sent(_) => 0,
            Outcome::NotFound => 1,
            Outcome::Failed(_) => 2,
            Outcome::Cut(_) => 3,
        };
        source.requests[outcome].inc();
        source.bytes.inc_by(reply.bytes);
        source.seconds.observe(took);
        source.resumed.inc_by(reply.resumed.into());
    }
}

impl PerSource {
    fn new(metrics: &Metrics, source: Source) -> Self {
        let source = ("source", source.name());
        let requests = ["ok", "not_found", "error", "cut"].map(|status| {
            let help = "Requests that ended, by status and by where the file came from.";
            metrics.counter("requests_total", help, &[("status", status), source])
        });
        let source = &[source];
        Self {
            requests,
            bytes: metrics.counter("sent_bytes_total", "Bytes of files that the server took for clients.", source),
            seconds: metrics.seconds("request_duration_seconds", "From the handler's call to its end.", source),
            resumed: metrics.counter("resumes_total", "Times that a transfer broke off and went on.", source),
        }
    }
}

/// Tells of a proxy, as long as it lives.
pub(super) fn tell(metrics: &Metrics, proxy: &Arc<Proxy>) {
    let weak = Arc::downgrade(proxy);
    metrics.gauge("requests_in_flight", "Requests that a handler has in its hands.", &[], move || {
        weak.upgrade().map_or(0, |proxy| proxy.drain.in_flight() as u64)
    });
    let stats = |read: fn(&ClientStats) -> u64| {
        let weak = Arc::downgrade(proxy);
        move || {
            weak.upgrade()
                .and_then(|proxy| proxy.channel.lock().client().cloned())
                .map_or(0, |client| read(&client.stats()))
        }
    };
    let none = &[];
    metrics.gauge("cache_connected", "1 while simplecached is connected, else 0.", none, stats(|s| s.connected.into()));
    let help = "Times that simplecached was found again after its loss.";
    metrics.count("cache_reconnects_total", help, none, stats(|s| s.sessions.saturating_sub(1)));
    let help = "Answers of simplecached given out again without asking it.";
    metrics.count("cache_reuses_total", help, none, stats(|s| s.reused));
    let help = "Segments of the shared memory; those that are neither free nor quarantined are in use.";
    type Read = fn(&ClientStats) -> u64;
    let by_state: [(&str, Read); 3] = [
        ("free", |s| s.free as u64),
        ("quarantined", |s| s.quarantined as u64),
        ("used", |s| s.segments.saturating_sub(s.free + s.quarantined) as u64),
    ];
    for (state, read) in by_state {
        metrics.gauge("segments", help, &[("state", state)], stats(read));
    }
    metrics.gauge("segment_waiters", "Requests that wait for a segment.", none, stats(|s| s.waiting as u64));
    metrics.count(
        "log_lines_dropped_total",
        "Log lines that standard error did not take.",
        none,
        telemetry::logging::dropped,
    );
}
