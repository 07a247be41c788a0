//! How much a TCP socket takes without making the sender wait.

use std::ffi::c_int;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use libc::socklen_t;

/// What the kernel needs beside the bytes of each send, at most, while they wait in the buffer.
const SEND_OVERHEAD: usize = 2048;
/// The same for each packet, of which a send may become many.
const PACKET_OVERHEAD: u64 = 2304;
/// A packet holds at most so many bytes, and at most half of the largest window that the client has offered: what goes
/// to a client with a tiny window takes many times its size.
const LARGEST_PACKET: u64 = 64 << 10;
const SMALLEST_PACKET: u64 = 68;
/// Where there is room at all, there is room for this much.
const LEAST_ROOM: usize = 1024;
/// What the buffer of a fresh connection takes without being asked: half of what Linux gives one at first.
const FIRST_ROOM: usize = 8 << 10;

/// A connection's send buffer.
pub(crate) struct SendBuffer {
    socket: RawFd,
    /// So many bytes it surely takes.
    room: usize,
}

impl SendBuffer {
    /// That of a socket that nothing was sent on yet. Of a number that is no socket it tells nonsense, and does no
    /// harm.
    pub(crate) fn new(socket: RawFd) -> Self {
        Self { socket, room: FIRST_ROOM }
    }

    /// How many of `len` bytes can be sent without waiting for the client; 0 if there is no room within `patience`.
    pub(crate) fn room(&mut self, len: usize, patience: Duration) -> usize {
        // Asked again only when what is known is used up: that is not often while chunks are small.
        if self.room < len + SEND_OVERHEAD {
            // A kernel that does not tell: then a send may have to wait.
            let Some(mut room) = self.free() else { return len };
            if room < len + SEND_OVERHEAD {
                if !self.wait(patience) {
                    return 0;
                }
                room = self.free().unwrap_or_default();
            }
            self.room = room;
        }
        let now = len.min(self.room.saturating_sub(SEND_OVERHEAD).max(LEAST_ROOM));
        self.room = self.room.saturating_sub(now + SEND_OVERHEAD);
        now
    }

    /// Waits until there is room. False if the client takes no byte for `limit`.
    pub(crate) fn drains(&self, limit: Duration) -> bool {
        let mut before = self.unacknowledged();
        while !self.wait(limit) {
            // The kernel wants a third of the buffer free before it calls that room: a slow client is not a stalled
            // one.
            let now = self.unacknowledged();
            if now >= before {
                return false;
            }
            before = now;
        }
        true
    }

    /// The bytes that fit into what is free, with a quarter to spare.
    fn free(&self) -> Option<usize> {
        let (size, queued) = self.size()?;
        let free = size.saturating_sub(queued) as u64 / 4 * 3;
        let packet = (self.window()? / 2).clamp(SMALLEST_PACKET, LARGEST_PACKET);
        usize::try_from(free * packet / (packet + PACKET_OVERHEAD)).ok()
    }

    /// The size of the buffer, and how much of it is in use: both with what the kernel needs beside the bytes.
    fn size(&self) -> Option<(usize, usize)> {
        const SO_MEMINFO: c_int = 55;
        let values: [u32; 9] = self.option(libc::SOL_SOCKET, SO_MEMINFO)?;
        let [_, _, _, size, _, queued, ..] = values;
        Some((size as usize, queued as usize))
    }

    /// The bytes that the client's window has room for now: tcpi_snd_wnd, the last field of tcp_info in Linux 5.4.
    /// Where there is none (older kernels, other sockets) it counts as tiny.
    fn window(&self) -> Option<u64> {
        const FIELDS: usize = 58;
        let info: Option<[u32; FIELDS]> = self.option(libc::IPPROTO_TCP, libc::TCP_INFO);
        Some(info.map_or(0, |info| info[FIELDS - 1].into()))
    }

    /// The bytes that the client has not acknowledged.
    fn unacknowledged(&self) -> Option<usize> {
        let mut bytes: c_int = 0;
        // SAFETY: the kernel writes an int.
        let failed = unsafe { libc::ioctl(self.socket, libc::TIOCOUTQ, &raw mut bytes) };
        if failed == 0 { usize::try_from(bytes).ok() } else { None }
    }

    /// Waits until the client has made room, has left, or `patience` is over (false).
    fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let ms = c_int::try_from(left.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX);
            let mut socket = libc::pollfd { fd: self.socket, events: libc::POLLOUT, revents: 0 };
            // SAFETY: one valid pollfd on this stack.
            match unsafe { libc::poll(&raw mut socket, 1, ms) } {
                0 => return false,
                -1 if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
                // An error shows again, and more clearly, when something is sent.
                _ => return true,
            }
        }
    }

    /// A socket option that is an array of numbers; what the kernel leaves out is 0.
    fn option<const N: usize>(&self, level: c_int, option: c_int) -> Option<[u32; N]> {
        let mut values = [0u32; N];
        let mut len = size_of_val(&values) as socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to `values`, for which all bytes are fine.
        let failed = unsafe { libc::getsockopt(self.socket, level, option, values.as_mut_ptr().cast(), &raw mut len) };
        (failed == 0).then_some(values)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::thread;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt};

    use super::*;

    /// A connection to a client whose window is as small as Linux allows, or of the usual size.
    fn pair(tiny: bool) -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).expect("a socket");
        if tiny {
            setsockopt(&client, sockopt::RcvBuf, &1).expect("SO_RCVBUF");
        }
        let port = listener.local_addr().expect("its address").port();
        connect(client.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))).expect("connect");
        let server = listener.accept().expect("a client").0;
        (server.into(), client.into())
    }

    /// Sends what there is said to be room for, until there is none. Returns how much that was.
    fn fill(server: &OwnedFd) -> usize {
        let data = vec![7; 512 << 10];
        let mut buffer = SendBuffer::new(server.as_raw_fd());
        let mut sent = 0;
        loop {
            let room = buffer.room(data.len(), Duration::from_millis(20));
            if room == 0 {
                return sent;
            }
            // SAFETY: `room` is no more than the data has.
            let count = unsafe { libc::send(server.as_raw_fd(), data.as_ptr().cast(), room, libc::MSG_DONTWAIT) };
            assert_eq!(count, room as isize, "after {sent} bytes a send of {room} would wait");
            sent += room;
        }
    }

    #[test]
    fn no_send_waits_however_small_the_window() {
        for tiny in [true, false] {
            let (server, _client) = pair(tiny);
            // The room for more than a few packets is found.
            assert!(fill(&server) > 64 << 10, "tiny: {tiny}");
        }
    }

    #[test]
    fn a_client_that_reads_makes_room_and_one_that_does_not_makes_none() {
        let (server, mut client) = pair(false);
        let sent = fill(&server);
        let buffer = SendBuffer::new(server.as_raw_fd());
        assert!(!buffer.drains(Duration::from_millis(20)));
        thread::scope(|scope| {
            scope.spawn(|| client.read_exact(&mut vec![0; sent]).expect("what was sent"));
            assert!(buffer.drains(Duration::from_secs(20)));
        });
    }

    #[test]
    fn what_is_no_socket_is_left_to_the_send() {
        // SAFETY: a fresh descriptor, owned here.
        let pipe = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(0)) };
        assert_eq!(SendBuffer::new(pipe.as_raw_fd()).room(100_000, Duration::ZERO), 100_000);
    }
}
