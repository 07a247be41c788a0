//! One exchange with a GETFILE server, from the connection to the last byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Header, HeaderError, HeaderParser, Parsed, request};
use crate::Status;

/// How much is received at a time.
const BUFFER: usize = 64 * 1024;

/// How long the end of the connection is waited for after the last byte of a file. Only a server that sends more
/// than it announced, or does not close, ever makes this matter.
const LINGER: Duration = Duration::from_secs(1);

/// How long to wait before a server that refused a connection is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How long a [`Client`] waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection to be established.
    pub connect: Duration,
    /// For the next bytes of an answer, and for room to send the request.
    pub read: Duration,
    /// For a server that refuses connections, since it was last reached. Bridges a start or a restart.
    pub refused: Duration,
}

/// Why there is no whole file.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection was established.
    #[error("cannot connect to {server}: {error}")]
    Connect {
        /// Host and port, as they were given.
        server: String,
        /// What the last attempt met.
        #[source]
        error: io::Error,
    },
    /// The connection failed before the answer's header was complete.
    #[error("no answer: {0}")]
    NoAnswer(Broken),
    /// The answer does not begin with a header.
    #[error("malformed answer: {0}")]
    Malformed(#[from] HeaderError),
    /// The server has no such file.
    #[error("FILE_NOT_FOUND")]
    FileNotFound,
    /// The server could not get the file.
    #[error("ERROR")]
    Error,
    /// The file broke off.
    #[error("short file: got {got} of {expected} bytes: {cause}")]
    Short {
        /// The bytes of the file that arrived.
        got: u64,
        /// The length that the header announced.
        expected: u64,
        /// How it broke off.
        cause: Broken,
    },
    /// There was more than one file's worth.
    #[error("long file: the server sent more than the {expected} bytes that it announced")]
    Long {
        /// The length that the header announced.
        expected: u64,
    },
    /// The bytes arrived, but there was nowhere to put them.
    #[error(transparent)]
    Output(io::Error),
}

/// How a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The server closed it.
    #[error("the server closed the connection")]
    Closed,
    /// The server fell silent.
    #[error("the server was silent for {0:?}")]
    Silent(Duration),
    /// The system reported an error, such as a reset.
    #[error("{0}")]
    Failed(io::Error),
}

/// A server to fetch files from, one connection a file. Threads may share it.
#[derive(Debug)]
pub struct Client {
    /// Host and port, for messages.
    server: String,
    addresses: Vec<SocketAddr>,
    timeouts: Timeouts,
    /// When the server was last reached, or when the client was made.
    reached: Mutex<Instant>,
}

impl Client {
    /// Looks up `host`: a name, or an IPv4 or IPv6 address, the latter with or without brackets.
    pub fn new(host: &str, port: u16, timeouts: Timeouts) -> io::Result<Self> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let addresses: Vec<_> = (bare, port).to_socket_addrs()?.collect();
        if addresses.is_empty() {
            return Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
        }
        let server = if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") };
        Ok(Self { server, addresses, timeouts, reached: Mutex::new(Instant::now()) })
    }

    /// Fetches one file and gives its bytes to `output` as they arrive. Returns the length of the file, which is the
    /// announced one: anything else is an error.
    pub fn fetch(&self, path: &[u8], mut output: impl FnMut(&[u8]) -> io::Result<()>) -> Result<u64, FetchError> {
        let unreachable = |error| FetchError::Connect { server: self.server.clone(), error };
        let mut stream = self.connect().map_err(unreachable)?;
        let timeout = Some(self.timeouts.read);
        stream.set_read_timeout(timeout).map_err(unreachable)?;
        stream.set_write_timeout(timeout).map_err(unreachable)?;
        stream.write_all(&request(path)).map_err(|e| FetchError::NoAnswer(self.broken(e)))?;

        let mut buffer = vec![0; BUFFER];
        let (expected, mut piece) = self.receive_header(&mut stream, &mut buffer)?;
        let mut got = 0;
        loop {
            let rest = expected - got;
            if piece.len() as u64 > rest {
                return Err(FetchError::Long { expected });
            }
            if !piece.is_empty() {
                output(piece).map_err(FetchError::Output)?;
                got += piece.len() as u64;
            }
            if got == expected {
                return if ends(&mut stream, &mut buffer) { Ok(got) } else { Err(FetchError::Long { expected }) };
            }
            piece =
                self.receive(&mut stream, &mut buffer).map_err(|cause| FetchError::Short { got, expected, cause })?;
        }
    }

    /// Receives up to the end of the header; returns the file's length and what of it came along.
    fn receive_header<'b>(&self, stream: &mut TcpStream, buffer: &'b mut [u8]) -> Result<(u64, &'b [u8]), FetchError> {
        let mut parser = HeaderParser::new();
        loop {
            let count = self.receive(stream, buffer).map_err(FetchError::NoAnswer)?.len();
            match parser.push(&buffer[..count])? {
                Parsed::Partial => (),
                Parsed::Complete { header: Header { status, len }, used } => match status {
                    Status::Ok => return Ok((len, &buffer[used..count])),
                    Status::FileNotFound => return Err(FetchError::FileNotFound),
                    Status::Error => return Err(FetchError::Error),
                },
            }
        }
    }

    /// Receives the next bytes, at least one.
    fn receive<'b>(&self, stream: &mut TcpStream, buffer: &'b mut [u8]) -> Result<&'b [u8], Broken> {
        loop {
            match stream.read(buffer) {
                Ok(0) => return Err(Broken::Closed),
                Ok(count) => return Ok(&buffer[..count]),
                Err(e) if e.kind() == ErrorKind::Interrupted => (),
                Err(e) => return Err(self.broken(e)),
            }
        }
    }

    /// A blocking socket whose timeout passed reports `EAGAIN`.
    fn broken(&self, error: io::Error) -> Broken {
        match error.kind() {
            ErrorKind::WouldBlock => Broken::Silent(self.timeouts.read),
            _ => Broken::Failed(error),
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        loop {
            match self.connect_once() {
                Ok(stream) => {
                    *self.reached.lock() = Instant::now();
                    return Ok(stream);
                }
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
                    let away = self.reached.lock().elapsed();
                    if away >= self.timeouts.refused {
                        return Err(e);
                    }
                    thread::sleep(RETRY_INTERVAL.min(self.timeouts.refused - away));
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Tries every address; the last one's error stands for all.
    fn connect_once(&self) -> io::Result<TcpStream> {
        let mut result = Err(ErrorKind::NotFound.into());
        for address in &self.addresses {
            result = TcpStream::connect_timeout(address, self.timeouts.connect);
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

/// Whether a file that arrived whole is also the end of the connection. The server waits for this side to close, so
/// the half-close comes first. A reset or silence is as good an end as any: every announced byte is here.
fn ends(stream: &mut TcpStream, buffer: &mut [u8]) -> bool {
    let prepared = stream.shutdown(Shutdown::Write).and_then(|()| stream.set_read_timeout(Some(LINGER)));
    prepared.is_err() || !matches!(stream.read(buffer), Ok(1..))
}
