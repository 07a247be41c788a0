//! What handles of several threads have in common: the DNS cache and the TLS sessions. Connections are not shared:
//! libcurl forbids that between threads.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use curl_sys::{CURL, CURLSH, curl_lock_access, curl_lock_data};
use parking_lot::RawMutex;
use parking_lot::lock_api::RawMutex as _;

use super::{Error, initialise};

// What curl-sys leaves out, with the values of curl.h.
const CURL_LOCK_DATA_DNS: c_int = 3;
const CURL_LOCK_DATA_SSL_SESSION: c_int = 4;
/// More kinds of data than libcurl has (8 in 7.88).
const LOCKS: usize = 16;

/// A share object with its locks. It must outlive the handles that use it.
pub(crate) struct Share {
    handle: NonNull<CURLSH>,
    /// One for each kind of data, at an address that the callbacks know.
    _locks: Box<[RawMutex; LOCKS]>,
}

// SAFETY: libcurl takes the locks around every use of the shared data, from whichever thread.
unsafe impl Send for Share {}
// SAFETY: as above; the object itself is only read after `new`.
unsafe impl Sync for Share {}

impl Share {
    pub(crate) fn new() -> Result<Self, Error> {
        initialise();
        // SAFETY: libcurl is initialised.
        let handle = NonNull::new(unsafe { curl_sys::curl_share_init() })
            .ok_or_else(|| Error::new(curl_sys::CURLE_OUT_OF_MEMORY))?;
        let share = Self { handle, _locks: Box::new([const { RawMutex::INIT }; LOCKS]) };
        let locks: *const [RawMutex; LOCKS] = &raw const *share._locks;
        let share_ptr = handle.as_ptr();
        // SAFETY: a new object that nothing uses yet; each option gets the type that libcurl documents for it. The
        // locks live as long as `share`.
        let done = unsafe {
            [
                curl_sys::curl_share_setopt(share_ptr, curl_sys::CURLSHOPT_LOCKFUNC, lock as *mut c_void),
                curl_sys::curl_share_setopt(share_ptr, curl_sys::CURLSHOPT_UNLOCKFUNC, unlock as *mut c_void),
                curl_sys::curl_share_setopt(share_ptr, curl_sys::CURLSHOPT_USERDATA, locks.cast::<c_void>()),
                curl_sys::curl_share_setopt(share_ptr, curl_sys::CURLSHOPT_SHARE, CURL_LOCK_DATA_DNS),
            ]
        };
        if done.iter().any(|&code| code != curl_sys::CURLSHE_OK) {
            return Err(Error::new(curl_sys::CURLE_FAILED_INIT));
        }
        // SAFETY: as above. A libcurl without TLS refuses this one and needs it not.
        unsafe { curl_sys::curl_share_setopt(share_ptr, curl_sys::CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION) };
        Ok(share)
    }

    pub(super) fn as_ptr(&self) -> *mut CURLSH {
        self.handle.as_ptr()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // SAFETY: every handle that used it held a reference and is gone; the locks are still there.
        unsafe { curl_sys::curl_share_cleanup(self.handle.as_ptr()) };
    }
}

/// The lock for one kind of data.
///
/// # Safety
/// `locks` is what `Share::new` gave to libcurl, and its share is alive.
unsafe fn find<'a>(kind: curl_lock_data, locks: *mut c_void) -> &'a RawMutex {
    // SAFETY: the caller's promise.
    let locks = unsafe { &*locks.cast::<[RawMutex; LOCKS]>() };
    &locks[kind as usize % LOCKS]
}

extern "C" fn lock(_: *mut CURL, kind: curl_lock_data, _: curl_lock_access, locks: *mut c_void) {
    // SAFETY: called by libcurl with what `Share::new` set.
    unsafe { find(kind, locks) }.lock();
}

extern "C" fn unlock(_: *mut CURL, kind: curl_lock_data, locks: *mut c_void) {
    // SAFETY: called by libcurl with what `Share::new` set, on the thread that has taken this lock.
    unsafe { find(kind, locks).unlock() };
}
