//! TCP sockets: listening, and the calls that a server makes on a client's connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self, AddressFamily, Backlog, MsgFlags, Shutdown, SockFlag, SockType, SockaddrStorage, sockopt,
};
use nix::sys::time::TimeVal;

use base::Chunk;
use base::fork::Private;
use base::handed;
use base::standard::above;

/// A listening TCP socket. It never blocks; the connections that it accepts do. Closed in a child of fork(2).
pub struct Listener {
    socket: Private<OwnedFd>,
}

impl Listener {
    /// Listens on `port` of `address`, or of all addresses: IPv6 and IPv4 on one socket, or IPv4 alone where the
    /// kernel has no IPv6. Port 0 lets the kernel choose.
    pub fn bind(address: Option<IpAddr>, port: u16, backlog: i32) -> nix::Result<Self> {
        match address {
            Some(address) => Self::bind_to(SocketAddr::new(address, port), backlog),
            None => match Self::bind_to(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), backlog) {
                Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {
                    Self::bind_to(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), backlog)
                }
                result => result,
            },
        }
    }

    fn bind_to(address: SocketAddr, backlog: i32) -> nix::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = above(socket::socket(family, SockType::Stream, flags, None)?)?;
        socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        if family == AddressFamily::Inet6 {
            socket::setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
        }
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
        socket::listen(&socket, Backlog::new(backlog)?)?;
        Ok(Self { socket: Private::new(socket) })
    }

    /// The listening TCP socket that a service manager handed over (`LISTEN_FDS`), if there is one.
    pub fn inherited() -> io::Result<Option<Self>> {
        Ok(handed::take(|candidate| is_tcp(&candidate))?.map(|socket| Self { socket: Private::new(socket) }))
    }

    /// Sets options for every connection accepted from now on. It sends without delay (no Nagle). It acknowledges a
    /// request with the answer where that follows soon. It gives up a send after `limit` without progress. Linux hands
    /// the options down from the listening socket, which saves calls per connection.
    pub fn set_connection_options(&self, limit: Duration) -> nix::Result<()> {
        socket::setsockopt(&*self.socket, sockopt::TcpNoDelay, &true)?;
        set_quick_ack(&self.socket, false)?;
        let limit = TimeVal::new(limit.as_secs() as _, limit.subsec_micros() as _);
        socket::setsockopt(&*self.socket, sockopt::SendTimeout, &limit)
    }

    /// The address that the socket is bound to.
    pub fn local_address(&self) -> Option<SocketAddr> {
        socket::getsockname(self.socket.as_raw_fd()).ok().and_then(to_std)
    }

    /// The next connection; `EAGAIN` where none waits.
    pub fn accept(&self) -> nix::Result<OwnedFd> {
        let number = socket::accept4(self.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: accept4 made this descriptor just now; nobody else knows it.
        above(unsafe { OwnedFd::from_raw_fd(number) })
    }

    /// Whether `accept` has something to tell.
    pub fn is_ready(&self) -> bool {
        let mut listener = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        // Where the kernel cannot tell, a connection may wait.
        poll(&mut listener, PollTimeout::ZERO) != Ok(0)
    }

    /// Refuses connections from now on. Every later `accept` fails with `EINVAL`.
    pub fn refuse(&self) {
        // The socket may have been shut down already, by the program through its number.
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn is_tcp(socket: &impl AsFd) -> bool {
    let stream = socket::getsockopt(socket, sockopt::SockType) == Ok(SockType::Stream);
    let address = socket::getsockname::<SockaddrStorage>(socket.as_fd().as_raw_fd()).ok().and_then(to_std);
    stream && address.is_some()
}

fn to_std(address: SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip().to_canonical(), v6.port())))
}

/// The other end of a connection, an IPv4 client of an IPv6 socket as IPv4.
pub fn peer(socket: &OwnedFd) -> Option<SocketAddr> {
    socket::getpeername(socket.as_raw_fd()).ok().and_then(to_std)
}

/// Reads what has arrived, without waiting. 0 is the end of the stream.
pub fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> nix::Result<usize> {
    socket::recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)
}

/// Whether something has arrived that was not read. The end of the stream is nothing.
pub fn has_bytes(socket: &OwnedFd) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    socket::recv(socket.as_raw_fd(), &mut [0], flags).is_ok_and(|count| count > 0)
}

/// Acknowledges at once what has arrived, and what arrives next. Otherwise the kernel waits up to 40 ms for an answer
/// that could carry the acknowledgement. A client with Nagle's algorithm keeps the rest of its request back for that
/// time.
pub fn confirm(socket: &OwnedFd) {
    // A failure costs the client those 40 ms.
    let _ = set_quick_ack(socket, true);
}

fn set_quick_ack(socket: &OwnedFd, on: bool) -> nix::Result<()> {
    let on = libc::c_int::from(on);
    let size = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes of a value that outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_QUICKACK, (&raw const on).cast(), size)
    };
    Errno::result(result).map(drop)
}

/// Sends a short text without waiting. A client that left, or whose buffer is full, does not get it.
pub fn send_note(socket: &OwnedFd, text: &[u8]) {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let _ = socket::send(socket.as_raw_fd(), text, flags);
}

/// Sends a whole chunk and waits for room as long as the socket's send timeout allows (then `EAGAIN`). `progress` is
/// told of every piece that the kernel took. With `more`, the kernel may hold the bytes back a moment to put what
/// follows into the same segment.
pub fn send_all(socket: RawFd, chunk: Chunk<'_>, more: bool, mut progress: impl FnMut(usize)) -> nix::Result<()> {
    let flags = libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    let mut sent = 0;
    while sent < chunk.len() {
        // SAFETY: `sent` is less than the chunk's length, so the pointer stays inside it, and the chunk stays mapped.
        // Only the kernel reads the bytes, and it answers EFAULT for those it cannot read.
        let count = unsafe { libc::send(socket, chunk.as_ptr().add(sent).cast(), chunk.len() - sent, flags) };
        match Errno::result(count) {
            Ok(count) => {
                sent += count as usize;
                progress(count as usize);
            }
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Tells the client that nothing follows, and still reads from it.
pub fn half_close(socket: &OwnedFd) {
    // ENOTCONN: the client has left already.
    let _ = socket::shutdown(socket.as_raw_fd(), Shutdown::Write);
}

/// Ends a connection in both directions, even while another thread reads or writes it.
pub fn cut(socket: RawFd) {
    let _ = socket::shutdown(socket, Shutdown::Both);
}
