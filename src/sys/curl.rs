//! libcurl: an easy handle as an owned value with typed options, and one transfer at a time into a [`Receiver`].
//!
//! A panic in a receiver is caught at the C boundary, ends the transfer and goes on in [`Easy::perform`]'s caller.

mod call;
mod share;
mod socket;
mod url;

use std::ffi::{CStr, CString, c_char, c_long, c_void};
use std::panic::resume_unwind;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Once};
use std::time::Duration;

use curl_sys::{CURL, CURLcode, CURLoption};

use super::standard::fill;

use call::{CONNECTIONS, Call, Slot, on_body, on_debug, on_header, on_socket, on_tick};
pub(crate) use call::{Receiver, Wire};
pub(crate) use share::Share;
pub(crate) use url::{Part, Url};

// What curl-sys leaves out, with the values of curl.h.
const CURLOPT_XFERINFOFUNCTION: CURLoption = 20_000 + 219;
const CURLOPT_XFERINFODATA: CURLoption = curl_sys::CURLOPT_PROGRESSDATA;
const CURL_ERROR_SIZE: usize = 256;

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
            CURLOPT_XFERINFODATA,
        ] {
            self.set_pointer(data, slot.cast_mut().cast())?;
        }
        self.set_pointer(curl_sys::CURLOPT_WRITEFUNCTION, on_body as *mut c_void)?;
        self.set_pointer(curl_sys::CURLOPT_HEADERFUNCTION, on_header as *mut c_void)?;
        self.set_pointer(curl_sys::CURLOPT_DEBUGFUNCTION, on_debug as *mut c_void)?;
        self.set_pointer(curl_sys::CURLOPT_SOCKOPTFUNCTION, on_socket as *mut c_void)?;
        self.set_pointer(curl_sys::CURLOPT_OPENSOCKETFUNCTION, socket::on_open as *mut c_void)?;
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
    pub(crate) fn perform(&mut self, receiver: &mut dyn Receiver) -> Result<(), Error> {
        // libcurl and the resolver make sockets and pipes of their own.
        fill();
        self.set_long(curl_sys::CURLOPT_VERBOSE, 0)?;
        self.error[0] = 0;
        self.block.clear();
        let handle = self.handle;
        let mut call = Call { receiver, received: 0, given: 0, block: &mut self.block, handle, panic: None };
        self.slot.call.set((&raw mut call).cast());
        // SAFETY: a live handle that no other transfer uses (`&mut self`). Its callbacks reach `call`, which outlives
        // the transfer and which nothing else touches meanwhile.
        let code = unsafe { curl_sys::curl_easy_perform(self.handle.as_ptr()) };
        self.slot.call.set(ptr::null_mut());
        if call.panic.is_none() {
            // A `Break` comes too late to matter, and is the receiver's to know.
            let _ = call.flush(&self.slot);
        }
        if let Some(panic) = call.panic {
            resume_unwind(panic);
        }
        let mut result = check(code);
        if let Err(error) = &mut result
            && self.error[0] != 0
        {
            // SAFETY: libcurl has written a NUL-terminated text of at most CURL_ERROR_SIZE bytes.
            let text = unsafe { CStr::from_ptr(self.error.as_ptr()) };
            error.message = text.to_string_lossy().trim_end().to_owned();
        }
        result
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

fn milliseconds(limit: Duration) -> c_long {
    c_long::try_from(limit.as_millis()).unwrap_or(c_long::MAX)
}
