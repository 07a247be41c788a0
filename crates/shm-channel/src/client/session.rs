//! One connection to a daemon, with the memory that was made for it. A lost session is never mended: the next one has
//! fresh memory, since nothing proves that a dead or hung daemon's mapping of the old one is gone.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};

use crate::client::cache::extent::RequestStamp;
use crate::client::cache::pool::Pool;
use crate::client::cache::probe::Probes;
use crate::memory::arena::{Arena, MemoryError};
use crate::memory::layout::FIRST_SEQUENCE;
use crate::memory::ring::{self, Area, Consumer, Violation};
use crate::protocol::owner::{is_trusted, stranger, user};
use crate::protocol::seqpacket::SeqPacket;
use crate::protocol::wire::{FEATURE_IF_NONE_MATCH, FEATURE_PROBE, Hello, HelloReply, MAX_PROBE, Probe, VERSION};
use base::{poll_within, process};

/// How soon to try again with a daemon that refused, and where there is no memory.
const RETRY_REFUSED: Duration = Duration::from_millis(200);
const RETRY_MEMORY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) arena: Arena,
    pub(crate) pool: Pool,
    pub(crate) socket: SeqPacket,
    /// The daemon's process.
    pub(crate) pid: i32,
    /// What both sides can do.
    features: u64,
    pub(super) probes: Probes,
    lost: AtomicBool,
    fault: OnceLock<String>,
}

/// A connection after HELLO, before WELCOME. The wait for WELCOME lasts as long as the connection: a stopped daemon
/// would keep the memory of every attempt that was given up.
#[derive(Debug)]
pub(crate) struct Handshake {
    pub(crate) socket: SeqPacket,
    arena: Arena,
    pid: i32,
    /// What this side can do.
    features: u64,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nobody listens, or the listener is busy: later it may be better.
    #[error("{0}")]
    Absent(#[source] io::Error),
    /// The daemon refused with a reason, or does not speak this protocol.
    #[error("{0}")]
    Refused(String),
    /// The memory cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl ConnectError {
    /// How soon to try again at the earliest, where `usual` is too soon: the daemon has had memory for nothing, or
    /// there is none.
    pub(crate) fn patience(&self, usual: Duration) -> Duration {
        match self {
            Self::Absent(_) => usual,
            Self::Refused(_) => RETRY_REFUSED.max(usual),
            Self::Memory(_) => RETRY_MEMORY,
        }
    }

    /// Whether the start of a daemon mends it.
    pub(crate) fn may_pass(&self) -> bool {
        let Self::Absent(error) = self else { return false };
        !matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotADirectory)
    }
}

impl Handshake {
    /// Connects and says HELLO, with `memory` that nobody else has seen.
    pub(crate) fn connect(
        path: &Path,
        id: u64,
        memory: impl FnOnce() -> Result<(Arena, OwnedFd), MemoryError>,
    ) -> Result<Self, ConnectError> {
        if let Some(what) = stranger(path) {
            return Err(ConnectError::Refused(format!("{what}: remove it, or choose another socket")));
        }
        let socket = SeqPacket::connect(path).map_err(|error| {
            // The system says "connection refused" of any other file.
            match fs::metadata(path) {
                Ok(found) if !found.file_type().is_socket() => ConnectError::Refused("it is not a socket".to_owned()),
                _ => ConnectError::Absent(error),
            }
        })?;
        let peer = socket.peer().map_err(ConnectError::Absent)?;
        let (uid, pid) = (peer.uid(), peer.pid());
        if !is_trusted(uid) {
            return Err(ConnectError::Refused(format!("pid {pid} runs as {}, not as this user", user(uid))));
        }
        let (arena, memory) = memory()?;
        let layout = arena.layout();
        // A daemon's paths say nothing where they may lead elsewhere.
        let features = FEATURE_IF_NONE_MATCH | if process::sees_the_files_of(pid) { FEATURE_PROBE } else { 0 };
        let hello = Hello {
            min_version: VERSION,
            max_version: VERSION,
            segments: layout.segments,
            segment_size: layout.segment_size,
            session: id,
            features,
        };
        socket.send(&hello.encode(), Some(memory.as_fd())).map_err(ConnectError::Absent)?;
        Ok(Self { socket, arena, pid, features })
    }

    /// Reads the answer, which has arrived.
    pub(crate) fn finish(self) -> Result<Session, ConnectError> {
        let Self { socket, arena, pid, features: offered } = self;
        let refused = |what: &str| ConnectError::Refused(format!("pid {pid} {what}"));
        let mut buffer = [0; 512];
        let reply = match socket.receive(&mut buffer) {
            Ok(received) if received.is_end() => return Err(refused("hung up on HELLO")),
            Ok(received) if received.is_plain() => HelloReply::decode(&buffer[..received.len]).ok(),
            Ok(_) => None,
            Err(error) => return Err(ConnectError::Absent(error)),
        };
        let features = match reply {
            Some(HelloReply::Welcome { version: VERSION, features }) if features & !offered == 0 => features,
            Some(HelloReply::Welcome { version, features }) => {
                return Err(refused(&format!("chose version {version} with features {features:#x}")));
            }
            Some(HelloReply::Refused(reason)) => return Err(refused(&format!("refused: {reason}"))),
            None => return Err(refused("answered HELLO with a malformed datagram")),
        };
        let segments = arena.layout().segments;
        let segments = (0..segments).map(|head| Consumer::new(head as u16, FIRST_SEQUENCE)).collect();
        let (pool, lost, fault) = (Pool::new(segments), AtomicBool::new(false), OnceLock::new());
        Ok(Session { arena, pool, socket, pid, features, probes: Probes::new(), lost, fault })
    }
}

impl Session {
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

    /// Whether the daemon wants to know what the heads of requests hold.
    pub(crate) fn takes_offers(&self) -> bool {
        self.features & FEATURE_IF_NONE_MATCH != 0
    }

    /// Whether to ask the daemon where the file is that a head holds.
    pub(crate) fn wants_probe(&self, key: &[u8], asked: RequestStamp) -> bool {
        self.features & FEATURE_PROBE != 0 && self.probes.ask(key, asked)
    }

    /// Takes in what the daemon has sent, if it has sent anything. False once it has hung up.
    pub(crate) fn hear(&self) -> Result<bool, Violation> {
        let mut buffer = [0; MAX_PROBE];
        let received = match self.socket.receive(&mut buffer) {
            Ok(received) => received,
            Err(error) => return Ok(error.kind() == ErrorKind::WouldBlock),
        };
        if received.is_end() {
            return Ok(false);
        }
        let probe = received.is_plain().then(|| Probe::decode(&buffer[..received.len]));
        match probe {
            Some(Ok(probe)) => self.probes.take_in(&probe).map(|()| true),
            _ => Err(Violation("a datagram after its WELCOME that is no probe")),
        }
    }

    /// What the daemon did wrong, if the session is lost for that.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// Ends the session; all who wait on it go on to the next one. `fault` is what the daemon did wrong, if it did.
    pub(crate) fn lose(&self, fault: Option<&str>) {
        if self.lost.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(fault) = fault {
            let _ = self.fault.set(fault.to_owned());
        }
        self.socket.shut_down();
        self.pool.close();
        for segment in 0..self.arena.layout().segments {
            ring::dismiss_consumer(self.arena.control(segment as u16));
        }
    }
}

fn wait_for(socket: &SeqPacket, flags: PollFlags, limit: Duration) -> io::Result<()> {
    match poll_within(&mut [PollFd::new(socket.as_fd(), flags)], Some(limit)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
