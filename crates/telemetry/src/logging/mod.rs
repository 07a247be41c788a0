//! Where log lines go: standard error, one line each, through the `log` facade; `docs/reference/logging.md`.

mod line;
mod queue;

use std::env;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, mem, ptr};

use env_filter::Filter;
use jiff::Timestamp;
use log::{Level, LevelFilter, Log, Metadata, Record, warn};
use parking_lot::Mutex;

use base::fork::PerProcess;
use base::process::{at_exit, begin_end, spawn};
use base::standard::{self, StandardError};
use line::Format;
use queue::Queue;

/// How long the end of the process waits for lines that nobody takes.
const LAST_LINES: Duration = Duration::from_millis(250);
/// How long it waits for the last tasks.
const LAST_TASKS_LIMIT: Duration = Duration::from_secs(2);

struct Logger {
    filter: Filter,
    format: Format,
    /// Those that wait at a fork(2) are the parent's to write.
    output: PerProcess<Output>,
}

#[derive(Default)]
struct Output {
    queue: Queue,
    is_written: AtomicBool,
    /// The thread that writes.
    writer: Mutex<Option<JoinHandle<()>>>,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();
/// What the writer does at the end of the process, before its last lines.
static LAST_TASKS: Mutex<Vec<fn()>> = Mutex::new(Vec::new());

/// Starts logging, unless the program has a logger of its own. `verbosity` is the number of `-v`; the variable
/// `GFPROXY_LOG` (`info`, or `shm_channel=debug,warn`) says more precisely what to log, `GFPROXY_LOG_FORMAT` (`text`
/// or `json`) how. Only the first call counts.
pub fn start(verbosity: i32) {
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
        Logger { filter, format, output: PerProcess::new() }
    });
    // The program's own logger stays.
    if !first || log::set_logger(logger).is_err() {
        return;
    }
    if let Err(error) = logger.output().write(logger) {
        return standard::complain(format_args!("gfproxy: no thread for the log: {error}"));
    }
    at_exit(end);
    log::set_max_level(level);
    for complaint in complaints {
        warn!("{complaint}");
    }
}

/// Waits a moment until what was logged is written.
pub fn flush() {
    if let Some(output) = LOGGER.get().and_then(|logger| logger.output.get()) {
        output.queue.flush(LAST_LINES);
    }
}

/// How many lines standard error did not take.
pub fn dropped() -> u64 {
    LOGGER.get().and_then(|logger| logger.output.get()).map_or(0, |output| output.queue.lost())
}

/// Lets the writer do `task` when the program calls exit(3) or returns from main. Not the thread that does: a signal
/// handler may call exit(3), on a thread that holds the locks which the task takes.
///
/// What libraries clean up that were set up before this call is still there then.
pub fn at_end(task: fn()) {
    let mut tasks = LAST_TASKS.lock();
    if !tasks.iter().any(|&known| ptr::fn_addr_eq(known, task)) {
        tasks.push(task);
    }
    drop(tasks);
    at_exit(end);
}

fn do_last_tasks() {
    for task in mem::take(&mut *LAST_TASKS.lock()) {
        task();
    }
}

/// The last thing that is logged: the writer writes it and leaves. One that standard error does not let go stays, and
/// so does one whose tasks take too long. A child of fork(2) that has logged nothing has no writer.
extern "C" fn end() {
    begin_end();
    let Some(output) = LOGGER.get().and_then(|logger| logger.output.get()) else { return };
    if output.queue.flush(LAST_LINES)
        && output.queue.end(LAST_TASKS_LIMIT)
        && let Some(writer) = output.writer.try_lock_for(LAST_LINES).and_then(|mut writer| writer.take())
    {
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
    const OURS: [&str; 7] = ["gfproxy", "shm_channel", "origin", "gfserver", "telemetry", "getfile", "base"];
    // What follows a slash is a pattern for the text.
    let names = filters.split('/').next().unwrap_or_default().split(',').filter_map(|filter| {
        let (name, level) =
            filter.split_once('=').map_or((filter.trim(), None), |(name, level)| (name.trim(), Some(level)));
        (level.is_some() || name.parse::<LevelFilter>().is_err()).then_some(name)
    });
    names.filter(|name| !OURS.iter().any(|ours| ours.starts_with(name) || name.starts_with(ours)))
}

impl Output {
    /// Starts the writer, unless that was done before.
    fn write(&'static self, logger: &'static Logger) -> io::Result<()> {
        if self.is_written.load(Ordering::Relaxed) || self.is_written.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let told = |dropped| logger.dropped(dropped);
        let writer = spawn("log", move || self.queue.write_to(StandardError, told, do_last_tasks))?;
        *self.writer.lock() = Some(writer);
        Ok(())
    }
}

impl Logger {
    fn output(&self) -> &Output {
        self.output.get_or(|_| Output::default())
    }

    /// The line that reports dropped lines.
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
            self.output().queue.add(&self.format.line(record, Timestamp::now()));
            // In a child of fork(2), nobody writes it yet. Where no thread is to be had it stays unwritten.
            let _ = LOGGER.get().map(|logger| logger.output().write(logger));
        }
    }

    fn flush(&self) {
        flush();
    }
}
