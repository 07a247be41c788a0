//! One number for each thing that can go wrong.

use std::ffi::{CStr, c_char, c_int};

use log::error;

use super::super::guard;
use shm_channel::{BindError, ClientError, LayoutError, OpenError, ServerError, TransferError};
use telemetry::logging;

/// The result of a function of this library. A number never changes its meaning; later versions may add some.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum shm_channel_error_t {
    /// Done.
    SHM_CHANNEL_OK = 0,
    /// An argument that must not be NULL is NULL.
    SHM_CHANNEL_NULL = 1,
    /// A number is out of its range: segments, their size, or both together.
    SHM_CHANNEL_RANGE = 2,
    /// The key has more bytes than SHM_CHANNEL_MAX_KEY.
    SHM_CHANNEL_KEY_TOO_LONG = 3,
    /// The server has no such file, or no access to it.
    SHM_CHANNEL_NOT_FOUND = 4,
    /// The server has the file and cannot read it.
    SHM_CHANNEL_UNREADABLE = 5,
    /// The file changed while it was on its way. What was delivered is the beginning of the old one.
    SHM_CHANNEL_CHANGED = 6,
    /// No server, or no answer from it, within the time that the client waits.
    SHM_CHANNEL_UNAVAILABLE = 7,
    /// No segment was free within the time that the client waits.
    SHM_CHANNEL_NO_SEGMENT = 8,
    /// The client was freed.
    SHM_CHANNEL_CLOSED = 9,
    /// Another server has the socket.
    SHM_CHANNEL_IN_USE = 10,
    /// The socket cannot be made: another file is in its place, or the system refuses. errno tells more.
    SHM_CHANNEL_SOCKET = 11,
    /// The system gave no thread, memory or descriptor. errno tells more.
    SHM_CHANNEL_SYSTEM = 12,
    /// A fault of this library. A message on standard error says where.
    SHM_CHANNEL_PANIC = 13,
}

use shm_channel_error_t::*;

const ALL: [(shm_channel_error_t, &CStr); 14] = [
    (SHM_CHANNEL_OK, c"done"),
    (SHM_CHANNEL_NULL, c"an argument is NULL"),
    (SHM_CHANNEL_RANGE, c"a number is out of range"),
    (SHM_CHANNEL_KEY_TOO_LONG, c"the key is too long"),
    (SHM_CHANNEL_NOT_FOUND, c"no such file"),
    (SHM_CHANNEL_UNREADABLE, c"the server cannot read the file"),
    (SHM_CHANNEL_CHANGED, c"the file changed"),
    (SHM_CHANNEL_UNAVAILABLE, c"no answer from the server"),
    (SHM_CHANNEL_NO_SEGMENT, c"no free segment"),
    (SHM_CHANNEL_CLOSED, c"the client was freed"),
    (SHM_CHANNEL_IN_USE, c"another server has the socket"),
    (SHM_CHANNEL_SOCKET, c"the socket cannot be made"),
    (SHM_CHANNEL_SYSTEM, c"the system refuses a thread, memory or a descriptor"),
    (SHM_CHANNEL_PANIC, c"a fault of the library"),
];

/// Returns the text for an error: a few words in English, without a line break.
///
/// `error`: any number. One that is no error has a text, too.
///
/// Ownership: the library's; the text is NUL-terminated and never freed.
///
/// Threads: any, at any time; also in a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn shm_channel_strerror(error: c_int) -> *const c_char {
    let known = ALL.iter().find(|(known, _)| *known as c_int == error);
    known.map_or(c"unknown error", |(_, text)| text).as_ptr()
}

/// Makes this library log to standard error: clients that break the protocol, servers that come and go. Without this
/// call the library is silent.
///
/// `verbosity`: 0 for warnings, 1 for sessions too, 2 and 3 to look for a fault. The environment variable GFPROXY_LOG
/// can ask for more.
///
/// Threads: one, once, before the library's other functions.
#[unsafe(no_mangle)]
pub extern "C" fn shm_channel_log_start(verbosity: c_int) {
    guard((), || logging::start(verbosity));
}

/// Runs the body of an export that returns an error code.
pub(super) fn status(body: impl FnOnce() -> Result<(), shm_channel_error_t>) -> shm_channel_error_t {
    guard(SHM_CHANNEL_PANIC, || body().err().unwrap_or(SHM_CHANNEL_OK))
}

/// Leaves the system's reason in errno, and returns `code`.
fn system(code: shm_channel_error_t, reason: &std::io::Error) -> shm_channel_error_t {
    nix::errno::Errno::set_raw(reason.raw_os_error().unwrap_or(0));
    code
}

impl From<LayoutError> for shm_channel_error_t {
    fn from(error: LayoutError) -> Self {
        match error {
            LayoutError::Segments(_) | LayoutError::SegmentSize(_) | LayoutError::Area(..) => SHM_CHANNEL_RANGE,
        }
    }
}

impl From<ClientError> for shm_channel_error_t {
    fn from(error: ClientError) -> Self {
        error!("shm_channel_client_create: {error}");
        match error {
            ClientError::Layout(error) => error.into(),
            ClientError::Memory(reason) => system(SHM_CHANNEL_SYSTEM, &reason.error),
            ClientError::Io(reason) => system(SHM_CHANNEL_SYSTEM, &reason),
        }
    }
}

impl From<ServerError> for shm_channel_error_t {
    fn from(error: ServerError) -> Self {
        error!("shm_channel_server_create: {error}");
        match error {
            ServerError::Bind(BindError::InUse(_)) => SHM_CHANNEL_IN_USE,
            ServerError::Bind(BindError::NotASocket(..)) => {
                system(SHM_CHANNEL_SOCKET, &std::io::Error::from_raw_os_error(libc::ENOTSOCK))
            }
            ServerError::Bind(BindError::Foreign(..)) => {
                system(SHM_CHANNEL_SOCKET, &std::io::Error::from_raw_os_error(libc::EPERM))
            }
            ServerError::Bind(BindError::Inherit(reason) | BindError::Lock(_, reason) | BindError::Io(_, reason)) => {
                system(SHM_CHANNEL_SOCKET, &reason)
            }
            ServerError::Io(reason) => system(SHM_CHANNEL_SYSTEM, &reason),
        }
    }
}

impl From<OpenError> for shm_channel_error_t {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotFound => SHM_CHANNEL_NOT_FOUND,
            OpenError::KeyTooLong(_) => SHM_CHANNEL_KEY_TOO_LONG,
            OpenError::Failed => SHM_CHANNEL_UNREADABLE,
            OpenError::Unavailable(_) => SHM_CHANNEL_UNAVAILABLE,
            OpenError::NoSegment(_) => SHM_CHANNEL_NO_SEGMENT,
            OpenError::Stopped => SHM_CHANNEL_CLOSED,
        }
    }
}

impl From<TransferError> for shm_channel_error_t {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Changed => SHM_CHANNEL_CHANGED,
            TransferError::Failed => SHM_CHANNEL_UNREADABLE,
            TransferError::Unavailable(_) => SHM_CHANNEL_UNAVAILABLE,
            TransferError::NoSegment(_) => SHM_CHANNEL_NO_SEGMENT,
            TransferError::Stopped => SHM_CHANNEL_CLOSED,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn text(error: c_int) -> &'static str {
        // SAFETY: NUL-terminated and never freed, as the function promises.
        unsafe { CStr::from_ptr(shm_channel_strerror(error)) }.to_str().unwrap()
    }

    #[test]
    fn every_error_has_its_number_and_a_text_of_its_own() {
        for (number, (error, expected)) in ALL.iter().enumerate() {
            assert_eq!(*error as usize, number);
            assert_eq!(text(number as c_int), expected.to_str().unwrap());
            assert_eq!(ALL.iter().filter(|(_, other)| other == expected).count(), 1);
        }
        for unknown in [-1, ALL.len() as c_int, c_int::MIN, c_int::MAX] {
            assert_eq!(text(unknown), "unknown error");
        }
    }

    #[test]
    fn a_panic_in_an_export_is_an_error() {
        assert_eq!(status(|| panic!("on purpose")), SHM_CHANNEL_PANIC);
        assert_eq!(status(|| Ok(())), SHM_CHANNEL_OK);
    }
}
