//! The sockets that libcurl connects.

use std::ffi::{c_int, c_void};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use curl_sys::{curl_sockaddr, curl_socket_t, curlsocktype};

use base::standard::above;

/// Makes a socket as libcurl would, but never one of descriptors 0 to 2.
pub(super) extern "C" fn on_open(_: *mut c_void, _: curlsocktype, address: *mut curl_sockaddr) -> curl_socket_t {
    const NONE: curl_socket_t = -1;
    // SAFETY: libcurl gives an address for the length of this call.
    let (family, kind, protocol): (c_int, c_int, c_int) =
        unsafe { ((*address).family, (*address).socktype, (*address).protocol) };
    // SAFETY: takes numbers.
    let socket = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if socket < 0 {
        return NONE;
    }
    // SAFETY: made just now; nobody else knows it.
    above(unsafe { OwnedFd::from_raw_fd(socket) }).map_or(NONE, IntoRawFd::into_raw_fd)
}
