//! The serving side.

use std::ffi::{c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use super::super::guard;
use super::client::socket_path;
use super::error::shm_channel_error_t::{self, SHM_CHANNEL_NULL, SHM_CHANNEL_RANGE};
use super::error::status;
use shm_channel::{MAX_KEY, OpenFile, Server, ServerConfig, Store, StoreError};

/// The most threads of a server.
pub const SHM_CHANNEL_MAX_THREADS: u32 = 1024;

/// Gives the file behind a key: a descriptor that is open for reading.
///
/// `key`: `key_len` bytes, which may have NULs among them, and a NUL after them. `user`: what the server was created
/// with.
///
/// Returns a descriptor of a regular file, or a negative errno.
///
/// Errors: for -ENOENT, -EACCES, -EPERM, -ENOTDIR, -EISDIR, -ELOOP and -ENAMETOOLONG the client sees
/// SHM_CHANNEL_NOT_FOUND. For any other it sees SHM_CHANNEL_UNREADABLE. So it does for a descriptor of anything but a
/// regular file, and of a file that is written all the time. A file that was written within the last 10 ms keeps
/// the thread until that time is over, so that a later write shows; 2 s if its time has whole seconds.
///
/// Ownership: the server owns the descriptor and closes it. The key is valid until the return.
///
/// Threads: all of the server's, several at once. The callback must return: it must not leave by longjmp, an exception
/// or cancellation.
#[allow(non_camel_case_types)]
pub type shm_channel_open_t =
    Option<unsafe extern "C" fn(key: *const c_char, key_len: usize, user: *mut c_void) -> c_int>;

/// A server: a command socket, a thread that accepts clients, and threads that serve them.
#[allow(non_camel_case_types)]
pub struct shm_channel_server_t(#[allow(dead_code, reason = "owned, and stopped when dropped")] Server);

/// Makes a server and starts it. Clients of the same user, and of root, may connect.
///
/// `socket`: the path of the command socket, NUL-terminated. NULL is the default: $XDG_RUNTIME_DIR/simplecached.sock,
/// otherwise /tmp/gfproxy-UID/simplecached.sock.
/// `threads`: the number of threads that serve requests, 1 to SHM_CHANNEL_MAX_THREADS. A transfer whose client does not
/// read holds none.
/// `open`: gives the files, see shm_channel_open_t. `user`: is passed on to `open`; may be NULL.
/// `server`: receives the server, on success only.
///
/// Returns SHM_CHANNEL_OK. Errors: SHM_CHANNEL_NULL if `open` or `server` is NULL; SHM_CHANNEL_RANGE;
/// SHM_CHANNEL_IN_USE; SHM_CHANNEL_SOCKET; SHM_CHANNEL_SYSTEM.
///
/// Ownership: the server is the caller's, to be freed with shm_channel_server_free. `socket` is copied. `user` stays
/// the caller's, and must stay valid until the server was freed.
///
/// Threads: any. First block the signals that a thread of the program is to take.
///
/// # Safety
/// `socket` is NULL or NUL-terminated. `open` is NULL or may be called with `user` on any thread until the server was
/// freed, and returns descriptors that nobody else closes. `server` is NULL or points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shm_channel_server_create(
    socket: *const c_char,
    threads: u32,
    open: shm_channel_open_t,
    user: *mut c_void,
    server: *mut *mut shm_channel_server_t,
) -> shm_channel_error_t {
    status(|| {
        let (Some(open), false) = (open, server.is_null()) else { return Err(SHM_CHANNEL_NULL) };
        if !(1..=SHM_CHANNEL_MAX_THREADS).contains(&threads) {
            return Err(SHM_CHANNEL_RANGE);
        }
        // SAFETY: the caller's promise.
        let socket = unsafe { socket_path(socket) };
        let config = ServerConfig { socket, threads: threads as usize, ..ServerConfig::default() };
        let started = Server::start(&config, Arc::new(Callback { open, user }))?;
        // SAFETY: not NULL, and room for a pointer by the caller's promise.
        unsafe { server.write(Box::into_raw(Box::new(shm_channel_server_t(started)))) };
        Ok(())
    })
}

/// Stops a server and frees it: removes the socket and joins all threads.
///
/// `server`: the server. NULL does nothing.
///
/// Transfers end within moments. They go on if another server takes the socket in time.
///
/// Threads: any but the server's own, so not from the callback; once; not in a signal handler.
///
/// # Safety
/// `server` is NULL or what shm_channel_server_create made, and not freed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn shm_channel_server_free(server: *mut shm_channel_server_t) {
    guard((), || {
        if !server.is_null() {
            // SAFETY: made by Box::into_raw, and freed once, by the caller's promise.
            drop(unsafe { Box::from_raw(server) });
        }
    });
}

/// A store that asks C.
struct Callback {
    open: unsafe extern "C" fn(*const c_char, usize, *mut c_void) -> c_int,
    user: *mut c_void,
}

// SAFETY: the creator promised that the callback may be called with `user` on any thread.
unsafe impl Send for Callback {}
// SAFETY: as above, and on several at once.
unsafe impl Sync for Callback {}

impl Store for Callback {
    fn open(&self, key: &[u8]) -> Result<Arc<OpenFile>, StoreError> {
        let mut text = [0; MAX_KEY + 1];
        text[..key.len()].copy_from_slice(key);
        // SAFETY: the creator promised that it may be called so; the key ends with a NUL and lives until the return.
        let descriptor = unsafe { (self.open)(text.as_ptr().cast(), key.len(), self.user) };
        if descriptor < 0 {
            let reason = io::Error::from_raw_os_error(descriptor.saturating_neg());
            return Err(StoreError::of(&reason));
        }
        // SAFETY: the callback gave its ownership away.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
        OpenFile::new(file).map(Arc::new).map_err(|error| StoreError::Failed(error.to_string()))
    }
}
