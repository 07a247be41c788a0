//! The HTTP side: one thread that answers one scraper at a time and costs nothing while nobody asks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::{info, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Metrics;
use crate::sys::process::spawn;

/// How long one scraper may take for its request and the answer.
const LIMIT: Duration = Duration::from_secs(2);
/// The most bytes of a request's head.
const MAX_HEAD: usize = 8192;
const MAX_HEADERS: usize = 64;
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
pub(crate) struct Exporter {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Serves `metrics` on `address`, `HOST:PORT`; port 0 is any free one, which the log tells.
    pub(crate) fn start(address: &str, metrics: Metrics) -> Result<Self, ListenError> {
        let failed = |error| ListenError { address: address.to_owned(), error };
        let listener = listen(address).map_err(failed)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let stop = Arc::new(stop.map_err(|errno| failed(errno.into()))?);
        let bound = listener.local_addr().map_err(failed)?;
        let server = Server { listener, stop: Arc::clone(&stop), metrics };
        let thread = spawn("metrics", move || server.run()).map_err(failed)?;
        info!("metrics are at http://{bound}/metrics");
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
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

fn listen(address: &str) -> io::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let listener = TcpListener::bind(&addresses[..])?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

struct Server {
    listener: TcpListener,
    stop: Arc<EventFd>,
    metrics: Metrics,
}

impl Server {
    fn run(&self) {
        while self.wait(&self.listener, PollFlags::POLLIN, None).is_ok() {
            match self.listener.accept() {
                // A scraper that misbehaves or leaves is its own affair.
                Ok((stream, _)) => drop(self.answer(stream)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    warn!("metrics: cannot accept: {error}");
                    // Ends early with the exporter.
                    let _ = self.wait(&self.listener, PollFlags::empty(), Some(Instant::now() + ACCEPT_PAUSE));
                }
            }
        }
    }

    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let deadline = Instant::now() + LIMIT;
        let mut head = Vec::new();
        let answer = loop {
            if let Some(answer) = self.respond(&head) {
                break answer;
            }
            let mut buffer = [0; 1024];
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(got) => head.extend_from_slice(&buffer[..got]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait(&stream, PollFlags::POLLIN, Some(deadline))?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        let mut rest = &answer[..];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait(&stream, PollFlags::POLLOUT, Some(deadline))?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The answer to the request in `head`; None while that is not complete.
    fn respond(&self, head: &[u8]) -> Option<Vec<u8>> {
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
        Some(response("200 OK", &kind, &self.metrics.text(), with_body))
    }

    /// Waits until `socket` is ready. An error at the deadline, and when the exporter is to end.
    fn wait(&self, socket: &impl AsFd, flags: PollFlags, deadline: Option<Instant>) -> io::Result<()> {
        loop {
            let mut fds = [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN), PollFd::new(socket.as_fd(), flags)];
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(0) => return Err(ErrorKind::TimedOut.into()),
                Ok(_) if fds[0].any().unwrap_or(true) => return Err(ErrorKind::Interrupted.into()),
                Ok(_) => return Ok(()),
            }
        }
    }
}

fn response(status: &str, headers: &str, body: &str, with_body: bool) -> Vec<u8> {
    let body_sent = if with_body { body } else { "" };
    let len = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {len}\r\nConnection: close\r\n\r\n{body_sent}").into_bytes()
}
