//! A transfer as libcurl's callbacks see it, and what they make of it for a [`Receiver`].

use std::any::Any;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::mem;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

use curl_sys::{CURL, CURLINFO};

use super::kept::{Ends, Kept, Sockets, Spoilt, Way};

// What curl-sys leaves out, with the values of curl.h.
const CURLINFO_CONTENT_LENGTH_DOWNLOAD_T: CURLINFO = 0x60_0000 + 15;
pub(super) const CURLINFO_PROTOCOL: CURLINFO = curl_sys::CURLINFO_LONG + 48;

/// The second byte of this alert.
const CLOSE_NOTIFY: u8 = 0;

/// How many connections a handle keeps: one to the origin, and some to where it redirects.
pub(super) const CONNECTIONS: usize = 4;

/// The most that is put together, give or take one of libcurl's pieces.
const BLOCK: usize = 256 << 10;

/// Where a transfer goes. `Break` from any of these ends it.
pub(crate) trait Receiver {
    /// One line of a response head, with its line end; the heads of redirects and interim responses come first.
    fn header(&mut self, line: &[u8]) -> ControlFlow<()>;
    /// The next bytes of the body of the final response.
    fn body(&mut self, data: &[u8]) -> ControlFlow<()>;
    /// The origin sent bytes that belong to no answer. They are dropped, and their connection is not used again.
    fn surplus(&mut self);
    /// The transfer begins, or begins again over another connection: no head of it counts. Whether connections are to
    /// be kept.
    fn begin(&mut self) -> bool;
    /// Called between reads, and at least about once a second.
    fn tick(&mut self) -> ControlFlow<()>;
}

/// What the callbacks of a handle are given.
pub(super) struct Slot {
    /// The transfer that runs, NULL outside of `perform`.
    pub(super) call: Cell<*mut Call<'static>>,
    pub(super) sockets: Sockets,
}

impl Slot {
    pub(super) fn new() -> Self {
        Self { call: Cell::new(ptr::null_mut()), sockets: Sockets::default() }
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
    /// The connection of the current request, if it was kept, and no answer has begun.
    pub(super) kept: Option<Kept>,
    /// Whether the transfer was ended as its connection must not be used.
    pub(super) is_spoilt: bool,
    /// Whether no other request will go over the connection, and so find what follows the answer.
    is_parting: bool,
    /// Whether the request went out in HTTP/2 or later, whatever the answer says of itself.
    pub(super) is_framed: bool,
    /// Whether the origin closed the answer's TLS connection with a close_notify.
    pub(super) has_close_notify: bool,
    pub(super) panic: Option<Box<dyn Any + Send>>,
}

impl<'a> Call<'a> {
    pub(super) fn new(receiver: &'a mut dyn Receiver, block: &'a mut Vec<u8>, handle: NonNull<CURL>) -> Self {
        Self {
            receiver,
            received: 0,
            given: 0,
            block,
            handle,
            kept: None,
            is_spoilt: false,
            is_parting: false,
            is_framed: false,
            has_close_notify: false,
            panic: None,
        }
    }

    /// A request is about to be sent.
    fn request(&mut self, way: Way) -> ControlFlow<()> {
        (self.is_framed, self.has_close_notify) = (false, false);
        self.kept = None;
        match way {
            Way::Safe => ControlFlow::Continue(()),
            Way::Kept(kept) => {
                self.kept = Some(kept);
                ControlFlow::Continue(())
            }
            Way::Spoilt(spoilt) => {
                if spoilt == Spoilt::Bytes {
                    self.receiver.surplus();
                }
                self.spoil()
            }
        }
    }

    /// The first line of an answer is here.
    fn answer(&mut self) -> ControlFlow<()> {
        let Some(kept) = self.kept.take() else { return ControlFlow::Continue(()) };
        if kept.is_answered() {
            return ControlFlow::Continue(());
        }
        self.receiver.surplus();
        self.spoil()
    }

    fn spoil(&mut self) -> ControlFlow<()> {
        self.is_spoilt = true;
        ControlFlow::Break(())
    }

    fn has_surplus(&self, slot: &Slot) -> bool {
        self.is_parting
            && content_length(self.handle) == Some(self.given)
            && long_info(self.handle, CURLINFO_PROTOCOL) == Some(curl_sys::CURLPROTO_HTTP.into())
            && slot.sockets.has_unread()
    }

    fn piece(&mut self, piece: &[u8], slot: &Slot) -> ControlFlow<()> {
        self.given += piece.len() as u64;
        if self.has_surplus(slot) {
            self.receiver.surplus();
        }
        let is_last = self.given >= self.received;
        if is_last && self.block.is_empty() {
            return self.receiver.body(piece);
        }
        self.block.extend_from_slice(piece);
        // Of a chunked body all is given, but fewer bytes than were read: only their number tells when to go on.
        if is_last || self.block.len() >= BLOCK { self.flush() } else { ControlFlow::Continue(()) }
    }

    /// Hands on what is there. Called after each read, too, as not every byte read is one of a body.
    pub(super) fn flush(&mut self) -> ControlFlow<()> {
        if self.block.is_empty() {
            return ControlFlow::Continue(());
        }
        let block = mem::take(self.block);
        let flow = self.receiver.body(&block);
        *self.block = block;
        self.block.clear();
        flow
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
        with_call(data, |call, slot| {
            if line.starts_with(b"HTTP/") {
                if call.is_framed {
                    slot.sockets.frame();
                }
                call.answer()?;
                call.is_parting = line.starts_with(b"HTTP/1.0");
            }
            call.is_parting |= line.eq_ignore_ascii_case(b"connection: close\r\n");
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
        with_call(data, |call, _| {
            call.flush()?;
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
    slot.sockets.opened(socket);
    0
}

pub(super) extern "C" fn on_close_socket(data: *mut c_void, socket: curl_sys::curl_socket_t) -> c_int {
    // SAFETY: as above. Connections are closed no later than their handle.
    let slot = unsafe { &*data.cast::<Slot>() };
    slot.sockets.closed(socket);
    // SAFETY: libcurl gives the socket away here.
    unsafe { libc::close(socket) }
}

/// Called when the connection for a request was chosen, before the request is sent.
pub(super) extern "C" fn on_request(
    data: *mut c_void,
    peer_ip: *const c_char,
    _: *const c_char,
    peer_port: c_int,
    local_port: c_int,
) -> c_int {
    // SAFETY: libcurl gives a NUL-terminated text for the length of this call.
    let peer_ip = unsafe { CStr::from_ptr(peer_ip) }.to_string_lossy();
    let ends = Ends::parse(&peer_ip, peer_port, local_port);
    // SAFETY: called by libcurl with what `set_callbacks` set.
    let flow = unsafe {
        with_call(data, |call, slot| {
            // Over TLS the request may be one of HTTP/2, which the debug callback hears.
            let is_tls = long_info(call.handle, CURLINFO_PROTOCOL) != Some(curl_sys::CURLPROTO_HTTP.into());
            curl_sys::curl_easy_setopt(call.handle.as_ptr(), curl_sys::CURLOPT_VERBOSE, c_long::from(is_tls));
            call.request(slot.sockets.way(ends))
        })
    };
    c_int::from(flow.is_break())
}

/// Counts the bytes of a body as they are read, before libcurl drops what exceeds the length. It also sees the alert
/// with which a TLS connection is closed: OpenSSL's messages come here, and an alert is the only one of two bytes.
pub(super) extern "C" fn on_debug(
    _: *mut CURL,
    kind: curl_sys::curl_infotype,
    text: *mut c_char,
    size: usize,
    data: *mut c_void,
) -> c_int {
    let step = |call: &mut Call<'_>, _: &Slot| {
        match kind {
            curl_sys::CURLINFO_DATA_IN => call.received += size as u64,
            curl_sys::CURLINFO_HEADER_OUT => {
                // SAFETY: libcurl gives `size` bytes for the length of this call.
                let request = unsafe { bytes(text, size) };
                let line = request.split(|&b| b == b'\r').next().unwrap_or_default();
                let protocol = line.rsplit(|&b| b == b' ').next().unwrap_or_default();
                call.is_framed |= line.starts_with(b"GET ") && !protocol.starts_with(b"HTTP/1");
            }
            curl_sys::CURLINFO_SSL_DATA_IN if size == 2 => {
                // SAFETY: libcurl gives `size` bytes for the length of this call.
                let alert = unsafe { bytes(text, size) };
                call.has_close_notify |= alert[1] == CLOSE_NOTIFY;
            }
            _ => {}
        }
        ControlFlow::Continue(())
    };
    // SAFETY: called by libcurl with what `set_callbacks` set.
    let _ = unsafe { with_call(data, step) };
    0
}

/// What libcurl knows of a transfer, where that is a long.
pub(super) fn long_info(handle: NonNull<CURL>, info: CURLINFO) -> Option<c_long> {
    let mut value: c_long = 0;
    // SAFETY: a live handle, and the infos asked for with this function write a long.
    let code = unsafe { curl_sys::curl_easy_getinfo(handle.as_ptr(), info, &raw mut value) };
    (code == curl_sys::CURLE_OK).then_some(value)
}

/// The length that the last answer has announced.
pub(super) fn content_length(handle: NonNull<CURL>) -> Option<u64> {
    let mut length: i64 = -1;
    // SAFETY: a live handle, and this info writes a curl_off_t.
    unsafe {
        curl_sys::curl_easy_getinfo(handle.as_ptr(), CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &raw mut length);
    }
    u64::try_from(length).ok()
}
