//! The asking side.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::guard;
use super::error::shm_channel_error_t::{self, SHM_CHANNEL_CLOSED, SHM_CHANNEL_NULL};
use super::error::status;
use super::transfer::shm_channel_transfer_t;
use base::fork::PerProcess;
use base::process::cancel_here;
use shm_channel::{self as channel, Client, ClientConfig};

/// The fewest bytes of a segment.
pub const SHM_CHANNEL_MIN_SEGMENT_SIZE: u32 = 824;
/// The most bytes of a segment.
pub const SHM_CHANNEL_MAX_SEGMENT_SIZE: u32 = 67108864;
/// The most segments. All of them together have at most 4 GiB.
pub const SHM_CHANNEL_MAX_SEGMENTS: u32 = 4096;
/// The most bytes of a key.
pub const SHM_CHANNEL_MAX_KEY: usize = 4095;

const _: () = {
    assert!(SHM_CHANNEL_MIN_SEGMENT_SIZE == channel::MIN_SEGMENT_SIZE);
    assert!(SHM_CHANNEL_MAX_SEGMENT_SIZE == channel::MAX_SEGMENT_SIZE);
    assert!(SHM_CHANNEL_MAX_SEGMENTS == channel::MAX_SEGMENTS);
    assert!(SHM_CHANNEL_MAX_KEY == channel::MAX_KEY);
};

/// A client: a pool of shared-memory segments and a session with a server, kept by a thread of its own.
#[allow(non_camel_case_types)]
pub struct shm_channel_client_t(Arc<Handle>);

/// What a client and its transfers share, in the process that made the client and in its children.
pub(super) struct Handle {
    client: PerProcess<Arc<Client>>,
    is_freed: AtomicBool,
}

impl Handle {
    fn new(client: Client) -> Self {
        let handle = Self { client: PerProcess::new(), is_freed: AtomicBool::new(false) };
        handle.client.get_or(|_| Arc::new(client));
        handle
    }

    /// The client of this process. A child of fork(2) makes one of its own.
    pub(super) fn client(&self) -> Result<Arc<Client>, shm_channel_error_t> {
        if self.is_freed.load(Ordering::Acquire) {
            return Err(SHM_CHANNEL_CLOSED);
        }
        let client = self.client.get_or_try(|parents| {
            let parents = parents.expect("it was made with one");
            parents.forsake();
            Client::start(parents.config().clone()).map(Arc::new)
        })?;
        Ok(Arc::clone(client))
    }

    fn free(&self) {
        self.is_freed.store(true, Ordering::Release);
        if let Some(client) = self.client.get() {
            client.stop();
        }
    }
}

/// Makes a client. The server need not be there yet: the client's thread connects, and connects again after a loss.
///
/// `socket`: the path of the server's command socket, NUL-terminated. NULL is the default:
/// $XDG_RUNTIME_DIR/simplecached.sock, otherwise /tmp/gfproxy-UID/simplecached.sock.
/// `segments`: the number of shared-memory segments, 1 to SHM_CHANNEL_MAX_SEGMENTS. Each transfer uses one, and more
/// while others are idle.
/// `segment_size`: their size in bytes, SHM_CHANNEL_MIN_SEGMENT_SIZE to SHM_CHANNEL_MAX_SEGMENT_SIZE.
/// `wait_ms`: how many milliseconds an open, or a transfer that has begun, waits for an absent or silent server.
/// `client`: receives the client, on success only.
///
/// Returns SHM_CHANNEL_OK. Errors: SHM_CHANNEL_NULL if `client` is NULL; SHM_CHANNEL_RANGE; SHM_CHANNEL_SYSTEM.
///
/// Ownership: the client is the caller's, to be freed with shm_channel_client_free. `socket` is copied.
///
/// Threads: any.
///
/// fork(2): the child may use the client, too. Its first call makes a session, memory and a thread of the child's own,
/// which may fail with SHM_CHANNEL_SYSTEM. Nothing that the child does reaches the parent's client. The child may free
/// its copy or leave it. A transfer that was begun before the fork goes on in both processes. vfork(2) and
/// posix_spawn(3) need no care.
///
/// # Safety
/// `socket` is NULL or NUL-terminated. `client` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shm_channel_client_create(
    socket: *const c_char,
    segments: u32,
    segment_size: u32,
    wait_ms: u32,
    client: *mut *mut shm_channel_client_t,
) -> shm_channel_error_t {
    status(|| {
        if client.is_null() {
            return Err(SHM_CHANNEL_NULL);
        }
        // SAFETY: the caller's promise.
        let socket = unsafe { socket_path(socket) };
        let wait = Duration::from_millis(wait_ms.into());
        let started = Client::start(ClientConfig { socket, segments, segment_size, wait })?;
        let handle = Box::into_raw(Box::new(shm_channel_client_t(Arc::new(Handle::new(started)))));
        // SAFETY: not NULL, and room for a pointer by the caller's promise.
        unsafe { client.write(handle) };
        Ok(())
    })
}

/// Asks the server for the file behind a key, and waits for the answer.
///
/// `client`: the client. `key`: `key_len` bytes of any value, at most SHM_CHANNEL_MAX_KEY; it may be NULL if `key_len`
/// is
/// 0. `transfer`: receives the file on its way, on success only.
///
/// Returns SHM_CHANNEL_OK. Errors: SHM_CHANNEL_NULL; SHM_CHANNEL_KEY_TOO_LONG; SHM_CHANNEL_NOT_FOUND;
/// SHM_CHANNEL_UNREADABLE; SHM_CHANNEL_UNAVAILABLE or SHM_CHANNEL_NO_SEGMENT after the client's `wait_ms`;
/// SHM_CHANNEL_CLOSED if the client is freed meanwhile.
///
/// Ownership: the transfer is the caller's, to be freed with shm_channel_transfer_free, before the client or after it.
/// `key` is copied.
///
/// Threads: any number at once with one client. If there are more transfers than segments, they wait for each other. So
/// a thread that keeps one open must not open a second while another thread does the same.
///
/// pthread_cancel: acts before this call has done anything, or after its return. No function of this library is
/// cancelled in between. Do not call the library with asynchronous cancelability (PTHREAD_CANCEL_ASYNCHRONOUS).
///
/// # Safety
/// `client` is NULL or what shm_channel_client_create made, and is not freed before this returns. `key` is NULL or
/// points to `key_len` bytes. `transfer` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn shm_channel_client_open(
    client: *const shm_channel_client_t,
    key: *const c_char,
    key_len: usize,
    transfer: *mut *mut shm_channel_transfer_t,
) -> shm_channel_error_t {
    // SAFETY: nothing in this frame or above it is Rust's and has to be dropped, should the thread end here.
    unsafe { cancel_here() };
    status(|| {
        // SAFETY: NULL or a live client by the caller's promise.
        let Some(shm_channel_client_t(handle)) = (unsafe { client.as_ref() }) else { return Err(SHM_CHANNEL_NULL) };
        if transfer.is_null() || (key.is_null() && key_len > 0) {
            return Err(SHM_CHANNEL_NULL);
        }
        if key_len > SHM_CHANNEL_MAX_KEY {
            return Err(shm_channel_error_t::SHM_CHANNEL_KEY_TOO_LONG);
        }
        let key = match key_len {
            0 => &[],
            // SAFETY: not NULL, and so many bytes by the caller's promise.
            _ => unsafe { std::slice::from_raw_parts(key.cast(), key_len) },
        };
        let opened = shm_channel_transfer_t::open(handle, key)?;
        // SAFETY: not NULL, and room for a pointer by the caller's promise.
        unsafe { transfer.write(Box::into_raw(Box::new(opened))) };
        Ok(())
    })
}

/// Ends a client's session and its thread, and frees it.
///
/// `client`: the client. NULL does nothing.
///
/// Ownership: transfers that are still open fail with SHM_CHANNEL_CLOSED. They keep the shared memory mapped until they
/// are freed.
///
/// Threads: any, once, while no thread is in shm_channel_client_open with this client; not in a signal handler.
///
/// # Safety
/// `client` is NULL or what shm_channel_client_create made, and not freed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shm_channel_client_free(client: *mut shm_channel_client_t) {
    guard((), || {
        if !client.is_null() {
            // SAFETY: made by Box::into_raw, and freed once, by the caller's promise.
            let shm_channel_client_t(handle) = *unsafe { Box::from_raw(client) };
            handle.free();
        }
    });
}

/// The path that a C string names, or the default.
///
/// # Safety
/// `socket` is NULL or NUL-terminated.
pub(super) unsafe fn socket_path(socket: *const c_char) -> PathBuf {
    if socket.is_null() {
        return channel::default_socket();
    }
    // SAFETY: not NULL, and the caller's promise.
    PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(socket) }.to_bytes()))
}
