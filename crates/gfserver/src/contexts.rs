//! The server's side of the two structs in gfserver.h: the array of contexts, the calls of the program's handler, and
//! the view of a context that `gfs_sendheader` and `gfs_send` work on.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ptr;

use super::abi::{GfContext, GfServer, MAX_REQUEST_LEN, Steque, WorkerFunc};
use super::net::Listener;

/// Where the words of a request lie in its bytes. A separator follows each.
#[derive(Debug, PartialEq, Eq)]
pub struct Words {
    pub protocol: Range<usize>,
    pub method: Range<usize>,
    pub path: Range<usize>,
}

/// What a handler's call left in its context.
pub struct Called {
    pub returned: isize,
    pub file_len: usize,
    pub sent: usize,
}

/// Allocates the array of contexts for `gfs`. To be freed with [`free`].
pub fn allocate(gfs: *mut GfServer, count: usize) -> *mut GfContext {
    let empty = || GfContext {
        // SAFETY: pthread_self has no preconditions; the worker that gets this context writes its own id.
        thread: unsafe { libc::pthread_self() },
        arg: ptr::null_mut(),
        gfs,
        socket: -1,
        file_len: 0,
        bytes_transferred: 0,
        protocol: ptr::null_mut(),
        method: ptr::null_mut(),
        path: ptr::null_mut(),
        request: [0; MAX_REQUEST_LEN],
    };
    let contexts: Box<[GfContext]> = (0..count).map(|_| empty()).collect();
    Box::into_raw(contexts).cast()
}

/// Frees what [`allocate`] made.
///
/// # Safety
/// `first` came from [`allocate`] with the same `count`, is freed once, and no handler is running.
pub unsafe fn free(first: *mut GfContext, count: usize) {
    // SAFETY: the caller's promise; a boxed slice is its first element's address and its length.
    drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(first, count)) });
}

thread_local! {
    static CALLS_HANDLER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a handler that a worker of this server called.
pub fn calls_handler() -> bool {
    CALLS_HANDLER.get()
}

/// One worker's context: the right to call the handler with it. Dropped before the array is freed.
pub struct Context {
    raw: *mut GfContext,
    handler: WorkerFunc,
}

// SAFETY: the array belongs to no thread. A context is used by the one thread that owns this value, and during a call
// by threads that its handler brings in.
unsafe impl Send for Context {}

impl Context {
    /// # Safety
    /// `raw` is an element of an array from [`allocate`] that lives as long as this value, and no other `Context` is
    /// made of it. `handler` is what the program registered with `GFS_WORKER_FUNC`, to be called with its contexts.
    pub unsafe fn new(raw: *mut GfContext, handler: WorkerFunc) -> Self {
        Self { raw, handler }
    }

    /// Notes the calling thread as the context's.
    pub fn adopt(&mut self) {
        // SAFETY: `new`'s caller promised a live element that is this value's alone.
        unsafe { (*self.raw).thread = libc::pthread_self() };
    }

    /// Calls the handler for a request of `line`, whose words become C strings.
    pub fn call(&mut self, socket: &OwnedFd, line: &mut [u8], words: &Words) -> Called {
        let ctx = self.raw;
        for word in [&words.protocol, &words.method, &words.path] {
            line[word.end] = 0;
        }
        // SAFETY: `new`'s caller promised a live element that is this value's alone; the handler gets it for the
        // length of its call only. The words lie inside `line`, which outlives the call, and have their NUL.
        // The program's handler is called as the program asked for.
        unsafe {
            let kept = line.len().min(MAX_REQUEST_LEN - 1);
            let request = (&raw mut (*ctx).request).cast::<u8>();
            ptr::copy_nonoverlapping(line.as_ptr(), request, kept);
            *request.add(kept) = 0;
            // A request too long for the context's own array stays in the worker's buffer.
            let text = if kept == line.len() { request } else { line.as_mut_ptr() };
            (*ctx).protocol = text.add(words.protocol.start).cast();
            (*ctx).method = text.add(words.method.start).cast();
            (*ctx).path = text.add(words.path.start).cast();
            (*ctx).socket = socket.as_raw_fd();
            (*ctx).file_len = 0;
            (*ctx).bytes_transferred = 0;
            CALLS_HANDLER.set(true);
            let returned = (self.handler)(ctx, (*ctx).path, (*ctx).arg);
            CALLS_HANDLER.set(false);
            (*ctx).socket = -1;
            Called { returned, file_len: (*ctx).file_len, sent: (*ctx).bytes_transferred }
        }
    }
}

/// The running handler's context, for the length of one `gfs_sendheader` or `gfs_send`.
pub struct View {
    raw: *mut GfContext,
}

impl View {
    /// # Safety
    /// `raw` is the context that our server gave to a handler which has not returned yet, and no other thread uses it
    /// while this value lives.
    pub unsafe fn new(raw: *mut GfContext) -> Self {
        Self { raw }
    }

    pub fn socket(&self) -> RawFd {
        // SAFETY: `new`'s caller promised a live context without other users; so in every method below.
        unsafe { (*self.raw).socket }
    }

    /// Starts the count of a file of `len` bytes.
    pub fn set_file_len(&mut self, len: usize) {
        // SAFETY: as in `socket`.
        unsafe {
            (*self.raw).file_len = len;
            (*self.raw).bytes_transferred = 0;
        }
    }

    /// The bytes of the file that are still to be sent.
    pub fn remaining(&self) -> usize {
        // SAFETY: as in `socket`.
        unsafe { (*self.raw).file_len.saturating_sub((*self.raw).bytes_transferred) }
    }

    /// Counts bytes that the kernel took.
    pub fn add_sent(&mut self, count: usize) {
        // SAFETY: as in `socket`.
        unsafe { (*self.raw).bytes_transferred += count };
    }
}

/// A server's memory as the library's functions see it: the program's `gfserver_t`.
pub struct Fields {
    raw: *mut GfServer,
}

impl Fields {
    /// # Safety
    /// `raw` points to a `gfserver_t` that stays valid while this value lives. Fields that other threads may use at the
    /// same time are used under [`Self::locked`] only.
    pub unsafe fn new(raw: *mut GfServer) -> Self {
        Self { raw }
    }

    /// Writes a fresh server with `contexts` and the library's private `handle`.
    pub fn init(&mut self, nthreads: c_int, contexts: *mut GfContext, handle: *const c_void) {
        let fresh = GfServer {
            req_queue: Steque { front: handle.cast_mut(), back: ptr::null_mut(), n: 0 },
            port: 8888,
            max_npending: 10,
            nthreads,
            socket_fd: -1,
            worker_func: None,
            contexts,
            queue_lock: libc::PTHREAD_MUTEX_INITIALIZER,
            req_inserted: libc::PTHREAD_COND_INITIALIZER,
        };
        // SAFETY: `new`'s caller promised valid memory; so in every method below. Nothing in it needs a drop.
        unsafe { self.raw.write(fresh) };
    }

    /// The library's private handle, NULL where the server was not made by this library or is gone.
    pub fn handle(&self) -> *const c_void {
        // SAFETY: as in `init`.
        unsafe { (*self.raw).req_queue.front }
    }

    pub fn port(&self) -> u16 {
        // SAFETY: as in `init`.
        unsafe { (*self.raw).port }
    }

    pub fn set_port(&mut self, port: u16) {
        // SAFETY: as in `init`.
        unsafe { (*self.raw).port = port };
    }

    pub fn backlog(&self) -> c_int {
        // SAFETY: as in `init`.
        unsafe { (*self.raw).max_npending }
    }

    pub fn set_backlog(&mut self, backlog: c_int) {
        // SAFETY: as in `init`.
        unsafe { (*self.raw).max_npending = backlog };
    }

    pub fn handler(&self) -> Option<WorkerFunc> {
        // SAFETY: as in `init`.
        unsafe { (*self.raw).worker_func }
    }

    pub fn set_handler(&mut self, handler: Option<WorkerFunc>) {
        // SAFETY: as in `init`.
        unsafe { (*self.raw).worker_func = handler };
    }

    /// Notes the listening socket and, where the kernel chose it, its port.
    pub fn set_listener(&mut self, listener: &Listener) {
        if let Some(address) = listener.local_address() {
            self.set_port(address.port());
        }
        // SAFETY: as in `init`.
        unsafe { (*self.raw).socket_fd = listener.as_fd().as_raw_fd() };
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        // SAFETY: as in `init`.
        usize::try_from(unsafe { (*self.raw).nthreads }).unwrap_or(0)
    }

    /// The context of worker `index`, if there is such a worker.
    pub fn context(&self, index: usize) -> Option<*mut GfContext> {
        // SAFETY: as in `init`; the array has `nthreads` elements.
        (index < self.workers()).then(|| unsafe { (*self.raw).contexts.add(index) })
    }

    /// Sets the last argument of the handler's calls on one worker. False where there is no such worker.
    pub fn set_arg(&mut self, index: c_int, arg: *mut c_void) -> bool {
        let context = usize::try_from(index).ok().and_then(|index| self.context(index));
        // SAFETY: a live element of the array.
        context.map(|context| unsafe { (*context).arg = arg }).is_some()
    }

    /// Takes the array of contexts and the handle out, for good.
    pub fn clear(&mut self) -> *mut GfContext {
        // SAFETY: as in `init`.
        unsafe {
            (*self.raw).req_queue.front = ptr::null_mut();
            (*self.raw).socket_fd = -1;
            ptr::replace(&raw mut (*self.raw).contexts, ptr::null_mut())
        }
    }

    /// Runs `action` with the program's `queue_lock` held: it guards the private handle against being taken out by one
    /// thread while another follows it.
    pub fn locked<T>(&mut self, action: impl FnOnce(&mut Self) -> T) -> T {
        // SAFETY: `init` made the mutex; it is never destroyed, and `action` cannot unwind past the unlock unnoticed:
        // a panic here ends in the guard at the C boundary with the lock held, never in a torn handle.
        unsafe { libc::pthread_mutex_lock(&raw mut (*self.raw).queue_lock) };
        let result = action(self);
        // SAFETY: locked above, by this thread.
        unsafe { libc::pthread_mutex_unlock(&raw mut (*self.raw).queue_lock) };
        result
    }
}

/// The server and the index of the worker that a context belongs to.
///
/// # Safety
/// `ctx` is as in [`View::new`].
pub unsafe fn origin(ctx: *const GfContext) -> (*const c_void, usize) {
    // SAFETY: a live context of our server points to its gfserver_t, which the program keeps while it serves, and lies
    // in that server's array.
    unsafe {
        let gfs = (*ctx).gfs;
        (((*gfs).req_queue.front).cast_const(), ctx.offset_from((*gfs).contexts).unsigned_abs())
    }
}
