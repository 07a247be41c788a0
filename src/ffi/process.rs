//! The life of the process: `gfproxy_<verb>`.

use std::error::Error;
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use log::error;
use parking_lot::Mutex;
use sd_notify::NotifyState;

use super::guard;
use crate::daemon::{Config, Daemon};
use crate::proxy::{Proxy, Settings};
use base::fork::PerProcess;
use base::process::ignore_write_signals;
use base::standard::complain;
use shm_channel::{self as channel, ClientConfig, ServerConfig};
use telemetry::logging;

/// The fewest bytes of a shared-memory segment.
pub const GFPROXY_MIN_SEGMENT_SIZE: u32 = 824;
/// The most bytes of a shared-memory segment.
pub const GFPROXY_MAX_SEGMENT_SIZE: u32 = 67108864;
/// The most shared-memory segments.
pub const GFPROXY_MAX_SEGMENTS: u32 = 4096;
/// The most bytes of all shared-memory segments together.
pub const GFPROXY_MAX_SHARED_SIZE: u64 = 4294967296;
/// The most worker threads of a cache daemon.
pub const GFPROXY_MAX_THREADS: u32 = 1024;

const _: () = {
    assert!(GFPROXY_MIN_SEGMENT_SIZE == channel::MIN_SEGMENT_SIZE);
    assert!(GFPROXY_MAX_SEGMENT_SIZE == channel::MAX_SEGMENT_SIZE);
    assert!(GFPROXY_MAX_SEGMENTS == channel::MAX_SEGMENTS);
    assert!(GFPROXY_MAX_SHARED_SIZE == channel::MAX_AREA);
};

/// Returns the version of this library as NUL-terminated text, such as "1.2.3".
///
/// Ownership: the library's; it is never freed.
///
/// Threads: any, at any time; also in a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn gfproxy_version() -> *const c_char {
    VERSION.as_ptr()
}

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => unreachable!(),
};

/// The options of a proxy. Fill them with gfproxy_options_init, then change some.
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct gfproxy_options_t {
    /// The base URL of the HTTP origin, NUL-terminated, or NULL for none.
    pub origin: *const c_char,
    /// The path of simplecached's command socket, NUL-terminated, or NULL for the default.
    pub socket: *const c_char,
    /// The number of segments to share with simplecached: 1 to GFPROXY_MAX_SEGMENTS, 32 by default. All of them
    /// together have at most GFPROXY_MAX_SHARED_SIZE bytes.
    pub segments: u32,
    /// The bytes of a segment: GFPROXY_MIN_SEGMENT_SIZE to GFPROXY_MAX_SEGMENT_SIZE, 1048576 by default.
    pub segment_size: u32,
    /// How many milliseconds a request waits for an absent or silent simplecached: 10000 by default.
    pub cache_wait_ms: u32,
    /// A client that takes no byte for this many milliseconds is dropped: 1 or more, 30000 by default.
    pub stall_ms: u32,
    /// What is logged: 0 warnings (the default), 1 each request too, 2 debug, 3 trace.
    pub verbosity: i32,
    /// Whether to connect to simplecached at once: true by default. With false the first handle_with_cache connects.
    /// The handler decides whether simplecached is asked: handle_with_curl never asks it. With the other two handlers
    /// a request waits cache_wait_ms for an absent simplecached, then fails.
    pub cache: bool,
    /// The address that serves Prometheus metrics over HTTP, "HOST:PORT", NUL-terminated, or NULL for none.
    pub metrics: *const c_char,
}

/// The options of a cache daemon. Fill them with gfproxy_cached_options_init, then change some.
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct gfproxy_cached_options_t {
    /// The path of the locals file, NUL-terminated: "locals.txt" by default.
    pub locals: *const c_char,
    /// The path of the command socket, NUL-terminated, or NULL for the default.
    pub socket: *const c_char,
    /// The number of worker threads: 1 to GFPROXY_MAX_THREADS, 8 by default.
    pub threads: u32,
    /// The delay of each lookup in microseconds: 0 by default.
    pub delay_us: u32,
    /// What is logged: 0 warnings (the default), 1 proxies that come and go too, 2 debug, 3 trace.
    pub verbosity: i32,
    /// The address that serves Prometheus metrics over HTTP, "HOST:PORT", NUL-terminated, or NULL for none.
    pub metrics: *const c_char,
}

/// Sets the defaults.
///
/// `options`: the options to fill. NULL does nothing.
///
/// Threads: any.
///
/// # Safety
/// `options` is NULL or points to memory for one gfproxy_options_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_options_init(options: *mut gfproxy_options_t) {
    if options.is_null() {
        return;
    }
    guard((), || {
        let settings = Settings::default();
        let defaults = gfproxy_options_t {
            origin: std::ptr::null(),
            socket: std::ptr::null(),
            segments: settings.channel.segments,
            segment_size: settings.channel.segment_size,
            cache_wait_ms: settings.channel.wait.as_millis() as u32,
            stall_ms: settings.stall.as_millis() as u32,
            verbosity: settings.verbosity,
            cache: settings.cache,
            metrics: std::ptr::null(),
        };
        // SAFETY: not NULL, room for one value by the caller's promise.
        unsafe { options.write(defaults) };
    });
}

/// Tells whether gfproxy_start would take a URL as the base URL of an origin: http or https, without query and
/// fragment.
///
/// `url`: NUL-terminated. `reason`: NULL, or memory for `size` bytes. It receives the reason for a refusal,
/// NUL-terminated and cut to that size.
///
/// Returns 0 for a URL that can be used. Errors: -1 for any other, and for NULL.
///
/// Threads: any.
///
/// # Safety
/// `url` is NULL or NUL-terminated. `reason` is NULL or points to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_check_origin(url: *const c_char, reason: *mut c_char, size: usize) -> c_int {
    guard(-1, || {
        // SAFETY: NULL or NUL-terminated by the caller's promise.
        let checked = match unsafe { bytes(url) }.map(str::from_utf8) {
            Some(Ok(url)) => origin::check_base(url),
            Some(Err(_)) => Err("it is not UTF-8".to_owned()),
            None => Err("it is NULL".to_owned()),
        };
        let Err(problem) = checked else { return 0 };
        // SAFETY: NULL or room for `size` bytes by the caller's promise.
        unsafe { write_text(&problem, reason, size) };
        -1
    })
}

/// Writes what may be shown of `url`, the base URL of an origin: all but a user name and a password, which become
/// "***". The URL need not be one that gfproxy_start would take.
///
/// - `url`: NUL-terminated. For NULL the text is empty.
/// - `shown`: gets the text, NUL-terminated and cut to `size` bytes. Where it is NULL or `size` is 0, nothing is
///   written.
///
/// Threads: any.
///
/// # Safety
/// `url` is NULL or NUL-terminated; `shown` is NULL or points to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_show_origin(url: *const c_char, shown: *mut c_char, size: usize) {
    guard((), || {
        // SAFETY: NULL or NUL-terminated by the caller's promise.
        let url = unsafe { bytes(url) }.unwrap_or_default();
        // SAFETY: NULL or room for `size` bytes by the caller's promise.
        unsafe { write_text(&origin::shown(&String::from_utf8_lossy(url)), shown, size) };
    });
}

/// Writes `text` with a NUL, cut to `size` bytes in all.
///
/// # Safety
/// `to` is NULL or points to `size` bytes.
unsafe fn write_text(text: &str, to: *mut c_char, size: usize) {
    if to.is_null() || size == 0 {
        return;
    }
    let len = text.len().min(size - 1);
    // SAFETY: not NULL, room for `size` bytes by the caller's promise, of which at most `size` are written.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), len);
        to.add(len).write(0);
    }
}

/// Starts the proxy that the handlers of this process use. simplecached need not be there yet.
///
/// It starts logging to standard error, and ignores SIGPIPE and SIGXFSZ unless the program handles them. It checks the
/// origin. It sets up the channel to simplecached, which has a thread of its own.
///
/// `options`: the options.
///
/// Returns 0 on success. Errors: -1 after one line on standard error, which names the reason:
/// - `options` is NULL, or an option is out of range.
/// - The origin is no URL.
/// - There is no memory for the segments.
/// - The address for metrics cannot be had.
/// - A proxy was started before and not stopped.
///
/// Ownership: `options` and its strings are copied.
///
/// Threads: one, before the handlers run. The threads that it starts take no signals.
///
/// # Safety
/// `options` is NULL or points to options whose strings are NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_start(options: *const gfproxy_options_t) -> c_int {
    guard(-1, || {
        // SAFETY: NULL or valid by the caller's promise.
        let Some(options) = (unsafe { options.as_ref() }) else {
            complain(format_args!("gfproxy_start: options are NULL"));
            return -1;
        };
        logging::start(options.verbosity);
        ignore_write_signals();
        // SAFETY: NULL or NUL-terminated by the caller's promise.
        let (origin, socket, metrics) =
            unsafe { (bytes(options.origin), bytes(options.socket), bytes(options.metrics)) };
        let Ok(origin_url) = origin.map(str::from_utf8).transpose() else {
            complain(format_args!(
                "gfproxy: the origin \"{}\" is not UTF-8",
                origin.unwrap_or_default().escape_ascii()
            ));
            return -1;
        };
        let settings = Settings {
            cache: options.cache,
            origin: origin_url.map(str::to_owned),
            channel: ClientConfig {
                socket: socket.map_or_else(channel::default_socket, path),
                segments: options.segments,
                segment_size: options.segment_size,
                wait: ms(options.cache_wait_ms),
            },
            stall: ms(options.stall_ms),
            verbosity: options.verbosity,
            metrics: metrics.map(text),
            ..Settings::default()
        };
        match Proxy::start(settings) {
            Ok(()) => 0,
            Err(error) => {
                logging::flush();
                complain(format_args!("gfproxy: {error}"));
                -1
            }
        }
    })
}

/// Refuses new requests and waits until nothing of an answer would be lost by the end of the process.
///
/// From the call on the handlers refuse requests, and gfserver answers GF_ERROR. The call waits for three things, in
/// this order:
///
/// 1. Requests that handlers have begun.
/// 2. Requests to the origin whose last reader has gone.
/// 3. The clients' systems, until each has acknowledged every byte that was sent over this process's TCP connections.
///
/// `limit_ms`: the most milliseconds for all three together.
///
/// Returns 0 when all is done, and 0 if no proxy was started. When the time is over, it returns how many are left of
/// the first of the three that is not done. The log has the number, too. Handlers may then still run: end the process
/// with _exit(2). exit(3) would clean up libraries such as OpenSSL that the handlers still use.
///
/// Threads: any but a handler's; not in a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn gfproxy_drain(limit_ms: u32) -> c_int {
    guard(0, || Proxy::current().map_or(0, |proxy| proxy.drain(ms(limit_ms)) as c_int))
}

/// Stops the proxy: closes the channel to simplecached and joins its thread.
///
/// Transfers that still run break off. Handlers answer GF_ERROR until gfproxy_start is called again. Everything logged
/// is written. Without a started proxy it does nothing.
///
/// Threads: any but a handler's; not in a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn gfproxy_stop() {
    guard((), || {
        if let Some(proxy) = Proxy::current() {
            proxy.stop();
            logging::flush();
        }
    });
}

/// How long the end of the process waits for a lock.
const MOMENT: Duration = Duration::from_millis(250);

/// The process's daemon.
static DAEMON: PerProcess<Mutex<Option<Arc<Daemon>>>> = PerProcess::new();

/// A child of fork(2) begins without a daemon: it has none of its parent's threads.
fn daemon() -> &'static Mutex<Option<Arc<Daemon>>> {
    DAEMON.get_or(|_| Mutex::default())
}

/// Stops the daemon at the end of the process.
fn end_daemon() {
    let daemon = DAEMON.get().and_then(|daemon| daemon.try_lock_for(MOMENT)?.take());
    if let Some(daemon) = daemon {
        daemon.stop();
    }
}

/// Sets the defaults.
///
/// `options`: the options to fill. NULL does nothing.
///
/// Threads: any.
///
/// # Safety
/// `options` is NULL or points to memory for one gfproxy_cached_options_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_cached_options_init(options: *mut gfproxy_cached_options_t) {
    if options.is_null() {
        return;
    }
    guard((), || {
        let defaults = gfproxy_cached_options_t {
            locals: c"locals.txt".as_ptr(),
            socket: std::ptr::null(),
            threads: ServerConfig::default().threads as u32,
            delay_us: 0,
            verbosity: 0,
            metrics: std::ptr::null(),
        };
        // SAFETY: not NULL, room for one value by the caller's promise.
        unsafe { options.write(defaults) };
    });
}

/// Starts the cache daemon of this process: loads the locals file, binds the command socket, starts a boss thread and
/// the workers.
///
/// A listening SOCK_SEQPACKET socket that a service manager handed over (LISTEN_FDS) is the command socket. The service
/// manager is told when the daemon is ready (NOTIFY_SOCKET).
///
/// `options`: the options.
///
/// Returns 0 on success. Errors: -1 after one line on standard error, which names the reason:
/// - `options` is NULL, or the number of threads is out of range.
/// - The locals file cannot be read.
/// - Another daemon serves the command socket, or the socket cannot be made.
/// - The address for metrics cannot be had.
/// - A daemon was started before.
///
/// Ownership: `options` and its strings are copied.
///
/// Threads: one. The threads that it starts take no signals.
///
/// # Safety
/// `options` is NULL or points to options whose strings are NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_cached_start(options: *const gfproxy_cached_options_t) -> c_int {
    guard(-1, || {
        // SAFETY: NULL or valid by the caller's promise.
        let Some(options) = (unsafe { options.as_ref() }) else {
            complain(format_args!("gfproxy_cached_start: options are NULL"));
            return -1;
        };
        logging::start(options.verbosity);
        ignore_write_signals();
        // SAFETY: NULL or NUL-terminated by the caller's promise.
        let (locals, socket, metrics) =
            unsafe { (bytes(options.locals), bytes(options.socket), bytes(options.metrics)) };
        let Some(locals) = locals else {
            complain(format_args!("gfproxy_cached_start: no locals file was named"));
            return -1;
        };
        let threads = options.threads;
        if !(1..=GFPROXY_MAX_THREADS).contains(&threads) {
            complain(format_args!("simplecached: {threads} threads: not in 1 to {GFPROXY_MAX_THREADS}"));
            return -1;
        }
        let mut daemon = daemon().lock();
        if daemon.is_some() {
            complain(format_args!("simplecached: started already"));
            return -1;
        }
        let server = ServerConfig {
            socket: socket.map_or_else(channel::default_socket, path),
            threads: threads as usize,
            inherit: true,
        };
        let delay = Duration::from_micros(options.delay_us.into());
        match start_daemon(Config { locals: path(locals), delay, server }, metrics.map(text)) {
            Ok(started) => {
                *daemon = Some(started);
                logging::at_end(end_daemon);
                notify(NotifyState::Ready);
                0
            }
            Err(error) => {
                logging::flush();
                complain(format_args!("simplecached: {error}"));
                -1
            }
        }
    })
}

fn start_daemon(config: Config, metrics: Option<String>) -> Result<Arc<Daemon>, Box<dyn Error>> {
    let daemon = Arc::new(Daemon::start(config)?);
    if let Some(address) = metrics {
        daemon.serve_metrics(&address)?;
    }
    Ok(daemon)
}

/// Loads the locals file again. Transfers that have begun end with the old files.
///
/// Returns 0 on success. Errors: -1 if no daemon was started, if the file cannot be read, or if it has a line that is
/// no entry. The old table then stays in force, and the log says why.
///
/// Threads: any; not in a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn gfproxy_cached_reload() -> c_int {
    guard(-1, || {
        let daemon = daemon().lock().clone();
        match daemon.map(|daemon| daemon.reload()) {
            Some(Ok(())) => 0,
            Some(Err(error)) => {
                // Not written here: this may be the thread that takes the signals, and standard error may be stuck.
                error!("{error}: the files loaded before stay");
                -1
            }
            None => -1,
        }
    })
}

/// Stops the daemon: removes the command socket and joins all threads.
///
/// Transfers end within moments, and go on with the next daemon. Without a started daemon it does nothing.
///
/// Threads: any; not in a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn gfproxy_cached_stop() {
    guard((), || {
        let daemon = daemon().lock().take();
        if let Some(daemon) = daemon {
            notify(NotifyState::Stopping);
            daemon.stop();
        }
    });
}

/// Tells the service manager the state, if there is a manager.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::warn!("cannot notify the service manager: {error}");
    }
}

fn ms(milliseconds: u32) -> Duration {
    Duration::from_millis(milliseconds.into())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// # Safety
/// `text` is NULL or NUL-terminated for `'a`.
unsafe fn bytes<'a>(text: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: NULL was asked for first; NUL-terminated by the caller's promise.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_bytes())
}
