//! A GETFILE client that reads when it is told to, and checks every byte that it gets.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use getfile::Status;
use getfile::{HeaderParser, Parsed, request};
use nix::sys::socket::sockopt::RcvBuf;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket};

/// How a download ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The whole file, byte for byte.
    Whole,
    /// A header, then less than the file.
    Short(u64),
    NotFound,
    Error,
    /// The connection ended before there was a header.
    NoAnswer,
}

/// A request that was sent.
#[derive(Debug)]
pub struct Download<'f> {
    stream: TcpStream,
    parser: HeaderParser,
    expected: &'f [u8],
    header: Option<(Status, u64)>,
    got: u64,
}

/// No answer within this time is a hang, which fails the test.
const WATCHDOG: Duration = Duration::from_secs(60);

impl<'f> Download<'f> {
    /// Asks for `path`, which must bring `expected`.
    pub fn start(port: u16, path: &str, expected: &'f [u8]) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect to webproxy");
        Self::on(stream, path, expected)
    }

    /// The same with a small receive buffer: what the client does not read stays with the server.
    pub fn slow(port: u16, path: &str, expected: &'f [u8]) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect to webproxy");
        setsockopt(&stream, RcvBuf, &(32 << 10)).expect("SO_RCVBUF");
        Self::on(stream, path, expected)
    }

    /// The same with a receive buffer that is small from the start, so that the server hears of every little that is
    /// read.
    pub fn with_window(port: u16, path: &str, expected: &'f [u8], window: usize) -> Self {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        setsockopt(&socket, RcvBuf, &window).expect("SO_RCVBUF");
        connect(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).expect("connect to webproxy");
        Self::on(TcpStream::from(socket), path, expected)
    }

    fn on(mut stream: TcpStream, path: &str, expected: &'f [u8]) -> Self {
        stream.set_read_timeout(Some(WATCHDOG)).expect("SO_RCVTIMEO");
        stream.write_all(&request(path.as_bytes())).expect("send the request");
        Self { stream, parser: HeaderParser::new(), expected, header: None, got: 0 }
    }

    /// Reads until `target` bytes of the file are there, or the end. None: there may be more.
    pub fn read_to(&mut self, target: u64) -> Option<End> {
        let mut buffer = vec![0; 256 << 10];
        while self.got < target {
            let limit = (target - self.got).min(buffer.len() as u64) as usize;
            let count = match self.stream.read(&mut buffer[..limit]) {
                Ok(0) => return Some(self.broken()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Some(self.broken()),
                Err(error) => panic!("no byte for {WATCHDOG:?} after {} bytes: {error}", self.got),
            };
            if let Some(end) = self.take(&buffer[..count]) {
                return Some(end);
            }
        }
        None
    }

    /// Reads to the end.
    pub fn finish(mut self) -> End {
        self.read_to(u64::MAX).expect("no file is that long")
    }

    fn broken(&self) -> End {
        match self.header {
            Some(_) => End::Short(self.got),
            None => End::NoAnswer,
        }
    }

    fn take(&mut self, received: &[u8]) -> Option<End> {
        let mut used = 0;
        if self.header.is_none() {
            match self.parser.push(received).expect("a GETFILE header") {
                Parsed::Partial => return None,
                Parsed::Complete { header, used: of_header } => {
                    used = of_header;
                    self.header = Some((header.status, header.len));
                }
            }
        }
        let (status, len) = self.header.expect("set above");
        match status {
            Status::FileNotFound => return Some(End::NotFound),
            Status::Error => return Some(End::Error),
            Status::Ok => assert_eq!(len, self.expected.len() as u64, "the announced length"),
        }
        let body = &received[used..];
        let at = self.got as usize;
        let wanted = self.expected.get(at..at + body.len()).expect("no more bytes than announced");
        assert!(body == wanted, "wrong bytes between {at} and {}", at + body.len());
        self.got += body.len() as u64;
        (self.got == len).then_some(End::Whole)
    }
}

/// One whole request.
pub fn download(port: u16, path: &str, expected: &[u8]) -> End {
    Download::start(port, path, expected).finish()
}
