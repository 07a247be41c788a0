//! The HTTP side: one thread for all scrapers, which costs nothing while nobody asks.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::{info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::EventFd;

use super::Metrics;
use base::fork::{Private, generation};
use base::process::spawn;
use base::standard;
use base::{Limiter, poll_within};

/// How long one scraper may take for its request and the answer.
const LIMIT: Duration = Duration::from_secs(2);
/// The most bytes of a request's head.
const MAX_HEAD: usize = 8192;
const MAX_HEADERS: usize = 64;
/// The most connections at a time.
const MOST: usize = 64;
/// How long accepting rests when it fails, for want of descriptors perhaps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
#[error("metrics address '{address}': {error}")]
pub struct ListenError {
    address: String,
    #[source]
    error: io::Error,
}

/// A running exporter. Dropping it ends it.
#[derive(Debug)]
pub struct Exporter {
    stop: Arc<Private<EventFd>>,
    generation: u64,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Serves `metrics` on `address`, `HOST:PORT`; port 0 is any free one, which the log names.
    pub fn start(address: &str, metrics: Metrics) -> Result<Self, ListenError> {
        let failed = |error| ListenError { address: address.to_owned(), error };
        let listener = listen(address).map_err(failed)?;
        let stop = Arc::new(Private::event().map_err(|errno| failed(errno.into()))?);
        let bound = listener.local_addr().map_err(failed)?;
        let server = Server { listener, stop: Arc::clone(&stop), metrics, complaints: Limiter::new(module_path!(), 1) };
        let thread = spawn("metrics", move || server.run()).map_err(failed)?;
        info!("metrics are at http://{bound}/metrics");
        Ok(Self { stop, generation: generation(), thread: Some(thread) })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if self.generation != generation() {
            // A child of fork(2) has no such thread.
            return mem::forget(self.thread.take());
        }
        // Cannot fail short of 2^64 - 1 stops.
        let _ = self.stop.write(1);
        // What it tells of may end on the exporter's own thread.
        let thread = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id());
        if let Some(thread) = thread {
            // A thread that panicked has printed why.
            let _ = thread.join();
        }
    }
}

fn listen(address: &str) -> io::Result<Private<TcpListener>> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let listener = standard::above(TcpListener::bind(&addresses[..])?)?;
    listener.set_nonblocking(true)?;
    Ok(Private::new(listener))
}

struct Server {
    listener: Private<TcpListener>,
    stop: Arc<Private<EventFd>>,
    metrics: Metrics,
    complaints: Limiter<()>,
}

impl Server {
    fn run(&self) {
        let mut scrapers = VecDeque::new();
        let mut accept_from = Instant::now();
        while let Some(others_wait) = self.wait(&scrapers, accept_from) {
            let now = Instant::now();
            // One that misbehaves or leaves is its own affair.
            scrapers.retain_mut(|scraper: &mut Scraper| {
                let went = scraper.proceed(&self.metrics);
                went.is_err_and(|error| error.kind() == ErrorKind::WouldBlock) && now < scraper.deadline
            });
            if others_wait && !self.accept(&mut scrapers) {
                accept_from = now + ACCEPT_PAUSE;
            }
        }
    }

    /// Waits until there is something to do. None once the exporter is to end, else whether connections wait.
    fn wait(&self, scrapers: &VecDeque<Scraper>, accept_from: Instant) -> Option<bool> {
        let now = Instant::now();
        let rests = now < accept_from;
        let listening = if rests { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut fds =
            vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN), PollFd::new(self.listener.as_fd(), listening)];
        fds.extend(scrapers.iter().map(|scraper| PollFd::new(scraper.stream.as_fd(), scraper.awaited())));
        let deadlines = scrapers.iter().map(|scraper| scraper.deadline).chain(rests.then_some(accept_from));
        let left = deadlines.min().map(|deadline| deadline.saturating_duration_since(now));
        match poll_within(&mut fds, left) {
            Err(Errno::EINTR) => Some(false),
            Err(errno) => {
                warn!("metrics: poll: {errno}");
                None
            }
            Ok(_) if fds[0].any().unwrap_or(true) => None,
            Ok(_) => Some(fds[1].any().unwrap_or(true)),
        }
    }

    /// Takes connections that wait; where there are too many, the oldest goes, which had its time to ask. False if
    /// there is something in the way.
    fn accept(&self, scrapers: &mut VecDeque<Scraper>) -> bool {
        for _ in 0..MOST {
            match self.listener.accept().and_then(|(stream, _)| Scraper::new(stream)) {
                Ok(scraper) => {
                    if scrapers.len() >= MOST {
                        scrapers.pop_front();
                    }
                    scrapers.push_back(scraper);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    self.complaints.warn((), format_args!("metrics: cannot accept: {error}"));
                    return false;
                }
            }
        }
        true
    }
}

/// One connection.
struct Scraper {
    stream: TcpStream,
    deadline: Instant,
    head: Vec<u8>,
    /// What of it is still to be sent, once the request is complete.
    answer: Option<Vec<u8>>,
}

impl Scraper {
    fn new(stream: TcpStream) -> io::Result<Self> {
        let stream = standard::above(stream)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, deadline: Instant::now() + LIMIT, head: Vec::new(), answer: None })
    }

    fn awaited(&self) -> PollFlags {
        if self.answer.is_some() { PollFlags::POLLOUT } else { PollFlags::POLLIN }
    }

    /// Reads the request and sends the answer, as far as the connection lets it: `WouldBlock` if that is not to the
    /// end.
    fn proceed(&mut self, metrics: &Metrics) -> io::Result<()> {
        loop {
            let moved = match &self.answer {
                Some(rest) if rest.is_empty() => return Ok(()),
                Some(rest) => self.stream.write(rest),
                None => self.read(),
            };
            match (moved, &mut self.answer) {
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                (Err(error), _) => return Err(error),
                (Ok(0), _) => return Ok(()),
                (Ok(sent), Some(rest)) => drop(rest.drain(..sent)),
                (Ok(_), None) => self.answer = respond(&self.head, metrics),
            }
        }
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 1024];
        let got = self.stream.read(&mut buffer)?;
        self.head.extend_from_slice(&buffer[..got]);
        Ok(got)
    }
}

/// The answer to the request in `head`; None while that is not complete.
fn respond(head: &[u8], metrics: &Metrics) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if head.len() < MAX_HEAD => return None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Some(response("431 Request Header Fields Too Large", "", "", true));
        }
        Err(_) => return Some(response("400 Bad Request", "", "", true)),
    }
    let with_body = match request.method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => return Some(response("405 Method Not Allowed", "Allow: GET, HEAD\r\n", "", true)),
    };
    let path = request.path.unwrap_or_default();
    if path.split('?').next() != Some("/metrics") {
        return Some(response("404 Not Found", "", "metrics are at /metrics\n", with_body));
    }
    let kind = format!("Content-Type: {}\r\n", prometheus::TEXT_FORMAT);
    Some(response("200 OK", &kind, &metrics.text(), with_body))
}

fn response(status: &str, headers: &str, body: &str, with_body: bool) -> Vec<u8> {
    let body_sent = if with_body { body } else { "" };
    let len = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {len}\r\nConnection: close\r\n\r\n{body_sent}").into_bytes()
}
