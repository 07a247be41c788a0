//! The connections of a handle, and whether what arrives on a kept one can be the answer to a request.
//!
//! Bytes that nobody asked for may wait in the kernel, be on their way, or have been read ahead by TLS. Some versions
//! of libcurl do not look for them, and none looks everywhere. Taken for an answer they would be another file, and each
//! later answer of that connection would be wrong, too.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockaddrStorage, getpeername, getsockname, recv};

/// The two ends of a connection, as libcurl tells them. Our address is left out: no two differ in that alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) local_port: u16,
}

impl Ends {
    fn of(socket: RawFd) -> Option<Self> {
        let peer = address(getpeername::<SockaddrStorage>(socket).ok()?)?;
        let local_port = address(getsockname::<SockaddrStorage>(socket).ok()?)?.port();
        Some(Self { peer, local_port })
    }

    /// `None` where these are no IP addresses.
    pub(super) fn parse(peer_ip: &str, peer_port: i32, local_port: i32) -> Option<Self> {
        let peer = SocketAddr::new(peer_ip.parse::<IpAddr>().ok()?, u16::try_from(peer_port).ok()?);
        Some(Self { peer, local_port: u16::try_from(local_port).ok()? })
    }
}

fn address(storage: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())))
}

struct Socket {
    number: RawFd,
    ends: Option<Ends>,
    /// Its bytes name the request that they answer, as in HTTP/2.
    is_framed: bool,
}

/// The sockets that libcurl has open for a handle.
#[derive(Default)]
pub(super) struct Sockets {
    open: RefCell<Vec<Socket>>,
    /// Whether one was opened since the last request.
    is_new: Cell<bool>,
    /// The one that the last request went over.
    current: Cell<Option<RawFd>>,
}

/// What a request is about to go over.
pub(super) enum Way {
    /// A new connection, or one on which an answer cannot be mistaken.
    Safe,
    Kept(Kept),
    /// A kept connection that must not be used.
    Spoilt(Spoilt),
}

/// Why a kept connection must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoilt {
    /// There is something to read that belongs to no answer.
    Bytes,
    /// It has ended, or cannot be told from others.
    Lost,
}

impl Sockets {
    pub(super) fn opened(&self, number: RawFd) {
        self.closed(number);
        self.open.borrow_mut().push(Socket { number, ends: None, is_framed: false });
        self.is_new.set(true);
    }

    pub(super) fn closed(&self, number: RawFd) {
        self.open.borrow_mut().retain(|socket| socket.number != number);
    }

    /// A transfer begins. What the one before has opened and not used is no new connection.
    pub(super) fn begin(&self) {
        self.is_new.set(false);
    }

    /// A request is about to be sent over the connection with these ends.
    pub(super) fn way(&self, ends: Option<Ends>) -> Way {
        let mut open = self.open.borrow_mut();
        open.iter_mut().for_each(|socket| socket.ends = socket.ends.or_else(|| Ends::of(socket.number)));
        let socket = open.iter().find(|socket| ends.is_some() && socket.ends == ends);
        self.current.set(socket.as_ref().map(|socket| socket.number));
        match socket {
            _ if self.is_new.take() => Way::Safe,
            None => Way::Spoilt(Spoilt::Lost),
            Some(socket) if socket.is_framed => Way::Safe,
            Some(socket) => Kept::new(socket.number),
        }
    }

    /// Whether there is something to read on the connection of the last request.
    pub(super) fn has_unread(&self) -> bool {
        self.current.get().is_some_and(|socket| unread(socket) > 0)
    }

    /// The connection of the last request speaks HTTP/2 or later.
    pub(super) fn frame(&self) {
        let current = self.current.get();
        self.open.borrow_mut().iter_mut().filter(|s| Some(s.number) == current).for_each(|s| s.is_framed = true);
    }
}

/// A kept connection over which a request goes that has no answer yet.
pub(super) struct Kept {
    socket: RawFd,
    before: Option<Counted>,
}

impl Kept {
    /// Counts, then looks: what comes in between is seen.
    #[allow(clippy::new_ret_no_self, reason = "there may be none")]
    fn new(socket: RawFd) -> Way {
        let before = Counted::of(socket);
        match recv(socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => Way::Kept(Self { socket, before }),
            // With the end behind it, it is a farewell.
            Ok(1..) if before.is_some_and(|counted| counted.is_open) => Way::Spoilt(Spoilt::Bytes),
            Ok(_) | Err(_) => Way::Spoilt(Spoilt::Lost),
        }
    }

    /// Whether what begins to arrive can be the answer. An origin that answers has the request, and TCP acknowledges it
    /// no later than with the first byte of the answer. What TLS had read before takes no new byte from the socket.
    pub(super) fn is_answered(&self) -> bool {
        // What comes between the two looks seems unread, and makes an answer seem none. It does not come each time.
        (0..3).any(|_| {
            let (Some(before), Some(now)) = (self.before, Counted::of(self.socket)) else { return true };
            // A kernel that does not count them tells nothing.
            let read = now.received.saturating_sub(unread(self.socket));
            before.received == 0 || (now.acknowledged > before.acknowledged && read > before.received)
        })
    }
}

/// How many bytes wait to be read.
fn unread(socket: RawFd) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: this request writes an int.
    let code = unsafe { libc::ioctl(socket, libc::FIONREAD, &raw mut bytes) };
    if code == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// The bytes of a TCP connection: ours that the other side has, and its that we have.
#[derive(Clone, Copy, Debug)]
struct Counted {
    is_open: bool,
    acknowledged: u64,
    received: u64,
}

impl Counted {
    /// The beginning of the kernel's `struct tcp_info`, of which libc has less, in units of 8 bytes.
    const ACKNOWLEDGED: usize = 120 / 8;
    const RECEIVED: usize = 128 / 8;
    /// The first byte, if neither side has closed.
    const ESTABLISHED: u8 = 1;

    fn of(socket: RawFd) -> Option<Self> {
        let mut info = [0_u64; Self::RECEIVED + 1];
        let mut len = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to `info`, and what it has written to `len`.
        let code = unsafe {
            libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
        };
        let is_whole = code == 0 && len as usize == size_of_val(&info);
        is_whole.then(|| Self {
            is_open: info[0].to_ne_bytes()[0] == Self::ESTABLISHED,
            acknowledged: info[Self::ACKNOWLEDGED],
            received: info[Self::RECEIVED],
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    /// Both ends of a connection over which one answer has gone.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (server, _) = listener.accept().expect("a connection");
        pass(&client, &server);
        pass(&server, &client);
        (client, server)
    }

    fn pass(mut from: &TcpStream, mut to: &TcpStream) {
        from.write_all(b"x").expect("a byte goes");
        to.read_exact(&mut [0]).expect("a byte comes");
    }

    fn kept(client: &TcpStream) -> Kept {
        match Kept::new(client.as_raw_fd()) {
            Way::Kept(kept) => kept,
            _ => panic!("nothing is on this connection"),
        }
    }

    fn wait_for_bytes(client: &TcpStream) {
        client.peek(&mut [0]).expect("a byte comes");
    }

    #[test]
    fn an_answer_comes_after_its_request() {
        let (client, server) = connection();
        let kept = kept(&client);
        pass(&client, &server);
        pass(&server, &client);
        assert!(kept.is_answered());
    }

    #[test]
    fn what_was_sent_before_the_request_had_come_is_no_answer() {
        let (client, server) = connection();
        let kept = kept(&client);
        pass(&server, &client);
        assert!(!kept.is_answered());
    }

    #[test]
    fn what_was_read_before_the_request_was_sent_is_no_answer() {
        let (client, server) = connection();
        let kept = kept(&client);
        pass(&client, &server);
        (&server).write_all(b"the answer").expect("bytes go");
        wait_for_bytes(&client);
        assert!(!kept.is_answered(), "TLS had it, as the socket was not read");
    }

    #[test]
    fn a_connection_with_something_on_it_is_not_used() {
        let (client, server) = connection();
        (&server).write_all(b"x").expect("a byte goes");
        wait_for_bytes(&client);
        assert!(matches!(Kept::new(client.as_raw_fd()), Way::Spoilt(Spoilt::Bytes)));
        drop(server);
        (&client).read_exact(&mut [0]).expect("a byte comes");
        client.peek(&mut [0]).expect("the end");
        assert!(matches!(Kept::new(client.as_raw_fd()), Way::Spoilt(Spoilt::Lost)));
    }

    #[test]
    fn the_connection_of_a_request_is_found_by_its_ends() {
        let (client, _server) = connection();
        let (other, _other_server) = connection();
        let sockets = Sockets::default();
        let (number, ends) = (client.as_raw_fd(), Ends::of(client.as_raw_fd()));
        sockets.opened(other.as_raw_fd());
        sockets.opened(number);
        assert!(matches!(sockets.way(ends), Way::Safe), "a new one");
        assert!(matches!(sockets.way(ends), Way::Kept(kept) if kept.socket == number));
        sockets.frame();
        assert!(matches!(sockets.way(ends), Way::Safe), "HTTP/2");
        assert!(matches!(sockets.way(Ends::of(other.as_raw_fd())), Way::Kept(_)));
        sockets.closed(number);
        assert!(matches!(sockets.way(ends), Way::Spoilt(Spoilt::Lost)));
        assert!(matches!(sockets.way(None), Way::Spoilt(Spoilt::Lost)));
    }
}
