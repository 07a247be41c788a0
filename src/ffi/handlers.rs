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

/// Answers a request with a file from an HTTP origin. `path` is appended to the origin's base URL.
///
/// `ctx`: the context that gfserver gave to its worker function. `path`: NUL-terminated. `arg`: the origin's base URL,
/// NUL-terminated. If `arg` is NULL, or no http or https URL, the origin is that of gfproxy_start, otherwise that of
/// the environment variable GFPROXY_ORIGIN. A number below 4096, such as a worker's, counts as NULL.
///
/// Returns the number of bytes of the file that were sent. For an HTTP status 401, 403, 404, 410 or 451 it sends
/// GF_FILE_NOT_FOUND and returns 0.
///
/// Errors: -1. Any other failure before the first byte makes gfserver answer GF_ERROR. A failure after it cuts the
/// connection, so that the client sees a short file. NULL for `ctx` or `path` is -1, too.
///
/// Threads: any number at once, each with its own context. pthread_cancel does not act during the call.
///
/// # Safety
/// `ctx` and `path` are NULL or what gfserver gave to the worker function that calls this. `arg` is below 4096 or a
/// NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn handle_with_curl(ctx: *mut GfContext, path: *const c_char, arg: *mut c_void) -> libc::ssize_t {
    // SAFETY: the caller's promise is the same.
    unsafe { handle(Route::Origin, ctx, path, arg) }
}

/// handle_with_curl under a name that no program takes: what stands behind handle_with_file in `c/compat.c`.
///
/// # Safety
/// As with handle_with_curl.
///
/// cbindgen:ignore
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_handle_with_file(
    ctx: *mut GfContext,
    path: *const c_char,
    arg: *mut c_void,
) -> libc::ssize_t {
    // SAFETY: the caller's promise is the same.
    unsafe { handle(Route::Origin, ctx, path, arg) }
}

/// Answers a request with a file from the cache daemon, through shared memory. It connects to the daemon if that has
/// not been done.
///
/// `ctx` and `path`: as with handle_with_curl. `arg`: anything; it is never looked at.
///
/// Returns as handle_with_curl. For a file that the daemon does not have it sends GF_FILE_NOT_FOUND and returns 0.
///
/// Errors: as with handle_with_curl. An absent or silent daemon is waited for, by default 10000 ms; then the request is
/// GF_ERROR.
///
/// If gfproxy_start was not called, these environment variables count: GFPROXY_SOCKET, GFPROXY_SEGMENTS,
/// GFPROXY_SEGMENT_SIZE, GFPROXY_CACHE_WAIT_MS, GFPROXY_STALL_MS and GFPROXY_METRICS. A GFPROXY_ORIGIN that cannot be
/// used is an error here, too.
///
/// Threads: as with handle_with_curl.
///
/// # Safety
/// `ctx` and `path` are NULL or what gfserver gave to the worker function that calls this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn handle_with_cache(
    ctx: *mut GfContext,
    path: *const c_char,
    arg: *mut c_void,
) -> libc::ssize_t {
    // SAFETY: the caller's promise is the same.
    unsafe { handle(Route::Cache, ctx, path, arg) }
}

/// Answers a request with a file from the cache daemon, or from the origin if the daemon does not have it.
///
/// `ctx`, `path` and `arg`: as with handle_with_curl.
///
/// Returns as handle_with_curl.
///
/// Errors: as with handle_with_curl. The origin is asked only after the daemon has said that it does not have the file.
/// An absent daemon is waited for as with handle_with_cache; then the request is GF_ERROR.
///
/// Threads: as with handle_with_curl.
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

/// Logs why a request found no proxy. A stop is what the program wants: a debug line. Any other reason is wrong with
/// the program's environment: an error, at most once a second.
fn complain(error: &StartError) {
    static ERRORS: LazyLock<Limiter<()>> = LazyLock::new(|| Limiter::new(module_path!(), 1));
    if matches!(error, StartError::Stopped) {
        debug!("gfproxy: {error}");
    } else if let Some(left_out) = ERRORS.admit(()) {
        error!("gfproxy: {error}{}", LeftOut(left_out));
    }
}

/// A smaller value is a number, not an address: no process has memory there.
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
