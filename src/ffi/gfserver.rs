//! Our own gfserver: what `c/gfserver.c` forwards to, and two settings that gfserver.h has no option for.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt::Display;
use std::net::IpAddr;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use super::guard;
use base::Chunk;
use base::process::block_signals;
use base::standard::complain;
use gfserver::abi::{GfContext, GfServer, WorkerFunc};
use gfserver::contexts::{self, Context, Fields, View};
use gfserver::{self, Instance, WorkerSlot};

/// Makes our gfserver listen on one address instead of all. Call it between gfserver_init and gfserver_serve.
///
/// `gfs`: the server. `address`: an IPv4 or IPv6 address as NUL-terminated text, an IPv6 one with or without brackets.
///
/// Returns 0 on success. Errors: -1 if `gfs` is NULL or belongs to another gfserver, which has no such setting; -2 if
/// `address` is NULL or no address.
///
/// Ownership: `address` is copied.
///
/// Threads: the one that sets the server up.
///
/// # Safety
/// `gfs` is NULL or a server that gfserver_init was called with. `address` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_gfserver_listen(gfs: *mut GfServer, address: *const c_char) -> c_int {
    guard(-1, || {
        // SAFETY: the caller's promise.
        let Some(instance) = (unsafe { instance(gfs) }) else { return -1 };
        // SAFETY: the caller's promise, and not NULL.
        let text = (!address.is_null()).then(|| unsafe { CStr::from_ptr(address) });
        match text.and_then(|text| text.to_str().ok()).and_then(parse_address) {
            Some(address) => instance.set_listen(address),
            None => return -2,
        }
        0
    })
}

/// Sets how long gfserver_stop lets running handlers go on before it cuts their connections.
///
/// `gfs`: the server. `milliseconds`: the limit, 5000 by default; 0 cuts at once.
///
/// Returns 0 on success. Errors: -1 if `gfs` is NULL or belongs to another gfserver.
///
/// Threads: any, at any time.
///
/// # Safety
/// `gfs` is NULL or a server that gfserver_init was called with.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_gfserver_set_stop_timeout(gfs: *mut GfServer, milliseconds: u32) -> c_int {
    guard(-1, || {
        // SAFETY: the caller's promise.
        let Some(instance) = (unsafe { instance(gfs) }) else { return -1 };
        instance.set_stop_timeout(Duration::from_millis(milliseconds.into()));
        0
    })
}

/// cbindgen:ignore
///
/// # Safety
/// `gfs` is NULL or points to a gfserver_t; no thread uses it yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_gfserver_init(gfs: *mut GfServer, nthreads: c_int) {
    guard((), || {
        if gfs.is_null() {
            return;
        }
        let workers = usize::try_from(nthreads).unwrap_or(0);
        if workers == 0 {
            die(format_args!("nthreads is {nthreads}, and must be 1 or more"));
        }
        let handle = Arc::into_raw(Arc::new(Instance::new(workers)));
        // SAFETY: the caller's promise.
        unsafe { Fields::new(gfs) }.init(nthreads, contexts::allocate(gfs, workers), handle.cast());
    });
}

/// cbindgen:ignore
///
/// # Safety
/// `gfs` is NULL or a server that gfserver_init was called with, and does not serve yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_gfserver_set_port(gfs: *mut GfServer, port: u16) {
    // SAFETY: the caller's promise.
    guard((), || unsafe { fields(gfs) }.map_or((), |mut fields| fields.set_port(port)));
}

/// cbindgen:ignore
///
/// # Safety
/// As for `gfproxy_gfserver_set_port`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_gfserver_set_backlog(gfs: *mut GfServer, backlog: c_int) {
    // SAFETY: the caller's promise.
    guard((), || unsafe { fields(gfs) }.map_or((), |mut fields| fields.set_backlog(backlog)));
}

/// cbindgen:ignore
///
/// # Safety
/// As for `gfproxy_gfserver_set_port`; `handler` is NULL or may be called with this server's contexts on any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_gfserver_set_handler(gfs: *mut GfServer, handler: Option<WorkerFunc>) {
    // SAFETY: the caller's promise.
    guard((), || unsafe { fields(gfs) }.map_or((), |mut fields| fields.set_handler(handler)));
}

/// cbindgen:ignore
///
/// # Safety
/// As for `gfproxy_gfserver_set_port`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_gfserver_set_arg(gfs: *mut GfServer, worker: c_int, arg: *mut c_void) {
    guard((), || {
        // SAFETY: the caller's promise.
        let Some(mut fields) = (unsafe { fields(gfs) }) else { return };
        if !fields.set_arg(worker, arg) {
            log::warn!("gfserver: GFS_WORKER_ARG for worker {worker}, but there are {} from 0", fields.workers());
        }
    });
}

/// cbindgen:ignore
///
/// # Safety
/// `gfs` is NULL or a server that gfserver_init was called with, and stays where it is until the return.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_gfserver_serve(gfs: *mut GfServer) {
    // SAFETY: the caller's promise.
    guard((), || unsafe { serve(gfs) });
}

/// # Safety
/// As for `gfproxy_gfserver_serve`.
unsafe fn serve(gfs: *mut GfServer) {
    // Workers take no signals: the program's own threads do. This thread does so while it sleeps.
    let signals = block_signals();
    // SAFETY: the caller's promise.
    let (Some(mut fields), Some(instance)) = (unsafe { (fields(gfs), instance(gfs)) }) else { return };
    let Some(handler) = fields.handler() else { die("no handler: GFS_WORKER_FUNC was not set") };
    let listener = instance.listen(fields.port(), fields.backlog()).unwrap_or_else(|e| die(e));
    let contexts = (0..fields.workers())
        .filter_map(|index| fields.context(index))
        // SAFETY: elements of the array that `init` allocated, one Context each; `release` frees it when the workers
        // are gone, or before there are any: then `serve` starts none.
        .map(|raw| unsafe { Context::new(raw, handler) })
        .collect();
    // After the last look at the contexts: a program that sees the socket may call gfserver_stop, which frees them.
    fields.set_listener(&listener);
    instance.serve(listener, contexts, signals).unwrap_or_else(|e| die(e));
    if !instance.is_parents() {
        release(&mut fields);
        instance.conclude();
    }
    let _ = signals.thread_set_mask();
}

/// cbindgen:ignore
///
/// # Safety
/// `gfs` is NULL or points to zeroes or to a server that gfserver_init was called with.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_gfserver_stop(gfs: *mut GfServer) {
    guard((), || {
        // SAFETY: the caller's promise.
        let (Some(mut fields), Some(instance)) = (unsafe { (fields(gfs), instance(gfs)) }) else { return };
        if !instance.stop() {
            release(&mut fields);
        }
    });
}

/// cbindgen:ignore
///
/// # Safety
/// `ctx` is NULL or the context of a handler that runs, and used by this thread alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_gfserver_send_header(ctx: *mut GfContext, status: c_int, file_len: usize) -> isize {
    guard(-1, || {
        // SAFETY: the caller's promise.
        unsafe { running(ctx) }.map_or(-1, |(mut view, slot)| gfserver::send_header(&mut view, slot, status, file_len))
    })
}

/// cbindgen:ignore
///
/// # Safety
/// As for `gfproxy_gfserver_send_header`; `size` bytes from `data` stay mapped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_gfserver_send(ctx: *mut GfContext, data: *const c_void, size: usize) -> isize {
    guard(-1, || {
        let chunk = Chunk::from_raw(data.cast(), size);
        // SAFETY: the caller's promise.
        unsafe { running(ctx) }.map_or(-1, |(mut view, slot)| gfserver::send(&mut view, slot, chunk))
    })
}

/// Ends a program whose server cannot start, as the provided object does.
fn die(reason: impl Display) -> ! {
    complain(format_args!("gfserver: {reason}"));
    process::exit(1)
}

/// # Safety
/// `gfs` is NULL or stays valid for as long as the result is used.
unsafe fn fields(gfs: *mut GfServer) -> Option<Fields> {
    // SAFETY: not NULL, and the caller's promise.
    (!gfs.is_null()).then(|| unsafe { Fields::new(gfs) })
}

/// The instance behind a server, if ours made it and it is not gone.
///
/// # Safety
/// `gfs` is NULL or points to zeroes or to a server that gfserver_init was called with.
unsafe fn instance(gfs: *mut GfServer) -> Option<Arc<Instance>> {
    // SAFETY: the caller's promise.
    unsafe { fields(gfs) }?.locked(|fields| {
        let handle = fields.handle().cast::<Instance>();
        // SAFETY: `init` left a count of this Arc in the handle, which `release` takes back under the same lock.
        (!handle.is_null()).then(|| unsafe {
            Arc::increment_strong_count(handle);
            Arc::from_raw(handle)
        })
    })
}

/// Frees what `init` allocated, once. The workers are gone.
fn release(fields: &mut Fields) {
    fields.locked(|fields| {
        let handle = fields.handle().cast::<Instance>();
        if !handle.is_null() {
            let count = fields.workers();
            // SAFETY: `init` made both, with this count; `clear` takes them out for good.
            unsafe {
                contexts::free(fields.clear(), count);
                drop(Arc::from_raw(handle));
            }
        }
    });
}

/// A running handler's context and its worker's slot.
///
/// # Safety
/// As for `gfproxy_gfserver_send_header`.
unsafe fn running<'a>(ctx: *mut GfContext) -> Option<(View, &'a WorkerSlot)> {
    if ctx.is_null() {
        return None;
    }
    // SAFETY: the caller's promise: the handler runs, so its server's handle is not released.
    let (handle, index) = unsafe { contexts::origin(ctx) };
    // SAFETY: as above; only `init` writes handles.
    let instance = unsafe { handle.cast::<Instance>().as_ref() }?;
    // SAFETY: the caller's promise.
    Some((unsafe { View::new(ctx) }, instance.slot(index)?))
}

fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok()
}
