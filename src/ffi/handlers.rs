//! The handlers that a program registers with `GFS_WORKER_FUNC`.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use log::{debug, error};

use crate::kit_abi::{ContextReply, path_bytes};
use crate::proxy::{Connection, Proxy, Route, Settings, StartError};
use base::process::{NoCancel, ignore_write_signals, is_ending, wait_for_end};
use base::standard::settle;
use base::{LeftOut, Limiter};
use getfile::Outcome;
use gfserver::abi::GfContext;

/// Answers a request with a file from an HTTP origin: `path` is appended to the origin's base URL.
///
/// `ctx`: the context that gfserver gave to its worker function. `path`: NUL-terminated. `arg`: the origin's base URL,
/// NUL-terminated; where it is NULL or no http or https URL, the origin is that of gfproxy_start, or of the environment
/// variable GFPROXY_ORIGIN. A number below 4096, such as a worker's, counts as NULL; any other `arg` must be a string.
///
/// Returns the number of bytes of the file that were sent. An HTTP status 404, 410, 401, 403 or 451 is answered with
/// GF_FILE_NOT_FOUND and returns 0. Any other failure before the first byte returns -1, upon which gfserver answers
/// GF_ERROR; a failure after it cuts the connection and returns -1, so that the client sees a short file. NULL for
/// `ctx` or `path` returns -1.
///
/// Threads: any number at once, each with its own context. The thread is not cancelled (pthread_cancel) meanwhile.
///
/// # Safety
/// `ctx` and `path` are NULL or what gfserver gave to the worker function that calls this; `arg` is below 4096 or a
/// NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn handle_with_curl(ctx: *mut GfContext, path: *const c_char, arg: *mut c_void) -> libc::ssize_t {
    // SAFETY: the caller's promise is the same.
    unsafe { handle(Route::Origin, ctx, path, arg) }
}

/// Answers a request with a file from the cache daemon, through shared memory. A file that the daemon does not have is
/// GF_FILE_NOT_FOUND.
///
/// Connects to the daemon if that has not been done. Where gfproxy_start was not called, the environment variables
/// GFPROXY_SOCKET, GFPROXY_SEGMENTS, GFPROXY_SEGMENT_SIZE, GFPROXY_CACHE_WAIT_MS, GFPROXY_STALL_MS and
/// GFPROXY_METRICS count, and a GFPROXY_ORIGIN that cannot be used is an error here, too. `arg` is not used: it
/// may be anything, and is never looked at. A daemon that is
/// absent or silent is waited for, 10 s unless set otherwise. Parameters, returns, errors and threads otherwise as with
/// handle_with_curl.
///
/// # Safety
/// As with handle_with_curl, but for `arg`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn handle_with_cache(
    ctx: *mut GfContext,
    path: *const c_char,
    arg: *mut c_void,
) -> libc::ssize_t {
    // SAFETY: the caller's promise is the same.
    unsafe { handle(Route::Cache, ctx, path, arg) }
}

/// Answers a request with a file from the cache daemon or, where that does not have it, from the origin. A daemon that
/// is not there has not said that it does not have the file: the request waits for it as with handle_with_cache, then
/// is GF_ERROR. Parameters, returns, errors and threads as with handle_with_cache and handle_with_curl.
///
/// # Safety
/// As with handle_with_curl.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn handle_with_cache_or_curl(
    ctx: *mut GfContext,
    path: *const c_char,
    arg: *mut c_void,
) -> libc::ssize_t {
    // SAFETY: the caller's promise is the same.
    unsafe { handle(Route::CacheThenOrigin, ctx, path, arg) }
}

/// # Safety
/// As with handle_with_curl.
unsafe fn handle(route: Route, ctx: *mut GfContext, path: *const c_char, arg: *mut c_void) -> libc::ssize_t {
    if ctx.is_null() {
        return -1;
    }
    // SAFETY: the path outlives the handler's call, which this function is part of.
    let Some(path) = (unsafe { path_bytes(path) }) else { return -1 };
    // Declared before all that it guards, so that it ends last.
    let _no_cancel = NoCancel::new();
    ignore_write_signals();
    settle();
    // SAFETY: a live context, for the length of the handler's call.
    let mut reply = unsafe { ContextReply::new(ctx) };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: no address or NUL-terminated, by the caller's promise.
        let origin = if route == Route::Cache { None } else { unsafe { origin_url(arg) } };
        match Proxy::get() {
            Ok(proxy) => proxy.handle(route, path, origin, &mut reply),
            Err(error) => {
                complain(&error);
                // The provided gfserver would wait without end for a client that does not close.
                let Settings { linger, stall, .. } = Settings::default();
                reply.set_timeouts(linger, stall);
                Outcome::Failed(error.to_string())
            }
        }
    }));
    if is_ending() {
        // What the provided gfserver would do with a context that it has freed is no better than the end.
        wait_for_end();
    }
    match outcome {
        Ok(Outcome::Sent(bytes)) => bytes as libc::ssize_t,
        Ok(Outcome::NotFound) => 0,
        Ok(Outcome::Failed(_) | Outcome::Cut(_)) => -1,
        // The panic hook has told where and why.
        Err(_) => {
            if reply.header_sent() {
                reply.cut();
            }
            -1
        }
    }
}

/// A stop is what the program wants; all else is wrong with its environment, and each request says so.
fn complain(error: &StartError) {
    static ERRORS: LazyLock<Limiter<()>> = LazyLock::new(|| Limiter::new(module_path!(), 1));
    if matches!(error, StartError::Stopped) {
        debug!("gfproxy: {error}");
    } else if let Some(left_out) = ERRORS.admit(()) {
        error!("gfproxy: {error}{}", LeftOut(left_out));
    }
}

/// What is smaller is a number, not an address: no process has memory there.
const LOWEST_ADDRESS: usize = 4096;

/// The worker's argument, if it is a URL.
///
/// # Safety
/// `arg` is below [`LOWEST_ADDRESS`] or NUL-terminated for `'a`.
unsafe fn origin_url<'a>(arg: *mut c_void) -> Option<&'a str> {
    if arg.addr() < LOWEST_ADDRESS {
        return None;
    }
    // SAFETY: NUL-terminated by the caller's promise.
    let text = unsafe { CStr::from_ptr(arg.cast()) }.to_str().ok()?;
    let scheme = text.split_once("://")?.0;
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")).then_some(text)
}
