//! Where log lines go: standard error, one line each, through the `log` facade. `docs/logging.md` describes them.

mod limit;
mod line;
mod queue;

use std::env;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::Duration;

use env_filter::Filter;
use jiff::Timestamp;
use log::{Level, LevelFilter, Log, Metadata, Record, warn};
use parking_lot::Mutex;

use crate::sys::process::{at_exit, spawn};
use crate::sys::standard::{self, StandardError};
pub(crate) use limit::{LeftOut, Limiter};
use line::Format;
use queue::Queue;

/// How long the end of the process waits for lines that nobody takes.
const LAST_LINES: Duration = Duration::from_millis(250);

struct Logger {
    filter: Filter,
    format: Format,
    queue: Queue,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();
/// The thread that writes.
static WRITER: Mutex<Option<JoinHandle<()>>> = Mutex::new(None);

/// Starts logging, unless the program has a logger of its own. `verbosity` is the number of `-v`; the variable
/// `GFPROXY_LOG` (`info`, or `gfproxy::channel=debug,warn`) says more precisely what to log, `GFPROXY_LOG_FORMAT` (`text`
/// or `json`) how. Only the first call counts.
pub(crate) fn start(verbosity: i32) {
    standard::note();
    let mut complaints = Vec::new();
    let filter = filter(verbosity, &mut complaints);
    let format = env::var_os("GFPROXY_LOG_FORMAT").unwrap_or_default();
    let format = match format.as_bytes() {
        b"" | b"text" => Format::Text,
        b"json" => Format::Json,
        _ => {
            complaints.push(format!("GFPROXY_LOG_FORMAT={format:?} is neither text nor json: text it is"));
            Format::Text
        }
    };
    let level = filter.filter();
    let mut first = false;
    let logger = LOGGER.get_or_init(|| {
        first = true;
        Logger { filter, format, queue: Queue::default() }
    });
    // The program's own logger stays.
    if !first || log::set_logger(logger).is_err() {
        return;
    }
    let writer = spawn("log", || logger.queue.write_to(StandardError, |dropped| logger.dropped(dropped)));
    match writer {
        Ok(writer) => *WRITER.lock() = Some(writer),
        Err(error) => return standard::complain(format_args!("gfproxy: no thread for the log: {error}")),
    }
    at_exit(end);
    log::set_max_level(level);
    for complaint in complaints {
        warn!("{complaint}");
    }
}

/// Waits a moment until what was logged is written.
pub(crate) fn flush() {
    if let Some(logger) = LOGGER.get() {
        logger.queue.flush(LAST_LINES);
    }
}

/// How many lines standard error did not take.
pub(crate) fn dropped() -> u64 {
    LOGGER.get().map_or(0, |logger| logger.queue.lost())
}

/// The last thing that is logged: the writer writes it and leaves. One that standard error does not let go stays.
extern "C" fn end() {
    let Some(logger) = LOGGER.get() else { return };
    if logger.queue.flush(LAST_LINES)
        && let Some(writer) = WRITER.lock().take()
    {
        logger.queue.end();
        // A writer that panicked has printed why.
        let _ = writer.join();
    }
}

fn filter(verbosity: i32, complaints: &mut Vec<String>) -> Filter {
    let level = match verbosity {
        ..=0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        3.. => LevelFilter::Trace,
    };
    let mut builder = env_filter::Builder::new();
    builder.filter_level(level);
    if let Some(filters) = env::var_os("GFPROXY_LOG").filter(|filters| !filters.is_empty()) {
        let filters = filters.to_string_lossy();
        match builder.try_parse(&filters) {
            Ok(_) => complaints.extend(strangers(&filters).map(|name| {
                format!(
                    "GFPROXY_LOG={filters:?}: '{name}' is neither a level nor the beginning of a target such as gfproxy"
                )
            })),
            Err(error) => {
                complaints.push(format!("GFPROXY_LOG={filters:?}: {error}: not used"));
                builder = env_filter::Builder::new();
                builder.filter_level(level);
            }
        }
    }
    builder.build()
}

/// The targets that `filters` names and that no line has. To the filter a level that is misspelt is one of them.
fn strangers(filters: &str) -> impl Iterator<Item = &str> {
    const OURS: &str = env!("CARGO_CRATE_NAME");
    // What follows a slash is a pattern for the text.
    let names = filters.split('/').next().unwrap_or_default().split(',').filter_map(|filter| {
        let (name, level) =
            filter.split_once('=').map_or((filter.trim(), None), |(name, level)| (name.trim(), Some(level)));
        (level.is_some() || name.parse::<LevelFilter>().is_err()).then_some(name)
    });
    names.filter(|name| !OURS.starts_with(name) && !name.starts_with(OURS))
}

impl Logger {
    /// The line that tells of lines that were dropped.
    fn dropped(&self, count: u64) -> Vec<u8> {
        let fields = [("dropped", count)];
        let args = format_args!("{count} log lines dropped: standard error did not take them");
        let record = Record::builder().level(Level::Warn).target(module_path!()).args(args).key_values(&fields).build();
        self.format.line(&record, Timestamp::now())
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.filter.matches(record) {
            self.queue.add(&self.format.line(record, Timestamp::now()));
        }
    }

    fn flush(&self) {
        self.queue.flush(LAST_LINES);
    }
}
