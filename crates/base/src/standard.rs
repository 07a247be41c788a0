//! Descriptors 0 to 2. A program that is started without them, or closes them, gets their numbers for the files that it
//! opens next. Lines for standard error would then go there, for example into a client's connection.
//!
//! So /dev/null takes the place of a closed one. No descriptor of this library is ever one of them, even if the program
//! closes them later. A line is written only to a descriptor that is standard error as far as that can be known.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Once, OnceLock};
use std::{panic, thread};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::{SFlag, fstat, major};
use nix::unistd::{isatty, write};

use super::handed;

/// The first descriptor that may be one of ours.
const FIRST: RawFd = 3;
/// The device of /dev/null and its like.
const MEMORY_DEVICES: u64 = 1;

/// The loader runs it before main: nothing has been opened by then, and a program that calls none of our functions
/// before it has its sockets is safe, too. It is in the archive's member that all exports need, so that it is linked
/// with any of them.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

extern "C" fn at_load() {
    fill();
    handed::note();
    if let Ok(target) = Target::of(&io::stderr()) {
        let _ = KNOWN[0].set(target);
    }
}

/// Puts /dev/null where descriptors 0 to 2 are closed. Three system calls where none is.
pub fn fill() {
    // SAFETY: fcntl with F_GETFD takes any number.
    if (0..FIRST).all(|number| unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0) {
        return;
    }
    loop {
        // Without close-on-exec: the program's children want them as well.
        // SAFETY: the path is NUL-terminated.
        let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if null >= FIRST {
            // SAFETY: opened just now; nobody else knows it.
            drop(unsafe { OwnedFd::from_raw_fd(null) });
        }
        if !(0..FIRST).contains(&null) {
            return;
        }
    }
}

/// What the library does once, before anything else that a program calls it for.
#[inline(never)]
pub fn settle() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        fill();
        if thread::panicking() {
            return;
        }
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if Way::open().is_some() {
                tell(panic);
            }
        }));
    });
}

/// Moves what was just made above descriptors 0 to 2. Costs nothing where it is there.
pub fn above<T: AsFd + Into<OwnedFd> + From<OwnedFd>>(made: T) -> nix::Result<T> {
    if made.as_fd().as_raw_fd() >= FIRST {
        return Ok(made);
    }
    let moved = copy(&made)?;
    drop(made);
    fill();
    Ok(moved.into())
}

fn copy(of: impl AsFd) -> nix::Result<OwnedFd> {
    let number = fcntl(of, FcntlArg::F_DUPFD_CLOEXEC(FIRST))?;
    // SAFETY: fcntl made it just now; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A new epoll instance.
pub fn epoll() -> nix::Result<Epoll> {
    Ok(Epoll(above(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?.0)?))
}

/// A new eventfd that does not block.
pub fn event() -> nix::Result<EventFd> {
    let made = above(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?.into())?;
    // SAFETY: it is an eventfd.
    Ok(unsafe { EventFd::from_owned_fd(made) })
}

/// What a descriptor leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    device: u64,
    inode: u64,
    special: u64,
    kind: SFlag,
}

/// What was standard error when the program was loaded, and when logging started.
static KNOWN: [OnceLock<Target>; 2] = [OnceLock::new(), OnceLock::new()];

impl Target {
    fn of(descriptor: &impl AsFd) -> nix::Result<Self> {
        let status = fstat(descriptor)?;
        let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
        Ok(Self { device: status.st_dev, inode: status.st_ino, special: status.st_rdev, kind })
    }

    fn is_known(&self) -> bool {
        KNOWN.iter().any(|known| known.get() == Some(self))
    }
}

/// Takes the file behind descriptor 2 for standard error, since logging starts. A socket, or a descriptor that is
/// closed on exec, is not taken: it got the number by chance.
pub fn note() {
    fill();
    let stderr = io::stderr();
    if let Ok(target) = Target::of(&stderr)
        && [SFlag::S_IFCHR, SFlag::S_IFIFO, SFlag::S_IFREG].contains(&target.kind)
        && is_inherited_by_children(&stderr)
    {
        let _ = KNOWN[1].set(target);
    }
}

fn is_inherited_by_children(descriptor: impl AsFd) -> bool {
    fcntl(descriptor, FcntlArg::F_GETFD)
        .is_ok_and(|flags| !FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC))
}

/// Standard error, or whatever has its number, open to be written to once.
enum Way {
    /// It stays what it is while the program closes descriptor 2, and gets another file there.
    Copy(OwnedFd),
    /// Where there is no descriptor to be had for a copy.
    Itself(io::Stderr),
}

impl AsFd for Way {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Copy(copy) => copy.as_fd(),
            Self::Itself(stderr) => stderr.as_fd(),
        }
    }
}

impl Way {
    /// None where descriptor 2 is closed, or is not standard error.
    fn open() -> Option<Self> {
        let way = match copy(io::stderr()) {
            Ok(copy) => Self::Copy(copy),
            Err(Errno::EBADF) => return None,
            // EMFILE, ENFILE, or EINVAL where the limit is lower than any number for a copy.
            Err(_) => Self::Itself(io::stderr()),
        };
        way.is_standard_error().then_some(way)
    }

    /// Whether it is what it was, or something that a program puts in its place: a terminal, /dev/null, a pipe, a log
    /// file. Of a file that is not for appending only the program knows, unless standard output is the same.
    fn is_standard_error(&self) -> bool {
        let Ok(target) = Target::of(self) else { return false };
        if target.is_known() {
            return true;
        }
        let appends = || fcntl(self, FcntlArg::F_GETFL).is_ok_and(|flags| flags & OFlag::O_APPEND.bits() != 0);
        let may_be = match target.kind {
            SFlag::S_IFCHR => major(target.special) == MEMORY_DEVICES || isatty(self) == Ok(true),
            SFlag::S_IFIFO => true,
            SFlag::S_IFREG => appends() || Target::of(&io::stdout()) == Ok(target),
            _ => false,
        };
        may_be && is_inherited_by_children(io::stderr())
    }
}

/// Standard error as a target of lines. What is descriptor 2 is looked at for each write, which takes three system
/// calls more.
#[derive(Debug)]
pub struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let way = Way::open().ok_or(Errno::EBADF)?;
        Ok(write(&way, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for StandardError {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: as of std's own Stderr: the number is the program's, whatever is behind it.
        unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) }
    }
}

/// Writes one line to standard error, of which there may be none.
pub fn complain(line: fmt::Arguments<'_>) {
    let _ = StandardError.write_all(format!("{line}\n").as_bytes());
}
