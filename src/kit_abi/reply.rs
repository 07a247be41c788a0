//! The adapter from [`Reply`] to `gfs_sendheader` and `gfs_send`, of the provided gfserver or ours.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::size_of;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{SockaddrStorage, getpeername};

use super::send_buffer::SendBuffer;
use crate::proxy::Connection;
use base::Chunk;
use base::process::is_ending;
use getfile::{ClientGone, Reply, Status};
use gfserver::abi::{GF_ERROR, GF_FILE_NOT_FOUND, GF_OK, GfContext};

unsafe extern "C" {
    fn gfs_sendheader(ctx: *mut GfContext, status: c_int, file_len: usize) -> isize;
    fn gfs_send(ctx: *mut GfContext, data: *mut c_void, size: usize) -> isize;
}

/// The [`Reply`] of a handler that runs under a gfserver, the provided one or ours.
pub(crate) struct ContextReply {
    ctx: *mut GfContext,
    socket: c_int,
    header_sent: bool,
    buffer: SendBuffer,
    /// Asked for at once: of a client that has left the kernel does not know it any more.
    peer: Option<SockaddrStorage>,
}

impl ContextReply {
    /// # Safety
    /// `ctx` is the context that the server gave to the handler that is running on this thread; the value must not
    /// outlive that handler's call.
    pub(crate) unsafe fn new(ctx: *mut GfContext) -> Self {
        // SAFETY: a live context, by the caller's promise.
        let socket = unsafe { (*ctx).socket };
        Self { ctx, socket, header_sent: false, buffer: SendBuffer::new(socket), peer: getpeername(socket).ok() }
    }

    /// At the end of the process the context may be gone.
    fn check_end(&self) -> Result<(), ClientGone> {
        if is_ending() { Err(ClientGone) } else { Ok(()) }
    }

    /// A failure is ignored: on a socket that is no TCP socket (a test's pair) these options do not exist.
    fn set_option<T>(&self, level: c_int, option: c_int, value: &T) {
        // SAFETY: the kernel reads size_of::<T>() bytes of a value that outlives the call.
        unsafe {
            libc::setsockopt(
                self.socket,
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
    }
}

impl Connection for ContextReply {
    // The provided server lingers in recv(2) until the client closes, and blocks in write(2) on one that does not read.
    // Ours waits for no client, and its connections have their limit for sends from the start.
    fn set_timeouts(&self, receive: Duration, send: Duration) {
        let is_ours = gfserver::calls_handler();
        let receive = (!is_ours).then_some((libc::SO_RCVTIMEO, receive));
        let send = (!is_ours || send != gfserver::SEND_LIMIT).then_some((libc::SO_SNDTIMEO, send));
        for (option, limit) in receive.into_iter().chain(send) {
            let limit = libc::timeval {
                tv_sec: limit.as_secs() as libc::time_t,
                tv_usec: limit.subsec_micros() as libc::suseconds_t,
            };
            self.set_option(libc::SOL_SOCKET, option, &limit);
        }
    }

    fn set_cork(&self, on: bool) {
        self.set_option(libc::IPPROTO_TCP, libc::TCP_CORK, &c_int::from(on));
    }

    fn room(&mut self, len: usize, patience: Duration) -> usize {
        self.buffer.room(len, patience)
    }

    fn drains(&self, limit: Duration) -> bool {
        self.buffer.drains(limit)
    }

    fn header_sent(&self) -> bool {
        self.header_sent
    }

    // The only honest end of a transfer that broke off: the provided gfserver would append an error text or fill the
    // rest with zeros.
    fn cut(&self) {
        // SAFETY: shutdown(2) on a number; a wrong one is an error that changes nothing.
        unsafe { libc::shutdown(self.socket, libc::SHUT_RDWR) };
    }

    fn peer(&self) -> String {
        let Some(address) = &self.peer else { return "-".to_owned() };
        // An IPv4 client of an IPv6 socket is an IPv4 client.
        let v6 = address.as_sockaddr_in6().map(|v6| SocketAddr::new(v6.ip().to_canonical(), v6.port()));
        v6.map_or_else(|| address.to_string(), |address| address.to_string())
    }
}

impl Reply for ContextReply {
    fn header(&mut self, status: Status, len: u64) -> Result<(), ClientGone> {
        let status = match status {
            Status::Ok => GF_OK,
            Status::FileNotFound => GF_FILE_NOT_FOUND,
            Status::Error => GF_ERROR,
        };
        let len = usize::try_from(len).map_err(|_| ClientGone)?;
        self.check_end()?;
        self.header_sent = true;
        // SAFETY: `new`'s caller promised a live context.
        let sent = unsafe { gfs_sendheader(self.ctx, status, len) };
        if sent < 0 { Err(ClientGone) } else { Ok(()) }
    }

    fn body(&mut self, chunk: Chunk<'_>) -> Result<(), ClientGone> {
        self.check_end()?;
        // SAFETY: a live context, and a chunk that stays mapped; gfs_send hands the pointer to write(2) and reads
        // nothing itself, so memory that changes meanwhile is no data race of this program's.
        let sent = unsafe { gfs_send(self.ctx, chunk.as_ptr().cast_mut().cast(), chunk.len()) };
        if usize::try_from(sent) == Ok(chunk.len()) { Ok(()) } else { Err(ClientGone) }
    }
}

/// The path of a request as bytes.
///
/// # Safety
/// `path` is NULL or points to a NUL-terminated string that stays unchanged for `'a`.
pub(crate) unsafe fn path_bytes<'a>(path: *const c_char) -> Option<&'a [u8]> {
    if path.is_null() {
        return None;
    }
    // SAFETY: not NULL; the rest is the caller's promise.
    Some(unsafe { CStr::from_ptr(path) }.to_bytes())
}
