//! The C ABI of gfserver: the layout of its two structs, which the provided object, our own server and the mains share.

use std::ffi::{c_char, c_int, c_void};
use std::mem::{offset_of, size_of};

/// The longest request the provided server reads, NUL included.
pub const MAX_REQUEST_LEN: usize = 128;

/// `GF_OK`, `GF_FILE_NOT_FOUND` and `GF_ERROR` of gfserver.h.
pub const GF_OK: c_int = 200;
pub const GF_FILE_NOT_FOUND: c_int = 400;
pub const GF_ERROR: c_int = 500;

/// A handler, `GFS_WORKER_FUNC`.
pub type WorkerFunc = unsafe extern "C" fn(*mut GfContext, *const c_char, *mut c_void) -> isize;

/// `steque_t`.
#[repr(C)]
pub struct Steque {
    pub front: *mut c_void,
    pub back: *mut c_void,
    pub n: c_int,
}

/// `gfserver_t`.
#[repr(C)]
pub struct GfServer {
    pub req_queue: Steque,
    pub port: u16,
    pub max_npending: c_int,
    pub nthreads: c_int,
    pub socket_fd: c_int,
    pub worker_func: Option<WorkerFunc>,
    pub contexts: *mut GfContext,
    pub queue_lock: libc::pthread_mutex_t,
    pub req_inserted: libc::pthread_cond_t,
}

/// `gfcontext_t`.
#[repr(C)]
pub struct GfContext {
    pub thread: libc::pthread_t,
    pub arg: *mut c_void,
    pub gfs: *mut GfServer,
    pub socket: c_int,
    pub file_len: usize,
    pub bytes_transferred: usize,
    pub protocol: *mut c_char,
    pub method: *mut c_char,
    pub path: *mut c_char,
    pub request: [c_char; MAX_REQUEST_LEN],
}

// Read off the provided object (x86-64 Linux); see docs/reference/gfserver.md.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
const _: () = {
    assert!(size_of::<GfServer>() == 144);
    assert!(offset_of!(GfServer, port) == 24);
    assert!(offset_of!(GfServer, max_npending) == 28);
    assert!(offset_of!(GfServer, nthreads) == 32);
    assert!(offset_of!(GfServer, socket_fd) == 36);
    assert!(offset_of!(GfServer, worker_func) == 40);
    assert!(offset_of!(GfServer, contexts) == 48);
    assert!(offset_of!(GfServer, queue_lock) == 56);
    assert!(offset_of!(GfServer, req_inserted) == 96);
    assert!(size_of::<GfContext>() == 200);
    assert!(offset_of!(GfContext, arg) == 8);
    assert!(offset_of!(GfContext, gfs) == 16);
    assert!(offset_of!(GfContext, socket) == 24);
    assert!(offset_of!(GfContext, file_len) == 32);
    assert!(offset_of!(GfContext, bytes_transferred) == 40);
    assert!(offset_of!(GfContext, protocol) == 48);
    assert!(offset_of!(GfContext, method) == 56);
    assert!(offset_of!(GfContext, path) == 64);
    assert!(offset_of!(GfContext, request) == 72);
};
