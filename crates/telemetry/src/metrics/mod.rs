//! What is counted, as Prometheus text over HTTP. `docs/reference/metrics.md` lists it.
//!
//! Counters on the path of a request are atomics. Values that other parts count, or that can be looked up, are read at
//! each scrape.

mod http;
mod process;

use std::time::Duration;

use log::error;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};

pub use http::Exporter;
pub use http::ListenError;

/// The label of a series, where its metric has one or more.
pub type Labels<'l> = &'l [(&'l str, &'l str)];

/// The metrics of one exporter.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// What every name begins with.
    prefix: &'static str,
}

impl Metrics {
    /// Those of the process itself, for a start.
    pub fn new(prefix: &'static str) -> Self {
        let metrics = Self { registry: Registry::new(), prefix };
        let version = &[("version", env!("CARGO_PKG_VERSION"))];
        metrics.gauge("build_info", "Always 1; the version is its label.", version, || 1);
        process::register(&metrics);
        metrics
    }

    /// A counter that the caller increments.
    pub fn counter(&self, name: &str, help: &str, labels: Labels<'_>) -> IntCounter {
        let counter = IntCounter::with_opts(self.opts(name, help, labels)).expect("a name that is written here");
        self.register(counter.clone());
        counter
    }

    /// Seconds, which the caller observes.
    pub fn seconds(&self, name: &str, help: &str, labels: Labels<'_>) -> Seconds {
        // Each bucket is about 2.5 times as wide as the one before, from a file in memory to a client that stalls.
        const BUCKETS: [f64; 16] =
            [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
        let opts = HistogramOpts::from(self.opts(name, help, labels)).buckets(BUCKETS.to_vec());
        let histogram = Histogram::with_opts(opts).expect("a name that is written here");
        self.register(histogram.clone());
        Seconds(histogram)
    }

    /// A counter that is read when somebody asks.
    pub fn count(&self, name: &str, help: &str, labels: Labels<'_>, read: impl Fn() -> u64 + Send + Sync + 'static) {
        let metric = IntCounter::with_opts(self.opts(name, help, labels)).expect("a name that is written here");
        self.register(Pulled { metric, read: Box::new(read) });
    }

    /// A value that goes up and down, read when somebody asks.
    pub fn gauge(&self, name: &str, help: &str, labels: Labels<'_>, read: impl Fn() -> u64 + Send + Sync + 'static) {
        let metric = IntGauge::with_opts(self.opts(name, help, labels)).expect("a name that is written here");
        self.register(Pulled { metric, read: Box::new(read) });
    }

    /// All of it, as text.
    fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = prometheus::TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            error!("metrics: {error}");
        }
        text
    }

    fn opts(&self, name: &str, help: &str, labels: Labels<'_>) -> Opts {
        // Names of the process are the same everywhere.
        let name = if name.starts_with("process_") { name.to_owned() } else { format!("{}_{name}", self.prefix) };
        let labels = labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Opts::new(name, help).const_labels(labels.collect())
    }

    fn register(&self, collector: impl Collector + 'static) {
        self.registry.register(Box::new(collector)).expect("each series is registered once");
    }
}

/// A histogram of durations.
#[derive(Clone, Debug)]
pub struct Seconds(Histogram);

impl Seconds {
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

/// A metric whose value is read when it is collected, which one thread does.
struct Pulled<M> {
    metric: M,
    read: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Collector for Pulled<IntGauge> {
    fn desc(&self) -> Vec<&Desc> {
        self.metric.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.metric.set((self.read)().cast_signed());
        self.metric.collect()
    }
}

impl Collector for Pulled<IntCounter> {
    fn desc(&self) -> Vec<&Desc> {
        self.metric.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.metric.reset();
        self.metric.inc_by((self.read)());
        self.metric.collect()
    }
}
