//! Clients of many manners, which check every byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use getfile::Status;
use getfile::{HeaderParser, Parsed, request};
use nix::sys::socket::sockopt::RcvBuf;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket};

use crate::ledger::Window;
use crate::stream::Seen;

/// No request may take that long, whatever happens to the processes.
const WATCHDOG: Duration = Duration::from_secs(90);
/// A slow client reads slowly for so long, then as fast as it can.
const SLOWNESS: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, Debug)]
pub enum Manner {
    Plain,
    /// The request comes in two pieces.
    Halting,
    /// Reads little at a time, into a small buffer.
    Slow,
    /// Closes in the middle of the answer.
    Leaver,
    /// Closes in the middle of the request.
    Fickle,
    /// Connects and closes.
    Knocker,
}

/// How the answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Whole,
    /// Visibly short.
    Cut,
    NotFound,
    Error,
    /// The connection ended before there was a header.
    NoAnswer,
    /// The client has left, and is content.
    Left,
    Hangs,
}

pub struct Outcome {
    pub window: Window,
    pub end: End,
    /// Whether there was a header that announced a file, of this length.
    pub announced: bool,
    pub len: u64,
    pub seen: Seen,
}

/// One request from its beginning to its end; an error tells of bytes that are not the file's.
pub fn download(port: u16, file: usize, manner: Manner, random: &mut Rng) -> Result<Outcome, String> {
    let start = Instant::now();
    let mut reader = Reader { file, parser: HeaderParser::new(), announced: None, seen: Seen::default() };
    let end = match connect_to(port, manner) {
        Some(stream) => exchange(stream, &mut reader, manner, random, start)?,
        None => End::NoAnswer,
    };
    let (announced, len) = (reader.announced.is_some(), reader.announced.unwrap_or(0));
    Ok(Outcome { window: Window { start, end: Instant::now() }, end, announced, len, seen: reader.seen })
}

fn connect_to(port: u16, manner: Manner) -> Option<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    if matches!(manner, Manner::Slow) {
        setsockopt(&socket, RcvBuf, &8192).expect("SO_RCVBUF");
    }
    connect(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).ok()?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(WATCHDOG)).expect("SO_RCVTIMEO");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    Some(stream)
}

fn exchange(
    mut stream: TcpStream,
    reader: &mut Reader,
    manner: Manner,
    random: &mut Rng,
    start: Instant,
) -> Result<End, String> {
    let request = request(format!("/f/{}", reader.file).as_bytes());
    let first = match manner {
        Manner::Knocker => 0,
        Manner::Fickle | Manner::Halting => random.usize(1..request.len()),
        Manner::Plain | Manner::Slow | Manner::Leaver => request.len(),
    };
    // A server that is gone shows when its answer is read.
    let _ = stream.write_all(&request[..first]);
    if matches!(manner, Manner::Knocker | Manner::Fickle) {
        return Ok(End::Left);
    }
    if matches!(manner, Manner::Halting) {
        sleep(Duration::from_millis(random.u64(0..5)));
        let _ = stream.write_all(&request[first..]);
    }
    let leaves_at = if matches!(manner, Manner::Leaver) { random.u64(0..200_000) } else { u64::MAX };
    let mut buffer = vec![0; 128 << 10];
    loop {
        let slow = matches!(manner, Manner::Slow) && start.elapsed() < SLOWNESS;
        let limit = if slow { random.usize(1..16384) } else { buffer.len() };
        let count = match stream.read(&mut buffer[..limit]) {
            Ok(0) => return Ok(reader.broken()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(End::Hangs),
            Err(_) => return Ok(reader.broken()),
        };
        if let Some(end) = reader.take(&buffer[..count])? {
            return farewell(stream, end);
        }
        if reader.seen.len > leaves_at {
            return Ok(End::Left);
        }
        if start.elapsed() > WATCHDOG {
            return Ok(End::Hangs);
        }
        if slow {
            sleep(Duration::from_millis(random.u64(0..20)));
        }
    }
}

/// Nothing may follow the announced bytes.
fn farewell(mut stream: TcpStream, end: End) -> Result<End, String> {
    let _ = stream.shutdown(Shutdown::Write);
    let mut surplus = [0; 80];
    match stream.read(&mut surplus) {
        Ok(count) if count > 0 && end == End::Whole => {
            Err(format!("behind the file: {:?}", String::from_utf8_lossy(&surplus[..count])))
        }
        _ => Ok(end),
    }
}

struct Reader {
    file: usize,
    parser: HeaderParser,
    announced: Option<u64>,
    seen: Seen,
}

impl Reader {
    fn broken(&self) -> End {
        if self.announced.is_some() { End::Cut } else { End::NoAnswer }
    }

    /// Takes the next bytes; the end, if they complete the answer.
    fn take(&mut self, received: &[u8]) -> Result<Option<End>, String> {
        let mut used = 0;
        if self.announced.is_none() {
            let parsed = self.parser.push(received).map_err(|error| format!("{error}: {received:?}"))?;
            let Parsed::Complete { header, used: of_header } = parsed else { return Ok(None) };
            match header.status {
                Status::FileNotFound => return Ok(Some(End::NotFound)),
                Status::Error => return Ok(Some(End::Error)),
                Status::Ok => (self.announced, used) = (Some(header.len), of_header),
            }
        }
        let announced = self.announced.expect("set above");
        if self.seen.len + (received.len() - used) as u64 > announced {
            return Err(format!("more than the {announced} bytes announced"));
        }
        self.seen.push(self.file, &received[used..])?;
        Ok((self.seen.len == announced).then_some(End::Whole))
    }
}
