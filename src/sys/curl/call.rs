//! A transfer as libcurl's callbacks see it, and what they make of it for a [`Receiver`].

use std::any::Any;
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_long, c_void};
use std::mem;
use std::ops::ControlFlow;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

use curl_sys::{CURL, CURLINFO};
use nix::sys::socket::{MsgFlags, SockaddrStorage, getsockname, recv};

// What curl-sys leaves out, with the value of curl.h.
const CURLINFO_PROTOCOL: CURLINFO = curl_sys::CURLINFO_LONG + 48;

/// How many connections a handle keeps: one to the origin, and some to where it redirects.
pub(super) const CONNECTIONS: usize = 4;

/// The most that is put together, give or take one of libcurl's pieces.
const BLOCK: usize = 256 << 10;

/// Where a transfer goes. `Break` from any of these ends it.
pub(crate) trait Receiver {
    /// One line of a response head, with its line end; the heads of redirects and interim responses come first.
    fn header(&mut self, line: &[u8]) -> ControlFlow<()>;
    /// The next bytes of the body of the final response.
    fn body(&mut self, data: &[u8], wire: &Wire<'_>) -> ControlFlow<()>;
    /// Called between reads, and at least about once a second.
    fn tick(&mut self) -> ControlFlow<()>;
}

/// What is known of a transfer below its body: used to tell a body that is longer than its announced length.
pub(crate) struct Wire<'a> {
    handle: NonNull<CURL>,
    received: u64,
    slot: &'a Slot,
}

impl Wire<'_> {
    /// Whether more bytes than `length` have come after the head. libcurl itself drops them in silence. Data that is
    /// still on its way goes unseen, and so does what follows in a TLS stream.
    pub(crate) fn carries_more_than(&self, length: u64) -> bool {
        self.received > length || self.has_unread()
    }

    fn has_unread(&self) -> bool {
        if self.long_info(CURLINFO_PROTOCOL) != Some(curl_sys::CURLPROTO_HTTP.into()) {
            return false;
        }
        // libcurl tells the socket of a transfer only after its end, but the local port at any time.
        let Some(port) = self.long_info(curl_sys::CURLINFO_LOCAL_PORT) else { return false };
        let Some(socket) = self.slot.socket_of(port) else { return false };
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(socket, &mut [0], flags).is_ok_and(|length| length > 0)
    }

    fn long_info(&self, info: CURLINFO) -> Option<c_long> {
        let mut value: c_long = 0;
        // SAFETY: the handle lives for the whole transfer, and the infos asked for in this file write a long.
        let code = unsafe { curl_sys::curl_easy_getinfo(self.handle.as_ptr(), info, &raw mut value) };
        (code == curl_sys::CURLE_OK).then_some(value)
    }
}

/// The local port of an IP socket; none for a number that is no such socket (any more).
fn local_port(socket: RawFd) -> Option<u16> {
    let address = getsockname::<SockaddrStorage>(socket).ok()?;
    address.as_sockaddr_in().map(|a| a.port()).or_else(|| address.as_sockaddr_in6().map(|a| a.port()))
}

/// What the callbacks of a handle are given.
pub(super) struct Slot {
    /// The transfer that runs, NULL outside of `perform`.
    pub(super) call: Cell<*mut Call<'static>>,
    /// The sockets that were opened last. Some may be closed, and their numbers another's.
    sockets: Cell<[RawFd; CONNECTIONS]>,
    /// The socket that was found last, and its local port. A port that is asked for again is the same connection's.
    found: Cell<Option<(c_long, RawFd)>>,
}

impl Slot {
    pub(super) fn new() -> Self {
        Self { call: Cell::new(ptr::null_mut()), sockets: Cell::new([-1; CONNECTIONS]), found: Cell::new(None) }
    }

    fn opened(&self, socket: RawFd) {
        let mut sockets = self.sockets.get();
        sockets.rotate_right(1);
        sockets[0] = socket;
        self.sockets.set(sockets);
        self.found.set(None);
    }

    fn socket_of(&self, port: c_long) -> Option<RawFd> {
        if let Some((found_port, socket)) = self.found.get()
            && found_port == port
        {
            return Some(socket);
        }
        let has_port = |&socket: &RawFd| local_port(socket).is_some_and(|p| c_long::from(p) == port);
        let socket = self.sockets.get().into_iter().find(has_port)?;
        self.found.set(Some((port, socket)));
        Some(socket)
    }
}

/// A transfer that runs, as the callbacks see it.
pub(super) struct Call<'a> {
    pub(super) receiver: &'a mut dyn Receiver,
    /// The bytes that were read after the head, whatever libcurl makes of them.
    pub(super) received: u64,
    /// The bytes of the body that libcurl gave us.
    pub(super) given: u64,
    /// libcurl gives the bytes of one read in pieces of at most 16 KiB. They are put together here, as it costs less to
    /// copy them than to write each of them to a socket.
    pub(super) block: &'a mut Vec<u8>,
    pub(super) handle: NonNull<CURL>,
    pub(super) panic: Option<Box<dyn Any + Send>>,
}

impl Call<'_> {
    fn piece(&mut self, piece: &[u8], slot: &Slot) -> ControlFlow<()> {
        self.given += piece.len() as u64;
        let is_last = self.given >= self.received;
        if is_last && self.block.is_empty() {
            return self.body(piece, slot);
        }
        self.block.extend_from_slice(piece);
        // Of a chunked body all is given, but fewer bytes than were read: only their number tells when to go on.
        if is_last || self.block.len() >= BLOCK { self.flush(slot) } else { ControlFlow::Continue(()) }
    }

    /// Hands on what is there. Called after each read, too, as not every byte read is one of a body.
    pub(super) fn flush(&mut self, slot: &Slot) -> ControlFlow<()> {
        if self.block.is_empty() {
            return ControlFlow::Continue(());
        }
        let block = mem::take(self.block);
        let flow = self.body(&block, slot);
        *self.block = block;
        self.block.clear();
        flow
    }

    fn body(&mut self, data: &[u8], slot: &Slot) -> ControlFlow<()> {
        self.receiver.body(data, &Wire { handle: self.handle, received: self.received, slot })
    }
}

/// Runs `step` on the transfer that `data` leads to, unless one of its steps has panicked.
///
/// # Safety
/// `data` is what `set_callbacks` gave to libcurl, and this is a callback of a handle that is alive.
unsafe fn with_call(data: *mut c_void, step: impl FnOnce(&mut Call<'_>, &Slot) -> ControlFlow<()>) -> ControlFlow<()> {
    // SAFETY: the caller's promise: `data` points to the slot, which lives as long as its handle.
    let slot = unsafe { &*data.cast::<Slot>() };
    let call = slot.call.get();
    if call.is_null() {
        return ControlFlow::Break(());
    }
    // SAFETY: not NULL, so `perform` is running on this thread and lent its `call` to the callbacks, which run one at
    // a time.
    let call = unsafe { &mut *call };
    if call.panic.is_some() {
        return ControlFlow::Break(());
    }
    match catch_unwind(AssertUnwindSafe(|| step(call, slot))) {
        Ok(flow) => flow,
        Err(panic) => {
            call.panic = Some(panic);
            ControlFlow::Break(())
        }
    }
}

/// # Safety
/// `size` bytes from `data` on are readable for `'a`, or `size` is 0.
unsafe fn bytes<'a>(data: *const c_char, size: usize) -> &'a [u8] {
    if size == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(data.cast(), size) }
}

/// What tells libcurl that all was taken, or that the transfer ends.
fn taken(flow: ControlFlow<()>, size: usize) -> usize {
    match flow {
        ControlFlow::Continue(()) => size,
        ControlFlow::Break(()) => usize::from(size == 0),
    }
}

pub(super) extern "C" fn on_header(line: *mut c_char, size: usize, count: usize, data: *mut c_void) -> usize {
    let size = size * count;
    // SAFETY: libcurl gives `size` bytes for the length of this call.
    let line = unsafe { bytes(line, size) };
    // SAFETY: called by libcurl with what `set_callbacks` set.
    let flow = unsafe {
        with_call(data, |call, _| {
            if line == b"\r\n" || line == b"\n" {
                // From here on the debug callback hears of body bytes, and of little else.
                (call.received, call.given) = (0, 0);
                curl_sys::curl_easy_setopt(call.handle.as_ptr(), curl_sys::CURLOPT_VERBOSE, 1 as c_long);
            }
            call.receiver.header(line)
        })
    };
    taken(flow, size)
}

pub(super) extern "C" fn on_body(chunk: *mut c_char, size: usize, count: usize, data: *mut c_void) -> usize {
    let size = size * count;
    // SAFETY: libcurl gives `size` bytes for the length of this call.
    let chunk = unsafe { bytes(chunk, size) };
    // SAFETY: called by libcurl with what `set_callbacks` set.
    let flow = unsafe { with_call(data, |call, slot| call.piece(chunk, slot)) };
    taken(flow, size)
}

pub(super) extern "C" fn on_tick(data: *mut c_void, _: i64, _: i64, _: i64, _: i64) -> c_int {
    // SAFETY: called by libcurl with what `set_callbacks` set.
    let flow = unsafe {
        with_call(data, |call, slot| {
            call.flush(slot)?;
            call.receiver.tick()
        })
    };
    c_int::from(flow.is_break())
}

pub(super) extern "C" fn on_socket(
    data: *mut c_void,
    socket: curl_sys::curl_socket_t,
    _: curl_sys::curlsocktype,
) -> c_int {
    // SAFETY: called by libcurl with what `set_callbacks` set: the slot, which lives as long as its handle.
    let slot = unsafe { &*data.cast::<Slot>() };
    slot.opened(socket);
    0
}

/// Counts the bytes of a body as they are read, before libcurl drops what exceeds the length.
pub(super) extern "C" fn on_debug(
    _: *mut CURL,
    kind: curl_sys::curl_infotype,
    _: *mut c_char,
    size: usize,
    data: *mut c_void,
) -> c_int {
    if kind == curl_sys::CURLINFO_DATA_IN {
        // SAFETY: called by libcurl with what `set_callbacks` set.
        let _ = unsafe {
            with_call(data, |call, _| {
                call.received += size as u64;
                ControlFlow::Continue(())
            })
        };
    }
    0
}
