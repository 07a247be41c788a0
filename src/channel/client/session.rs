//! One connection to a daemon, with the memory that was made for it. A lost session is never mended: the next one has
//! fresh memory, since nothing proves that a dead or hung daemon's mapping of the old one is gone.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::warn;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::pool::Pool;
use crate::channel::arena::Arena;
use crate::channel::layout::{FIRST_SEQUENCE, Layout};
use crate::channel::ring::{self, Area, Consumer};
use crate::channel::wire::{Hello, HelloReply, VERSION};
use crate::sys::seqpacket::SeqPacket;

/// How long a daemon may take from HELLO to WELCOME.
const WELCOME_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) arena: Arena,
    pub(crate) pool: Pool,
    pub(crate) socket: SeqPacket,
    lost: AtomicBool,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nobody listens, or the listener is busy: later it may be better.
    #[error("{0}")]
    Absent(#[source] io::Error),
    /// The daemon said why not.
    #[error("the daemon refused: {0}")]
    Refused(String),
    /// The listener is no daemon of this protocol.
    #[error("{0}")]
    Protocol(String),
    /// The memory cannot be had.
    #[error("no shared memory: {0}")]
    Memory(#[source] io::Error),
}

impl Session {
    pub(crate) fn connect(path: &Path, layout: Layout, id: u64) -> Result<Self, ConnectError> {
        let socket = SeqPacket::connect(path).map_err(ConnectError::Absent)?;
        let uid = socket.peer().map_err(ConnectError::Absent)?.uid();
        if uid != nix::unistd::geteuid().as_raw() && uid != 0 {
            return Err(ConnectError::Protocol(format!("the daemon runs as user {uid}, not as this one")));
        }
        let (arena, memory) = Arena::create(layout).map_err(ConnectError::Memory)?;
        let hello = Hello {
            min_version: VERSION,
            max_version: VERSION,
            segments: layout.segments,
            segment_size: layout.segment_size,
            session: id,
            features: 0,
        };
        socket.send(&hello.encode(), Some(memory.as_fd())).map_err(ConnectError::Absent)?;
        match read_reply(&socket)? {
            HelloReply::Welcome { version: VERSION, features: 0 } => {}
            HelloReply::Welcome { version, features } => {
                let text = format!("the daemon chose version {version} with features {features:#x}");
                return Err(ConnectError::Protocol(text));
            }
            HelloReply::Refused(reason) => return Err(ConnectError::Refused(reason)),
        }
        let segments = (0..layout.segments).rev().map(|lead| Consumer::new(lead as u16, FIRST_SEQUENCE)).collect();
        Ok(Self { arena, pool: Pool::new(segments), socket, lost: AtomicBool::new(false) })
    }

    /// Sends a request; a full socket is waited for.
    pub(crate) fn send(&self, datagram: &[u8], deadline: Instant) -> io::Result<()> {
        loop {
            match self.socket.send(datagram, None) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return sent,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            wait_for(&self.socket, PollFlags::POLLOUT, left)?;
        }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Ends the session; all who wait on it go on to the next one. `fault` is what the daemon did wrong, if it did.
    pub(crate) fn lose(&self, fault: Option<&str>) {
        if self.lost.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(fault) = fault {
            warn!("left the cache daemon: {fault}");
        }
        self.socket.shut_down();
        self.pool.close();
        for segment in 0..self.arena.layout().segments {
            ring::dismiss_consumer(self.arena.control(segment as u16));
        }
    }
}

fn read_reply(socket: &SeqPacket) -> Result<HelloReply, ConnectError> {
    let deadline = Instant::now() + WELCOME_LIMIT;
    let mut buffer = [0; 512];
    loop {
        match socket.receive(&mut buffer) {
            Ok(0) => return Err(ConnectError::Protocol("the daemon hung up on HELLO".to_owned())),
            Ok(len) => {
                let reply = buffer.get(..len).ok_or_else(|| "a reply too long".to_owned());
                let reply = reply.and_then(|reply| HelloReply::decode(reply).map_err(|e| e.to_string()));
                return reply.map_err(ConnectError::Protocol);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(ConnectError::Absent(error)),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = format!("no WELCOME within {} s", WELCOME_LIMIT.as_secs());
            return Err(ConnectError::Absent(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        wait_for(socket, PollFlags::POLLIN, left).map_err(ConnectError::Absent)?;
    }
}

fn wait_for(socket: &SeqPacket, flags: PollFlags, limit: Duration) -> io::Result<()> {
    let timeout = PollTimeout::try_from(limit + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(socket.as_fd(), flags)], timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
