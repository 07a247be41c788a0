//! libcurl: an easy handle as an owned value with typed options, and one transfer at a time into a [`Receiver`].
//!
//! A panic in a receiver is caught at the C boundary, ends the transfer and goes on in [`Easy::perform`]'s caller.

mod call;
mod kept;
mod share;
mod socket;
mod url;

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::panic::resume_unwind;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Once};
use std::time::Duration;

use curl_sys::{CURL, CURLINFO, CURLcode, CURLoption};

use base::standard::fill;

pub(crate) use call::Receiver;
use call::{CONNECTIONS, CURLINFO_PROTOCOL, Call, Slot, content_length, long_info};
use call::{on_body, on_close_socket, on_debug, on_header, on_request, on_socket, on_tick};
pub(crate) use share::Share;
pub(crate) use url::{Part, Url};

// What curl-sys leaves out, with the values of curl.h.
const CURLOPT_SUPPRESS_CONNECT_HEADERS: CURLoption = 265;
const CURLOPT_XFERINFOFUNCTION: CURLoption = 20_000 + 219;
const CURLOPT_XFERINFODATA: CURLoption = curl_sys::CURLOPT_PROGRESSDATA;
const CURLOPT_PREREQFUNCTION: CURLoption = 20_000 + 312;
const CURLOPT_PREREQDATA: CURLoption = 10_000 + 313;
const CURLINFO_TLS_SSL_PTR: CURLINFO = 0x40_0000 + 45;
const CURL_ERROR_SIZE: usize = 256;
/// The TLS libraries with which libcurl itself fails where a connection ends without close_notify: GnuTLS, mbedTLS and
/// rustls, as `curl_sslbackend` numbers them.
const STRICT_TLS: [c_int; 3] = [2, 11, 14];

/// Why libcurl refused an option or gave up a transfer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Error {
    code: CURLcode,
    message: String,
}

impl Error {
    fn new(code: CURLcode) -> Self {
        // SAFETY: a static NUL-terminated text for every code, known or not.
        let text = unsafe { CStr::from_ptr(curl_sys::curl_easy_strerror(code)) };
        Self { code, message: text.to_string_lossy().into_owned() }
    }

    /// Whether the same request may fare better on another connection: the failure was the connection's or the
    /// resolver's, not the request's or the answer's.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(
            self.code,
            curl_sys::CURLE_COULDNT_RESOLVE_PROXY
                | curl_sys::CURLE_COULDNT_RESOLVE_HOST
                | curl_sys::CURLE_COULDNT_CONNECT
                | curl_sys::CURLE_HTTP2
                | curl_sys::CURLE_PARTIAL_FILE
                | curl_sys::CURLE_OPERATION_TIMEDOUT
                | curl_sys::CURLE_SSL_CONNECT_ERROR
                | curl_sys::CURLE_GOT_NOTHING
                | curl_sys::CURLE_SEND_ERROR
                | curl_sys::CURLE_RECV_ERROR
                | curl_sys::CURLE_HTTP2_STREAM
        )
    }
}

/// How an answer's connection ended, where that ended its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With all that the protocol has to say so. In plain HTTP that is nothing.
    Orderly,
    /// TLS without close_notify: anybody on the way, or a crash, may have ended it.
    Abrupt,
}

fn check(code: CURLcode) -> Result<(), Error> {
    if code == curl_sys::CURLE_OK { Ok(()) } else { Err(Error::new(code)) }
}

/// The options that a handle keeps for all its transfers.
pub(crate) struct Options {
    pub(crate) user_agent: CString,
    pub(crate) connect_timeout: Duration,
    /// How many redirects are followed, and whether they may lead to plain HTTP.
    pub(crate) redirects: u32,
    pub(crate) redirects_may_use_http: bool,
    /// The most bytes that are read from a connection at once.
    pub(crate) buffer: usize,
    /// The file and the directory of the certificates that are trusted; `None` leaves libcurl's own.
    pub(crate) ca_file: Option<CString>,
    pub(crate) ca_directory: Option<CString>,
}

/// An easy handle with its kept connections.
pub(crate) struct Easy {
    handle: NonNull<CURL>,
    /// At a stable address, which the callbacks know.
    slot: Box<Slot>,
    error: Box<[c_char; CURL_ERROR_SIZE]>,
    fields: FieldList,
    /// Whether the first connection of a transfer is one of TLS.
    is_secure: bool,
    /// Where the pieces of one read are put together again.
    block: Vec<u8>,
    /// Outlives the handle, which uses it.
    _share: Arc<Share>,
}

// SAFETY: libcurl allows a handle on any thread, on one at a time; `Easy` is not `Sync`, and what the handle shares is
// guarded by the locks of `Share`. The pointer in `slot` is NULL whenever an `Easy` can be moved.
unsafe impl Send for Easy {}

impl Easy {
    /// A fresh handle that uses `share`.
    pub(crate) fn new(share: &Arc<Share>, options: &Options) -> Result<Self, Error> {
        initialise();
        // SAFETY: libcurl is initialised.
        let handle = NonNull::new(unsafe { curl_sys::curl_easy_init() })
            .ok_or_else(|| Error::new(curl_sys::CURLE_OUT_OF_MEMORY))?;
        let mut easy = Self {
            handle,
            slot: Box::new(Slot::new()),
            error: Box::new([0; CURL_ERROR_SIZE]),
            fields: FieldList(ptr::null_mut()),
            is_secure: false,
            block: Vec::new(),
            _share: Arc::clone(share),
        };
        easy.set_callbacks()?;
        easy.set_pointer(curl_sys::CURLOPT_SHARE, share.as_ptr().cast())?;
        easy.set_options(options)?;
        Ok(easy)
    }

    fn set_callbacks(&mut self) -> Result<(), Error> {
        let error = self.error.as_mut_ptr();
        self.set_pointer(curl_sys::CURLOPT_ERRORBUFFER, error.cast())?;
        let slot: *const Slot = &raw const *self.slot;
        for data in [
            curl_sys::CURLOPT_WRITEDATA,
            curl_sys::CURLOPT_HEADERDATA,
            curl_sys::CURLOPT_DEBUGDATA,
            curl_sys::CURLOPT_SOCKOPTDATA,
            curl_sys::CURLOPT_CLOSESOCKETDATA,
            CURLOPT_PREREQDATA,
            CURLOPT_XFERINFODATA,
        ] {
            self.set_pointer(data, slot.cast_mut().cast())?;
        }
        self.set_pointer(curl_sys::CURLOPT_WRITEFUNCTION, on_body as *mut c_void)?;
        self.set_pointer(curl_sys::CURLOPT_HEADERFUNCTION, on_header as *mut c_void)?;
        self.set_pointer(curl_sys::CURLOPT_DEBUGFUNCTION, on_debug as *mut c_void)?;
        self.set_pointer(curl_sys::CURLOPT_SOCKOPTFUNCTION, on_socket as *mut c_void)?;
        self.set_pointer(curl_sys::CURLOPT_OPENSOCKETFUNCTION, socket::on_open as *mut c_void)?;
        self.set_pointer(curl_sys::CURLOPT_CLOSESOCKETFUNCTION, on_close_socket as *mut c_void)?;
        self.set_pointer(CURLOPT_PREREQFUNCTION, on_request as *mut c_void)?;
        self.set_pointer(CURLOPT_XFERINFOFUNCTION, on_tick as *mut c_void)
    }

    fn set_options(&mut self, options: &Options) -> Result<(), Error> {
        let http = c_long::from(curl_sys::CURLPROTO_HTTP);
        let https = c_long::from(curl_sys::CURLPROTO_HTTPS);
        let redirects_to = if options.redirects_may_use_http { http | https } else { https };
        for (option, value) in [
            // Signals are the program's. SIGPIPE, which TLS may raise, must be ignored by it.
            (curl_sys::CURLOPT_NOSIGNAL, 1),
            (curl_sys::CURLOPT_NOPROGRESS, 0),
            (curl_sys::CURLOPT_PROTOCOLS, http | https),
            (curl_sys::CURLOPT_REDIR_PROTOCOLS, redirects_to),
            (curl_sys::CURLOPT_FOLLOWLOCATION, 1),
            (curl_sys::CURLOPT_MAXREDIRS, c_long::from(options.redirects)),
            // The caller has resolved dot segments; libcurl must not see others.
            (curl_sys::CURLOPT_PATH_AS_IS, 1),
            (curl_sys::CURLOPT_MAXCONNECTS, CONNECTIONS as c_long),
            // What a proxy says to CONNECT is no answer of the origin.
            (CURLOPT_SUPPRESS_CONNECT_HEADERS, 1),
            // Encodings are not undone here: libcurl takes a truncated one for whole.
            (curl_sys::CURLOPT_HTTP_CONTENT_DECODING, 0),
            (curl_sys::CURLOPT_BUFFERSIZE, c_long::try_from(options.buffer).unwrap_or(c_long::MAX)),
            (curl_sys::CURLOPT_CONNECTTIMEOUT_MS, milliseconds(options.connect_timeout)),
        ] {
            self.set_long(option, value)?;
        }
        self.set_string(curl_sys::CURLOPT_ACCEPT_ENCODING, c"identity")?;
        self.set_string(curl_sys::CURLOPT_USERAGENT, &options.user_agent)?;
        if let Some(file) = &options.ca_file {
            self.set_string(curl_sys::CURLOPT_CAINFO, file)?;
        }
        if let Some(directory) = &options.ca_directory {
            self.set_string(curl_sys::CURLOPT_CAPATH, directory)?;
        }
        Ok(())
    }

    /// What the next transfers fetch.
    pub(crate) fn set_url(&mut self, url: &CStr) -> Result<(), Error> {
        self.is_secure = url.to_bytes().starts_with(b"https:");
        self.set_string(curl_sys::CURLOPT_URL, url)
    }

    /// Asks for the bytes from `offset` on, with one more header field; `None` asks for all of it again.
    pub(crate) fn set_range(&mut self, range: Option<(u64, &CStr)>) -> Result<(), Error> {
        let mut fields = FieldList(ptr::null_mut());
        match range {
            Some((offset, field)) => {
                let range = CString::new(format!("{offset}-")).expect("digits hold no NUL");
                self.set_string(curl_sys::CURLOPT_RANGE, &range)?;
                fields.push(field)?;
            }
            None => self.set_pointer(curl_sys::CURLOPT_RANGE, ptr::null_mut())?,
        }
        self.set_pointer(curl_sys::CURLOPT_HTTPHEADER, fields.0.cast())?;
        // The old list goes only now that libcurl has let go of it.
        self.fields = fields;
        Ok(())
    }

    /// Runs one transfer into `receiver`. An error that follows from the receiver's `Break` is the receiver's to know.
    pub(crate) fn perform(&mut self, receiver: &mut dyn Receiver) -> Result<Ending, Error> {
        // libcurl and the resolver make sockets and pipes of their own.
        fill();
        let mut repetitions = 0;
        loop {
            // What OpenSSL says is heard of those connections alone that are made with it.
            self.set_long(curl_sys::CURLOPT_VERBOSE, c_long::from(self.is_secure))?;
            // Each repetition closes a kept connection. Where no new ones come, it ends.
            let anew = c_long::from(!receiver.begin() || repetitions > CONNECTIONS);
            self.set_long(curl_sys::CURLOPT_FORBID_REUSE, anew)?;
            self.set_long(curl_sys::CURLOPT_FRESH_CONNECT, anew)?;
            if let Some(result) = self.perform_once(receiver) {
                return result;
            }
            repetitions += 1;
        }
    }

    /// `None` if the request went over a kept connection that must not be used, and must be sent again.
    fn perform_once(&mut self, receiver: &mut dyn Receiver) -> Option<Result<Ending, Error>> {
        self.error[0] = 0;
        self.block.clear();
        let handle = self.handle;
        let mut call = Call::new(receiver, &mut self.block, handle);
        self.slot.sockets.begin();
        self.slot.call.set((&raw mut call).cast());
        // SAFETY: a live handle that no other transfer uses (`&mut self`). Its callbacks reach `call`, which outlives
        // the transfer and which nothing else touches meanwhile.
        let code = unsafe { curl_sys::curl_easy_perform(handle.as_ptr()) };
        self.slot.call.set(ptr::null_mut());
        if call.panic.is_none() {
            // A `Break` comes too late to matter, and is the receiver's to know.
            let _ = call.flush();
        }
        if let Some(panic) = call.panic {
            resume_unwind(panic);
        }
        if call.is_spoilt || (call.kept.is_some() && is_no_http(code)) {
            return None;
        }
        if call.received > content_length(handle).unwrap_or(u64::MAX) {
            call.receiver.surplus();
        }
        let has_end = call.has_close_notify || call.is_framed;
        Some(self.result(code).map(|()| self.ending(has_end)))
    }

    fn result(&self, code: CURLcode) -> Result<(), Error> {
        check(code).map_err(|mut error| {
            if self.error[0] != 0 {
                // SAFETY: libcurl has written a NUL-terminated text of at most CURL_ERROR_SIZE bytes.
                let text = unsafe { CStr::from_ptr(self.error.as_ptr()) };
                error.message = text.to_string_lossy().trim_end().to_owned();
            }
            error
        })
    }

    fn ending(&self, has_end: bool) -> Ending {
        let is_plain = long_info(self.handle, CURLINFO_PROTOCOL) != Some(curl_sys::CURLPROTO_HTTPS.into());
        if is_plain || has_end || STRICT_TLS.contains(&tls_library(self.handle)) {
            Ending::Orderly
        } else {
            Ending::Abrupt
        }
    }

    fn set_long(&mut self, option: CURLoption, value: c_long) -> Result<(), Error> {
        debug_assert!(option < curl_sys::CURLOPTTYPE_OBJECTPOINT);
        // SAFETY: a live handle and an option that takes a long.
        check(unsafe { curl_sys::curl_easy_setopt(self.handle.as_ptr(), option, value) })
    }

    fn set_string(&mut self, option: CURLoption, value: &CStr) -> Result<(), Error> {
        self.set_pointer(option, value.as_ptr().cast_mut().cast())
    }

    /// For options that take a pointer: a string, which libcurl copies, or what outlives the handle.
    fn set_pointer(&mut self, option: CURLoption, value: *mut c_void) -> Result<(), Error> {
        debug_assert!((curl_sys::CURLOPTTYPE_OBJECTPOINT..curl_sys::CURLOPTTYPE_OFF_T).contains(&option));
        // SAFETY: a live handle and an option that takes a pointer to what its callers of this file give.
        check(unsafe { curl_sys::curl_easy_setopt(self.handle.as_ptr(), option, value) })
    }
}

impl Drop for Easy {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's and is used no more; `slot` and `fields` are still there.
        unsafe { curl_sys::curl_easy_cleanup(self.handle.as_ptr()) };
    }
}

/// A list of header fields that a handle borrows.
struct FieldList(*mut curl_sys::curl_slist);

impl FieldList {
    fn push(&mut self, field: &CStr) -> Result<(), Error> {
        // SAFETY: an own list, or NULL for a new one; libcurl copies the text.
        let list = unsafe { curl_sys::curl_slist_append(self.0, field.as_ptr()) };
        if list.is_null() {
            return Err(Error::new(curl_sys::CURLE_OUT_OF_MEMORY));
        }
        self.0 = list;
        Ok(())
    }
}

impl Drop for FieldList {
    fn drop(&mut self) {
        // SAFETY: an own list or NULL, which this accepts.
        unsafe { curl_sys::curl_slist_free_all(self.0) };
    }
}

/// curl_global_init(3), once. There is no cleanup: other users of libcurl may live in the process.
fn initialise() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: thread-safe in libcurl since 7.84; before that, the first origin is made before worker threads are.
        let code = unsafe { curl_sys::curl_global_init(curl_sys::CURL_GLOBAL_ALL) };
        assert_eq!(code, curl_sys::CURLE_OK, "curl_global_init failed");
    });
}

/// Whether a transfer failed as what came was no answer at all.
fn is_no_http(code: CURLcode) -> bool {
    matches!(code, curl_sys::CURLE_UNSUPPORTED_PROTOCOL | curl_sys::CURLE_FTP_WEIRD_SERVER_REPLY)
}

/// Which TLS library libcurl uses, as a `curl_sslbackend`; 0 if none.
fn tls_library(handle: NonNull<CURL>) -> c_int {
    /// `struct curl_tlssessioninfo`
    #[repr(C)]
    struct Session {
        backend: c_int,
        _internals: *mut c_void,
    }
    let mut session: *const Session = ptr::null();
    // SAFETY: a live handle, and this info writes a pointer to what lives as long as the handle.
    unsafe {
        curl_sys::curl_easy_getinfo(handle.as_ptr(), CURLINFO_TLS_SSL_PTR, &raw mut session);
        session.as_ref().map_or(0, |session| session.backend)
    }
}

fn milliseconds(limit: Duration) -> c_long {
    c_long::try_from(limit.as_millis()).unwrap_or(c_long::MAX)
}
