//! The client: threads that fetch files over one connection a request, in GETFILE or in HTTP/1.0, and check every byte.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use getfile::Status;
use getfile::{Header, HeaderParser, Parsed};
use hdrhistogram::Histogram;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};

use crate::content::{Content, next_random};

/// What is received at a time: as much as fits into the second-level cache beside what the server uses.
const BUFFER: usize = 128 * 1024;

/// Byte n of an answer is received at SKEW + n modulo PAGE of a page. Where the kernel copies from is at most a header
/// away from n. On some processors copies to a few bytes behind that are many times slower
/// (docs/decisions/0015-segments-begin-half-a-page-off.md). So the length of a server's header, and what earlier reads
/// happened to bring, would decide how fast its client is.
const SKEW: usize = PAGE / 2;
const PAGE: usize = 4096;

/// A server that is silent for so long has failed.
const SILENCE: Duration = Duration::from_secs(10);

/// The longest latency that is told apart, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Getfile,
    Http,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub enum Paths<'a> {
    /// One file.
    One(&'a Content),
    /// Any of `count` keys `/entry/0000000`, `/entry/0000001`, ...; the files are given to them in turn.
    Numbered { count: u64, files: &'a [Content] },
}

/// A load: so many clients, for so long.
pub struct Load<'a> {
    pub paths: Paths<'a>,
    pub clients: usize,
    pub warmup: Duration,
    pub duration: Duration,
}

/// What the clients saw.
pub struct Sample {
    pub requests: u64,
    pub bytes: u64,
    pub seconds: f64,
    /// Nanoseconds from the start of connect to the last byte, of the requests that ended within the measured time.
    pub latencies: Histogram<u64>,
}

const WARMING_UP: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// The key of a numbered request.
pub fn numbered(number: u64) -> String {
    format!("/entry/{number:07}")
}

/// Puts `load` on a server; client i connects to the port that is its turn. `observe` is called when the measured time
/// begins and when it ends.
pub fn run(protocol: Protocol, ports: &[u16], load: &Load<'_>, mut observe: impl FnMut()) -> Result<Sample, String> {
    let phase = AtomicU8::new(WARMING_UP);
    let ready = Barrier::new(load.clients + 1);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..load.clients)
            .map(|index| {
                let (phase, ready) = (&phase, &ready);
                let mut client = Client::new(protocol, index, ports[index % ports.len()], phase);
                scope.spawn(move || {
                    ready.wait();
                    client.work(load.paths).map(|()| client.seen)
                })
            })
            .collect();
        ready.wait();
        thread::sleep(load.warmup);
        observe();
        let start = Instant::now();
        phase.store(MEASURING, Ordering::Relaxed);
        thread::sleep(load.duration);
        phase.store(OVER, Ordering::Relaxed);
        let seconds = start.elapsed().as_secs_f64();
        observe();
        let mut sample = Sample { requests: 0, bytes: 0, seconds, latencies: histogram() };
        for client in clients {
            let seen = client.join().map_err(|_| "a client panicked".to_owned())??;
            sample.requests += seen.requests;
            sample.bytes += seen.bytes;
            sample.latencies.add(&seen.latencies).map_err(|e| e.to_string())?;
        }
        Ok(sample)
    })
}

/// Fetches one file once, so that a cache holds it, and checks it.
pub fn fetch_once(protocol: Protocol, port: u16, path: &str, file: &Content) -> Result<(), String> {
    Client::new(protocol, 0, port, &AtomicU8::new(WARMING_UP)).request(path, file)
}

/// Clients that ask for a file, read its first byte and then nothing, until they are dropped.
pub fn stall(protocol: Protocol, port: u16, path: &str, clients: usize) -> Result<Vec<TcpStream>, String> {
    let phase = AtomicU8::new(WARMING_UP);
    let stalled = (0..clients).map(|index| {
        let mut stream = Client::new(protocol, index, port, &phase).connect()?;
        stream.write_all(&protocol.request(path))?;
        stream.read_exact(&mut [0])?;
        Ok(stream)
    });
    stalled.collect::<std::io::Result<_>>().map_err(|e| format!("{path}: {e}"))
}

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, LONGEST, 3).expect("bounds that fit together")
}

struct Seen {
    requests: u64,
    bytes: u64,
    latencies: Histogram<u64>,
}

struct Client<'a> {
    protocol: Protocol,
    source: SockaddrIn,
    server: SockaddrIn,
    phase: &'a AtomicU8,
    random: u64,
    buffer: Vec<u8>,
    /// Where in the buffer the first byte of an answer goes.
    begin: usize,
    seen: Seen,
}

impl<'a> Client<'a> {
    fn new(protocol: Protocol, index: usize, port: u16, phase: &'a AtomicU8) -> Self {
        // An address of its own for each client, so that ports in TIME_WAIT never run out.
        let host = u8::try_from(index % 250 + 1).expect("below 251");
        let buffer = vec![0; BUFFER + 3 * PAGE];
        Self {
            protocol,
            source: SocketAddrV4::new([127, 0, 1, host].into(), 0).into(),
            server: SocketAddrV4::new([127, 0, 0, 1].into(), port).into(),
            phase,
            random: index as u64 + 1,
            begin: buffer.as_ptr().align_offset(PAGE) + SKEW,
            buffer,
            seen: Seen { requests: 0, bytes: 0, latencies: histogram() },
        }
    }

    fn work(&mut self, paths: Paths<'_>) -> Result<(), String> {
        while self.phase.load(Ordering::Relaxed) != OVER {
            match paths {
                Paths::One(file) => self.request(&file.path, file)?,
                Paths::Numbered { count, files } => {
                    let number = next_random(&mut self.random) % count;
                    self.request(&numbered(number), &files[(number % files.len() as u64) as usize])?;
                }
            }
        }
        Ok(())
    }

    /// One request, counted if it ended within the measured time. It is given up in the middle when time is over.
    fn request(&mut self, path: &str, file: &Content) -> Result<(), String> {
        let failed = |what: &dyn std::fmt::Display| format!("{path}: {what}");
        let start = Instant::now();
        let mut stream = self.connect().map_err(|e| failed(&e))?;
        stream.write_all(&self.protocol.request(path)).map_err(|e| failed(&e))?;
        let mut header = HeaderReader::new(self.protocol);
        let (mut received, mut body) = (0, None);
        loop {
            let room = &mut self.buffer[self.begin + received % PAGE..][..BUFFER];
            let count = stream.read(room).map_err(|e| failed(&e))?;
            let mut piece = &room[..count];
            received += count;
            if count == 0 {
                return Err(failed(&"the server closed the connection too early"));
            }
            if body.is_none() {
                let Some((len, used)) = header.push(piece).map_err(|e| failed(&e))? else { continue };
                if len != file.len {
                    return Err(failed(&format_args!("{len} bytes announced instead of {}", file.len)));
                }
                body = Some(0);
                piece = &piece[used..];
            }
            let got = body.get_or_insert(0);
            if !file.matches(*got, piece) {
                return Err(failed(&format_args!("wrong bytes from {got} on")));
            }
            *got += piece.len() as u64;
            match self.phase.load(Ordering::Relaxed) {
                MEASURING => self.seen.bytes += piece.len() as u64,
                OVER => return Ok(()),
                _ => (),
            }
            if *got == file.len {
                break;
            }
        }
        if self.phase.load(Ordering::Relaxed) == MEASURING {
            self.seen.requests += 1;
            let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(LONGEST);
            self.seen.latencies.saturating_record(nanoseconds);
        }
        Ok(())
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        socket::setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket::bind(socket.as_raw_fd(), &self.source)?;
        socket::connect(socket.as_raw_fd(), &self.server)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(SILENCE))?;
        Ok(stream)
    }
}

impl Protocol {
    fn request(self, path: &str) -> Vec<u8> {
        match self {
            Self::Getfile => getfile::request(path.as_bytes()),
            Self::Http => format!("GET {path} HTTP/1.0\r\nHost: bench\r\n\r\n").into_bytes(),
        }
    }
}

enum HeaderReader {
    Getfile(HeaderParser),
    Http(Vec<u8>),
}

impl HeaderReader {
    fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Getfile => Self::Getfile(HeaderParser::new()),
            Protocol::Http => Self::Http(Vec::new()),
        }
    }

    /// Takes a piece of the answer; returns the announced length and how much of the piece is header, once it is known.
    fn push(&mut self, piece: &[u8]) -> Result<Option<(u64, usize)>, String> {
        match self {
            Self::Getfile(parser) => match parser.push(piece).map_err(|e| e.to_string())? {
                Parsed::Partial => Ok(None),
                Parsed::Complete { header: Header { status: Status::Ok, len }, used } => Ok(Some((len, used))),
                Parsed::Complete { header, .. } => Err(format!("status {:?}", header.status)),
            },
            Self::Http(earlier) => {
                let before = earlier.len();
                earlier.extend_from_slice(&piece[..piece.len().min(16_384)]);
                let Some(end) = earlier.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
                let header = String::from_utf8_lossy(&earlier[..end]);
                Ok(Some((content_length(&header)?, end + 4 - before)))
            }
        }
    }
}

/// The length in the header of a successful HTTP answer.
fn content_length(header: &str) -> Result<u64, String> {
    let mut lines = header.lines();
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("status {status:?}"));
    }
    lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or_else(|| "no Content-Length".to_owned())
}
