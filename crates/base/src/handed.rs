//! The sockets that a service manager handed over (`LISTEN_FDS`). Each is taken once.
//!
//! They are looked at when the program is loaded. Later their numbers may be those of other sockets, of the program's
//! own or of a server that took one, ended and closed it.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::{env, io, process};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::fstat;
use parking_lot::Mutex;

/// The number of the first one.
const FIRST: RawFd = 3;

/// A socket that nobody has taken.
struct Handed {
    number: RawFd,
    inode: u64,
}

/// To which process, and what.
static HANDED: Mutex<(u32, Vec<Handed>)> = Mutex::new((0, Vec::new()));

/// Looks at what was handed over.
pub fn note() {
    let Ok(Some(count)) = count() else { return };
    let handed =
        (FIRST..FIRST.saturating_add(count)).map_while(|number| Some(Handed { number, inode: inode(number)? }));
    *HANDED.lock() = (process::id(), handed.collect());
}

/// How many there are; None where the environment names no such process, or another.
fn count() -> io::Result<Option<RawFd>> {
    let read = |name: &str| {
        let text = env::var_os(name).unwrap_or_default();
        let number = text.to_str().and_then(|text| text.parse::<u32>().ok());
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("{name}={text:?} is no number"));
        if text.is_empty() { Ok(None) } else { number.ok_or_else(wrong).map(Some) }
    };
    if read("LISTEN_PID")? != Some(process::id()) {
        return Ok(None);
    }
    Ok(read("LISTEN_FDS")?.map(|count| RawFd::try_from(count).unwrap_or(RawFd::MAX)))
}

fn inode(number: RawFd) -> Option<u64> {
    // SAFETY: only asked what it is, and a number without a file is an error.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fstat(descriptor).ok().map(|status| status.st_ino)
}

/// The first listening socket that is `wanted`, as one that does not block. Nobody gets it again.
pub fn take(wanted: impl Fn(BorrowedFd<'_>) -> bool) -> io::Result<Option<OwnedFd>> {
    count()?;
    let mut handed = HANDED.lock();
    let (process, handed) = &mut *handed;
    // A child of the process has the environment, and is not meant.
    if *process != process::id() {
        return Ok(None);
    }
    let is_it = |handed: &Handed| {
        // SAFETY: as in `inode`.
        let descriptor = unsafe { BorrowedFd::borrow_raw(handed.number) };
        let listens =
            inode(handed.number) == Some(handed.inode) && getsockopt(&descriptor, sockopt::AcceptConn) == Ok(true);
        listens && wanted(descriptor)
    };
    let Some(at) = handed.iter().position(is_it) else { return Ok(None) };
    // SAFETY: the service manager meant it for this process, it is still the same, and this is the one place that takes
    // it over, once.
    let socket = unsafe { OwnedFd::from_raw_fd(handed.remove(at).number) };
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(Some(socket))
}
