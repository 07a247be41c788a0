//! What this process has sent over TCP and the other end's kernel has not confirmed yet.

use std::ffi::c_int;
use std::fs;
use std::os::fd::RawFd;
use std::thread;
use std::time::{Duration, Instant};

/// How soon a connection is looked at again. The kernel tells nobody when the last byte is confirmed: a socket is
/// writable from a third of its buffer on.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// Waits until every TCP connection of this process has had all its bytes confirmed, or is closed. Returns how many
/// have not at the deadline. A gfserver keeps a connection open behind its handler's back; this finds it whoever that
/// is.
pub(crate) fn wait(deadline: Instant) -> usize {
    let mut pause = FIRST_PAUSE;
    let mut waiting: Vec<RawFd> = descriptors();
    loop {
        waiting.retain(|&fd| is_unconfirmed(fd));
        let left = deadline.saturating_duration_since(Instant::now());
        if waiting.is_empty() || left.is_zero() {
            return waiting.len();
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The numbers of this process's open descriptors; none where /proc is not mounted.
fn descriptors() -> Vec<RawFd> {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether the number is that of a TCP connection that still delivers bytes. It may be closed or another's meanwhile:
/// nothing is changed, only looked at.
fn is_unconfirmed(fd: RawFd) -> bool {
    let mut info = [0u8; 1];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `info`. Of anything but a TCP socket it is an error.
    let failed =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len) };
    // The first byte is the state. A connection that was reset keeps its count of bytes, but delivers none.
    const CLOSE: u8 = 7;
    if failed != 0 || info[0] == CLOSE {
        return false;
    }
    let mut bytes: c_int = 0;
    // SAFETY: TIOCOUTQ is SIOCOUTQ on a socket, and writes one int. A listening socket answers with an error.
    unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) == 0 && bytes > 0 }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("connect");
        (listener.accept().expect("a client").0, client)
    }

    /// Sends until the sockets of both sides are full.
    fn fill(server: &TcpStream) -> usize {
        server.set_nonblocking(true).expect("nonblocking");
        let (mut server, mut sent) = (server, 0);
        while let Ok(count) = server.write(&[7; 65536]) {
            sent += count;
        }
        sent
    }

    #[test]
    fn bytes_that_the_client_does_not_take_are_unconfirmed() {
        let (server, mut client) = pair();
        assert!(!is_unconfirmed(server.as_raw_fd()));
        let sent = fill(&server);
        assert!(is_unconfirmed(server.as_raw_fd()));
        assert!(descriptors().contains(&server.as_raw_fd()));
        client.read_exact(&mut vec![0; sent]).expect("all of it");
        let deadline = Instant::now() + Duration::from_secs(60);
        while is_unconfirmed(server.as_raw_fd()) && Instant::now() < deadline {}
        assert!(Instant::now() < deadline, "confirmed in no time");
    }

    #[test]
    fn a_reset_connection_is_not_waited_for() {
        let (server, mut client) = pair();
        fill(&server);
        // Bytes that the client has not read make its close a reset.
        client.read_exact(&mut [0; 1]).expect("a byte");
        drop(client);
        let deadline = Instant::now() + Duration::from_secs(60);
        while is_unconfirmed(server.as_raw_fd()) && Instant::now() < deadline {}
        assert!(Instant::now() < deadline, "given up in no time");
    }

    #[test]
    fn other_descriptors_are_none_of_its_business() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let file = fs::File::open("/proc/self/stat").expect("a file");
        for fd in [listener.as_raw_fd(), file.as_raw_fd(), -1, c_int::MAX] {
            assert!(!is_unconfirmed(fd), "{fd}");
        }
    }
}
