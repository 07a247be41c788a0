//! libcurl's own URL parser, so that what we check is what libcurl will use.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::{self, NonNull};

// urlapi.h, which curl-sys leaves out.
const CURLU_URLENCODE: c_uint = 1 << 7;
const CURLU_NON_SUPPORT_SCHEME: c_uint = 1 << 3;

unsafe extern "C" {
    fn curl_url() -> *mut c_void;
    fn curl_url_cleanup(handle: *mut c_void);
    fn curl_url_set(handle: *mut c_void, part: c_int, text: *const c_char, flags: c_uint) -> c_uint;
    fn curl_url_get(handle: *mut c_void, part: c_int, text: *mut *mut c_char, flags: c_uint) -> c_uint;
    fn curl_url_strerror(code: c_uint) -> *const c_char;
}

/// A part of a URL, with libcurl's number for it.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(crate) enum Part {
    /// All of it, normalised.
    Whole = 0,
    Scheme = 1,
    Port = 6,
    Query = 8,
    Fragment = 9,
}

/// A parsed URL.
pub(crate) struct Url(NonNull<c_void>);

impl Url {
    /// Parses an absolute URL of any scheme; what must be percent-encoded in it is. The error is libcurl's text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = CString::new(text).map_err(|_| "it holds a NUL byte".to_owned())?;
        // SAFETY: needs no initialised libcurl.
        let url = Self(NonNull::new(unsafe { curl_url() }).ok_or_else(|| "out of memory".to_owned())?);
        let flags = CURLU_URLENCODE | CURLU_NON_SUPPORT_SCHEME;
        // SAFETY: an own handle and a NUL-terminated text, which is copied.
        let code = unsafe { curl_url_set(url.0.as_ptr(), Part::Whole as c_int, text.as_ptr(), flags) };
        if code == 0 {
            return Ok(url);
        }
        // SAFETY: a static NUL-terminated text for every code, known or not.
        Err(unsafe { CStr::from_ptr(curl_url_strerror(code)) }.to_string_lossy().into_owned())
    }

    /// A part as text, if the URL has it.
    pub(crate) fn get(&self, part: Part) -> Option<String> {
        let mut text: *mut c_char = ptr::null_mut();
        // SAFETY: an own handle; on success `text` is a NUL-terminated string of the caller's.
        let code = unsafe { curl_url_get(self.0.as_ptr(), part as c_int, &raw mut text, 0) };
        if code != 0 || text.is_null() {
            return None;
        }
        // SAFETY: as above.
        let owned = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
        // SAFETY: allocated by libcurl for the caller, and used no more.
        unsafe { curl_sys::curl_free(text.cast()) };
        Some(owned)
    }
}

impl Drop for Url {
    fn drop(&mut self) {
        // SAFETY: an own handle, used no more.
        unsafe { curl_url_cleanup(self.0.as_ptr()) };
    }
}
