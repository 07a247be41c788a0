//! Unix SOCK_SEQPACKET sockets: whole datagrams in order, descriptors beside them, an end of file when the peer dies.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    self, AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, sockopt,
};
use nix::sys::stat::fstat;
use nix::unistd::getpid;

use base::handed;
use base::standard::above;

use base::fork::Private;

/// The most descriptors that come with one datagram (the kernel's SCM_MAX_FD). The protocol asks for one; but those
/// that find no room the kernel closes as they are received, which may take as long as the peer likes.
const MAX_DESCRIPTORS: usize = 253;
/// The bytes of their control message.
// SAFETY: CMSG_SPACE only computes a number.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE((MAX_DESCRIPTORS * size_of::<RawFd>()) as u32) } as usize;

/// One end of a connection, or a listening socket. Non-blocking and close-on-exec, and closed in a child of fork(2).
#[derive(Debug)]
pub(crate) struct SeqPacket(Private<OwnedFd>);

/// A peer's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Process {
    /// By its number.
    Visible(i32),
    /// One of a PID namespace that is not seen from here, by the inode of its pidfd: each has its own since Linux 6.9.
    /// With older kernels all of them look the same.
    Hidden(u64),
}

impl Process {
    pub(crate) fn own() -> Self {
        Self::Visible(getpid().as_raw())
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Visible(pid) => write!(f, "pid {pid}"),
            Self::Hidden(inode) => write!(f, "pid 0, pidfd {inode}"),
        }
    }
}

/// A received datagram.
#[derive(Debug)]
pub(crate) struct Received {
    /// The bytes of it that are in the buffer.
    pub(crate) len: usize,
    /// The descriptors that came with it.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// It was longer than the buffer, or carried more than could be taken.
    pub(crate) truncated: bool,
}

impl Received {
    /// Whether it is the end of the connection (or as empty as that).
    pub(crate) fn is_end(&self) -> bool {
        self.len == 0 && self.descriptors.is_empty()
    }

    /// Whether it is a whole datagram without descriptors.
    pub(crate) fn is_plain(&self) -> bool {
        !self.truncated && self.descriptors.is_empty()
    }
}

/// Room for the control message of [`MAX_DESCRIPTORS`] descriptors, aligned as a cmsghdr must be.
#[repr(C)]
union ControlBuffer {
    _align: libc::cmsghdr,
    bytes: [MaybeUninit<u8>; CONTROL_LEN],
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(above(socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)?)
}

impl SeqPacket {
    /// Binds `path` and listens.
    pub(crate) fn listen(path: &Path) -> io::Result<Self> {
        let fd = new_socket()?;
        socket::bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        socket::listen(&fd, Backlog::new(128)?)?;
        Ok(Self(Private::new(fd)))
    }

    /// The listening SOCK_SEQPACKET socket that a service manager handed over (`LISTEN_FDS`), if there is one.
    pub(crate) fn inherited() -> io::Result<Option<Self>> {
        let is_seqpacket =
            |candidate: BorrowedFd<'_>| socket::getsockopt(&candidate, sockopt::SockType) == Ok(SockType::SeqPacket);
        Ok(handed::take(is_seqpacket)?.map(|socket| Self(Private::new(socket))))
    }

    /// Where a listening socket is: its path, or its name behind an `@` where it is in the abstract namespace.
    pub(crate) fn path(&self) -> io::Result<PathBuf> {
        let address: UnixAddr = socket::getsockname(self.0.as_raw_fd())?;
        let hidden = || {
            let name = address.as_abstract().unwrap_or_default();
            PathBuf::from(OsString::from_vec([b"@", name].concat()))
        };
        Ok(address.path().map_or_else(hidden, Path::to_owned))
    }

    /// Connects to the listening socket at `path`. Its backlog being full is `WouldBlock`.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let fd = new_socket()?;
        socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self(Private::new(fd)))
    }

    /// Takes one waiting connection.
    pub(crate) fn accept(&self) -> io::Result<Self> {
        let fd = socket::accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
        // SAFETY: accept4 returned a new descriptor that nobody else owns.
        Ok(Self(Private::new(above(unsafe { OwnedFd::from_raw_fd(fd) })?)))
    }

    /// Who connected: process, user and group at the time of connect(2).
    pub(crate) fn peer(&self) -> io::Result<UnixCredentials> {
        Ok(socket::getsockopt(&*self.0, sockopt::PeerCredentials)?)
    }

    /// The process of a peer with these credentials.
    pub(crate) fn process(&self, peer: &UnixCredentials) -> Process {
        if peer.pid() != 0 {
            return Process::Visible(peer.pid());
        }
        let inode = self.peer_pidfd().and_then(|pidfd| Ok(fstat(pidfd)?.st_ino));
        Process::Hidden(inode.unwrap_or(0))
    }

    /// A descriptor that tells of the peer's death, also where a child of the peer keeps the socket open. An error on
    /// kernels without SO_PEERPIDFD (before 6.5).
    pub(crate) fn peer_pidfd(&self) -> io::Result<OwnedFd> {
        const SO_PEERPIDFD: libc::c_int = 77;
        let mut fd: RawFd = -1;
        let mut len = size_of::<RawFd>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to `fd`.
        let failed = unsafe {
            libc::getsockopt(self.0.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut fd).cast(), &raw mut len)
        };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel returned a new descriptor that nobody else owns.
        Ok(above(unsafe { OwnedFd::from_raw_fd(fd) })?)
    }

    /// Sends one datagram, with a descriptor or without. Never raises SIGPIPE, never blocks.
    pub(crate) fn send(&self, datagram: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let sent = match descriptor {
            None => socket::send(self.0.as_raw_fd(), datagram, flags)?,
            Some(descriptor) => {
                let rights = [descriptor.as_raw_fd()];
                let control = [ControlMessage::ScmRights(&rights)];
                socket::sendmsg::<UnixAddr>(self.0.as_raw_fd(), &[IoSlice::new(datagram)], &control, flags, None)?
            }
        };
        if sent == datagram.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Whether the peer has not received all that was sent.
    pub(crate) fn has_unread(&self) -> bool {
        let mut unread: libc::c_int = 0;
        // SAFETY: the kernel writes one int.
        let failed = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) };
        failed != 0 || unread > 0
    }

    /// Receives one datagram and the descriptors with it, all of which are owned by the answer.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut control = ControlBuffer { bytes: [MaybeUninit::uninit(); CONTROL_LEN] };
        // SAFETY: msghdr is plain data for which zeros are valid.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of::<ControlBuffer>();
        // SAFETY: the header points to buffers on this stack with their true sizes.
        let len =
            unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
        if len < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut descriptors = Vec::new();
        // SAFETY: recvmsg filled the control buffer; the CMSG macros walk it within msg_controllen. Also after
        // MSG_CTRUNC the descriptors that did arrive are installed, so they are owned before anything else is decided.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                    let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                    let data: *const RawFd = libc::CMSG_DATA(header).cast();
                    for i in 0..bytes / size_of::<RawFd>() {
                        descriptors.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                    }
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        // One that cannot be moved is one that did not arrive.
        let received = descriptors.len();
        let descriptors: Vec<_> = descriptors.into_iter().filter_map(|descriptor| above(descriptor).ok()).collect();
        let truncated = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 || descriptors.len() < received;
        Ok(Received { len: len.cast_unsigned(), descriptors, truncated })
    }

    /// Ends the connection for both sides; descriptors stay open until dropped.
    pub(crate) fn shut_down(&self) {
        // An error means that there is no connection any more, which is what was asked for.
        let _ = socket::shutdown(self.0.as_raw_fd(), socket::Shutdown::Both);
    }
}

impl AsFd for SeqPacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
