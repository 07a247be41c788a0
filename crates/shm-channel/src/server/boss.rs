//! The boss: accepts proxies, shakes hands with them, sees their processes die.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};

use super::peer::Peer;
use super::session::Session;
use super::{STOP, Shared, worker};
use crate::memory::arena::Arena;
use crate::memory::layout::Layout;
use crate::protocol::address::BoundSocket;
use crate::protocol::owner::is_trusted;
use crate::protocol::seqpacket::{Process, Received};
use crate::protocol::watch::Watch;
use crate::protocol::wire::{Hello, HelloReply, VERSION};
use base::fork::Private;
use base::process;

/// How long a proxy may take from connect to HELLO.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// The most connections that have not said HELLO.
const MAX_PENDING: usize = 64;
/// How long a paused transfer's file is held for it.
const PAUSED_FILE_LIMIT: Duration = Duration::from_secs(60);
/// The most connections that are accepted before the boss looks for other events. It keeps the kernel's queue of
/// waiting connections short. It is below the limit of newcomers, so that each is looked at before a flood could drop
/// it.
const ACCEPT_BURST: usize = 32;
/// How often the boss looks for what is overdue, while there is anybody.
const TICK_MS: u16 = 250;
/// How often a command socket whose file cannot be made anew is tried again.
const RESTORE_PAUSE: Duration = Duration::from_secs(1);
/// How long accepting rests when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const LISTENER: u64 = u64::MAX;
const WATCH: u64 = u64::MAX - 1;
/// A number is either a newcomer's, its session's afterwards, or none's.
const FIRST_ID: u64 = STOP + 1;

/// A connection that has not said HELLO yet.
struct Pending {
    socket: Peer,
    process: Process,
    since: Instant,
}

pub(super) struct Boss {
    shared: Arc<Shared>,
    bound: BoundSocket,
    events: Private<Epoll>,
    next_id: u64,
    pending: HashMap<u64, Pending>,
    /// The processes of the sessions, where the kernel tells of them.
    processes: HashMap<u64, OwnedFd>,
    accept_again: Option<Instant>,
    /// Tells when the command socket's file may be gone. None where the kernel has no watch to spare.
    watch: Option<Watch>,
    /// The file is gone and cannot be made anew yet.
    restore_again: Option<Instant>,
    /// When the store has a file to close that nobody asked for.
    next_idle: Option<Instant>,
}

impl Boss {
    pub(super) fn new(shared: Arc<Shared>, bound: BoundSocket) -> io::Result<Self> {
        let events = Private::epoll()?;
        events.add(shared.stop.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        events.add(bound.socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        let watch = Watch::new().ok().filter(|watch| {
            watch.look_at(&bound.path);
            events.add(watch.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WATCH)).is_ok()
        });
        Ok(Self {
            watch,
            restore_again: None,
            shared,
            bound,
            events,
            next_id: FIRST_ID,
            pending: HashMap::new(),
            processes: HashMap::new(),
            accept_again: None,
            next_idle: None,
        })
    }

    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::empty(); 32];
        while !self.shared.stopping() {
            let idle = self.pending.is_empty() && self.processes.is_empty() && self.accept_again.is_none();
            let idle = idle && self.restore_again.is_none() && self.shared.sessions.read().is_empty();
            let timeout = match self.next_idle {
                _ if !idle => EpollTimeout::from(TICK_MS),
                Some(next) => until(next),
                None => EpollTimeout::NONE,
            };
            let ready = match self.events.wait(&mut events, timeout) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                Err(errno) => return warn!("epoll_wait: {errno}"),
            };
            let mut has_waiting = false;
            for event in &events[..ready] {
                match event.data() {
                    STOP => return,
                    LISTENER => has_waiting = true,
                    WATCH => self.keep_in_place(),
                    id if self.pending.contains_key(&id) => self.handshake(id),
                    id => self.on_peer_exit(id),
                }
            }
            // After the HELLOs: a connection that has sent one is no newcomer, of which too many are dropped.
            for _ in 0..ACCEPT_BURST {
                if !has_waiting || !self.accept() {
                    break;
                }
            }
            self.tidy();
        }
    }

    /// Takes one waiting connection. False if there is none, or none can be taken.
    fn accept(&mut self) -> bool {
        let socket = match self.bound.socket.accept() {
            Ok(socket) => Peer::new(socket),
            Err(error) => {
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)) {
                    self.shared.complaints.warn(Process::own(), format_args!("cannot accept a proxy: {error}"));
                    self.shared.store.close_some();
                    self.listen_for(EpollFlags::empty());
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                }
                return false;
            }
        };
        match socket.peer() {
            Ok(peer) if is_trusted(peer.uid()) => {
                let process = socket.process(&peer);
                self.admit(socket, process);
            }
            Ok(peer) => {
                self.refuse(&socket, socket.process(&peer), &format!("user {} is not this daemon's", peer.uid()))
            }
            Err(error) => warn!("a proxy without credentials: {error}"),
        }
        true
    }

    /// Makes the command socket anew where somebody removed its file.
    fn keep_in_place(&mut self) {
        if let Some(watch) = &self.watch {
            watch.forget_events();
        }
        if self.bound.is_in_place() {
            self.restore_again = None;
            return;
        }
        // Those that found the old one.
        while self.accept() {}
        let path = self.bound.path.display().to_string();
        match self.bound.restore() {
            Ok(()) => {
                warn!("{path}: was removed, and is made anew");
                self.restore_again = None;
                if let Err(errno) =
                    self.events.add(self.bound.socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))
                {
                    warn!("epoll_ctl: {errno}");
                }
                if let Some(watch) = &self.watch {
                    watch.look_at(&self.bound.path);
                }
            }
            Err(error) => {
                if self.restore_again.is_none() {
                    warn!("{path}: was removed, and cannot be made anew yet: {error}");
                }
                self.restore_again = Some(Instant::now() + RESTORE_PAUSE);
            }
        }
    }

    /// Waits for the HELLO of a new connection; where too many have not said it yet, one goes.
    fn admit(&mut self, socket: Peer, process: Process) {
        if self.pending.len() >= MAX_PENDING
            && let Some(connection) = self.flood_victim().and_then(|id| self.pending.remove(&id))
        {
            let process = connection.process;
            let what = format_args!("{process} dropped: {MAX_PENDING} others connected before it said HELLO");
            self.shared.complaints.warn(process, what);
        }
        let id = self.next_id;
        self.next_id += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, id);
        match self.events.add(socket.as_fd(), event) {
            Ok(()) => {
                self.pending.insert(id, Pending { socket, process, since: Instant::now() });
            }
            Err(errno) => self.shared.complaints.warn(process, format_args!("{process} dropped: epoll_ctl: {errno}")),
        }
    }

    /// The oldest of the process that has the most: a flood keeps out none but itself.
    fn flood_victim(&self) -> Option<u64> {
        let mut counts: HashMap<Process, usize> = HashMap::new();
        for connection in self.pending.values() {
            *counts.entry(connection.process).or_default() += 1;
        }
        let rank = |connection: &Pending| (counts[&connection.process], Reverse(connection.since));
        self.pending.iter().max_by_key(|(_, connection)| rank(connection)).map(|(&id, _)| id)
    }

    fn refuse(&self, socket: &Peer, process: Process, reason: &str) {
        self.shared.complaints.warn(process, format_args!("{process} refused: {reason}"));
        // A peer that does not take its refusal just sees the end of the connection.
        let _ = socket.send(&HelloReply::Refused(reason.to_owned()).encode(), None);
    }

    /// Reads a newcomer's HELLO and makes it a session, or drops it.
    fn handshake(&mut self, id: u64) {
        let Some(connection) = self.pending.get(&id) else { return };
        let greeted = match self.shared.refuses(connection.process) {
            Some(reason) => Err(reason),
            None => match read_hello(&connection.socket, self.shared.features()) {
                Ok(Some(greeted)) => Ok(greeted),
                Ok(None) => return,
                Err(reason) => Err(reason),
            },
        };
        let Some(Pending { socket, process, .. }) = self.pending.remove(&id) else { return };
        let _ = self.events.delete(socket.as_fd());
        let (arena, features) = match greeted {
            Ok(greeted) => greeted,
            Err(reason) => return self.refuse(&socket, process, &reason),
        };
        let welcome = HelloReply::Welcome { version: VERSION, features };
        if let Err(error) = socket.send(&welcome.encode(), None) {
            return self.shared.complaints.warn(process, format_args!("{process} dropped: {error}"));
        }
        if let Ok(life) = socket.peer_pidfd()
            && self.events.add(life.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, id)).is_ok()
        {
            self.processes.insert(id, life);
        }
        let layout = arena.layout();
        info!("session {id} ({process}): {} segments of {} bytes", layout.segments, layout.segment_size);
        let session = Arc::new(Session::new(id, process, socket, arena));
        self.shared.counters.session();
        self.shared.sessions.write().insert(id, Arc::clone(&session));
        if let Err(errno) = self.shared.requests.add(session.socket.as_fd(), EpollEvent::new(worker::ARMED, id)) {
            self.shared.end_session(&session, Some(&format!("epoll_ctl: {errno}")));
        }
    }

    /// The process of a session died.
    fn on_peer_exit(&mut self, id: u64) {
        self.processes.remove(&id);
        if let Some(session) = self.shared.session(id) {
            self.shared.end_session(&session, None);
        }
    }

    /// Drops newcomers that never said HELLO, descriptors of processes whose session has ended, and the files of
    /// transfers that nobody takes up; accepts again after a pause.
    fn tidy(&mut self) {
        let now = Instant::now();
        let complaints = &self.shared.complaints;
        self.pending.retain(|_, connection| {
            let in_time = now.duration_since(connection.since) < HELLO_LIMIT;
            if !in_time {
                let (process, limit) = (connection.process, HELLO_LIMIT.as_secs());
                complaints.warn(process, format_args!("{process} dropped: no HELLO within {limit} s"));
            }
            in_time
        });
        let sessions = self.shared.sessions.read();
        self.processes.retain(|id, _| sessions.contains_key(id));
        if let Some(limit) = now.checked_sub(PAUSED_FILE_LIMIT) {
            sessions.values().for_each(|session| session.forget_paused(limit));
        }
        drop(sessions);
        if self.restore_again.is_some_and(|at| at <= now) {
            self.keep_in_place();
        }
        let (idle, next) = self.shared.store.take_idle(now);
        self.next_idle = next;
        if !idle.is_empty() {
            // On a file system that is away a close takes its time. Without a thread they are closed here.
            drop(process::spawn("closer", move || drop(idle)));
        }
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            self.listen_for(EpollFlags::EPOLLIN);
        }
    }

    fn listen_for(&self, flags: EpollFlags) {
        if let Err(errno) = self.events.modify(self.bound.socket.as_fd(), &mut EpollEvent::new(flags, LISTENER)) {
            warn!("epoll_ctl: {errno}");
        }
    }
}

/// A time-out in whole milliseconds that is not over before `then`.
fn until(then: Instant) -> EpollTimeout {
    let left = then.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
}

/// The memory that a HELLO brings, and which of `features` it knows; None if there is no HELLO yet; else why the proxy
/// is refused.
fn read_hello(socket: &Peer, features: u64) -> Result<Option<(Arena, u64)>, String> {
    let mut buffer = [0; 128];
    let received = match socket.receive(&mut buffer) {
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    check_hello(&buffer[..received.len], &received, features).map(Some)
}

fn check_hello(datagram: &[u8], received: &Received, features: u64) -> Result<(Arena, u64), String> {
    if received.is_end() {
        return Err("it left before HELLO".to_owned());
    }
    if received.truncated {
        return Err("its HELLO is too long".to_owned());
    }
    let hello = Hello::decode(datagram).map_err(|e| e.to_string())?;
    if !(hello.min_version..=hello.max_version).contains(&VERSION) {
        return Err(format!(
            "it speaks versions {} to {}, this daemon {VERSION}",
            hello.min_version, hello.max_version
        ));
    }
    let layout = Layout::new(hello.segments, hello.segment_size).map_err(|e| e.to_string())?;
    let [memory] = received.descriptors.as_slice() else {
        return Err(format!("its HELLO brings {} descriptors instead of one", received.descriptors.len()));
    };
    let arena = Arena::adopt(memory, layout).map_err(|e| e.to_string())?;
    Ok((arena, hello.features & features))
}
