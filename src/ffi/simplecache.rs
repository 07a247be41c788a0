//! What `c/simplecache.c` forwards to. The names of simplecache.h are defined there and not here, so that a program's
//! own simplecache.o takes their place without a symbol defined twice.

use std::ffi::{CStr, OsStr, c_char, c_int, c_ulong};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use super::guard;
use crate::daemon::{LoadError, SimpleCache};
use base::standard::complain;

/// `simplecache_init`.
///
/// # Safety
/// `filename` is NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_simplecache_init(filename: *const c_char) -> c_int {
    guard(-1, || {
        if filename.is_null() {
            complain(format_args!("simplecache_init: no locals file was named"));
            return failed(Errno::EINVAL);
        }
        // SAFETY: not NULL, NUL-terminated by the caller's promise.
        let filename = unsafe { CStr::from_ptr(filename) };
        match SimpleCache::get().load(Path::new(OsStr::from_bytes(filename.to_bytes()))) {
            Ok(()) => 0,
            Err(error) => {
                complain(format_args!("simplecache_init: {error}"));
                failed(match error {
                    LoadError::Read { error, .. } => errno_of(&error),
                    LoadError::Malformed { .. } => Errno::EINVAL,
                })
            }
        }
    })
}

/// `simplecache_get`, after a sleep of `delay_us` microseconds.
///
/// # Safety
/// `key` is NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gfproxy_simplecache_get(key: *const c_char, delay_us: c_ulong) -> c_int {
    guard(-1, || {
        if key.is_null() {
            return failed(Errno::EINVAL);
        }
        // SAFETY: not NULL, NUL-terminated by the caller's promise.
        let key = unsafe { CStr::from_ptr(key) };
        match SimpleCache::get().descriptor(key.to_bytes(), Duration::from_micros(delay_us)) {
            Ok(descriptor) => descriptor,
            Err(error) => failed(errno_of(&error)),
        }
    })
}

/// `simplecache_destroy`.
#[unsafe(no_mangle)]
pub extern "C" fn gfproxy_simplecache_destroy() {
    guard((), || SimpleCache::get().clear());
}

/// Sets errno and returns what C gets for a failure.
fn failed(errno: Errno) -> c_int {
    errno.set();
    -1
}

/// The system's number for an error. Errors without one: EBUSY for a file that others keep busy, EINVAL for a path that
/// leads to no regular file.
fn errno_of(error: &std::io::Error) -> Errno {
    let other = if error.kind() == ErrorKind::ResourceBusy { Errno::EBUSY } else { Errno::EINVAL };
    error.raw_os_error().map_or(other, Errno::from_raw)
}
