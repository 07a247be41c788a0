//! Measures a GETFILE server: one row for each chunk of data received, one for each request.

mod support;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use getfile::FetchError;
use parking_lot::Mutex;
use support::{CommonOptions, Run, options};

/// Measure a GETFILE server; what was received and when goes to the metrics file.
#[derive(Parser, Debug)]
#[command(name = "gfclient_measure", version, args_override_self = true, infer_long_args = true)]
struct Options {
    #[command(flatten)]
    common: CommonOptions,

    /// Metrics file
    #[arg(short, long, value_name = "metrics_path", default_value = "metrics.txt")]
    metrics_path: PathBuf,

    /// Queue size (1 to 100000); accepted and without effect, since threads take requests as they need them
    #[arg(short, value_name = "queue_size", default_value_t = 25, value_parser = options::number(1..=100_000_u32))]
    queue_size: u32,

    /// Also print the state to standard output every so many seconds, as a row of the metrics (0.001 to 86400)
    #[arg(short, value_name = "interval", value_parser = options::seconds)]
    interval: Option<Duration>,

    /// Put the time of the start into the metrics file's name: metrics-20260131T235959Z.txt
    #[arg(short = 'x')]
    timestamp: bool,
}

fn main() -> ExitCode {
    let options: Options = match options::parse(std::env::args_os()) {
        Ok(options) => options,
        Err(status) => return status,
    };
    measure(&options).unwrap_or_else(|error| {
        support::complain(error);
        ExitCode::FAILURE
    })
}

fn measure(options: &Options) -> Result<ExitCode, String> {
    let run = Run::prepare(&options.common)?;
    let path = match options.timestamp {
        true => timestamped(&options.metrics_path),
        false => options.metrics_path.clone(),
    };
    let metrics_error = |e| format!("cannot write metrics file {}: {e}", path.display());
    let metrics = Mutex::new(Metrics::create(&path).map_err(metrics_error)?);
    let status = reporting(&metrics, options.interval, || {
        run.execute(|client, path| {
            let result = client.fetch(path, |chunk| metrics.lock().received(chunk.len() as u64));
            metrics.lock().finished(result.is_ok(), path).map_err(FetchError::Output)?;
            result
        })
    })?;
    metrics.into_inner().finish().map_err(metrics_error)?;
    Ok(status)
}

/// Runs `work` and meanwhile prints the state of `metrics` every `interval`.
fn reporting<T>(metrics: &Mutex<Metrics>, interval: Option<Duration>, work: impl FnOnce() -> T) -> T {
    let Some(interval) = interval else { return work() };
    thread::scope(|scope| {
        // The reporter ends when the sender is dropped, that is with the work.
        let (_running, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let row = metrics.lock().row();
                support::say(format_args!("{row}, report\n"));
            }
        });
        work()
    })
}

/// `metrics.txt` becomes `metrics-20260131T235959Z.txt`.
fn timestamped(path: &Path) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(jiff::Timestamp::now().strftime("-%Y%m%dT%H%M%SZ").to_string());
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// The counters, and the file that gets a row whenever they change.
struct Metrics {
    rows: BufWriter<File>,
    start: Instant,
    bytes: u64,
    serviced: u64,
    failed: u64,
}

impl Metrics {
    fn create(path: &Path) -> io::Result<Self> {
        let mut rows = BufWriter::new(File::create(path)?);
        writeln!(rows, "#Elapsed Time (secs),Bytes Received,Requests Serviced, Requests Failed, Comment")?;
        Ok(Self { rows, start: Instant::now(), bytes: 0, serviced: 0, failed: 0 })
    }

    fn received(&mut self, count: u64) -> io::Result<()> {
        self.bytes += count;
        let row = self.row();
        // What the course kit's client prints where there is no comment; readers of its files expect a fifth column.
        writeln!(self.rows, "{row}, (null)")
    }

    fn finished(&mut self, served: bool, path: &[u8]) -> io::Result<()> {
        match served {
            true => self.serviced += 1,
            false => self.failed += 1,
        }
        let row = self.row();
        write!(self.rows, "{row}, ")?;
        self.rows.write_all(path)?;
        self.rows.write_all(b"\n")
    }

    fn finish(self) -> io::Result<()> {
        let file = self.rows.into_inner()?;
        // A network file system may find out here only that there is no room.
        Ok(nix::unistd::close(file)?)
    }

    fn row(&self) -> String {
        let Self { start, bytes, serviced, failed, .. } = self;
        format!("{:10.5}, {bytes:10}, {serviced:10}, {failed:10}", start.elapsed().as_secs_f64())
    }
}
