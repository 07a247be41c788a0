//! The asking side of the channel: a [`Client`] keeps a session with the daemon and hands out [`Transfer`]s.

mod cache;
mod error;
mod fair_semaphore;
mod session;
mod stream;
mod transfer;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, process};

use log::{Level, info, log, warn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::EventFd;
use parking_lot::{Condvar, Mutex};

use crate::memory::arena::{Arena, MemoryError};
use crate::memory::layout::{Layout, LayoutError, MAX_RING};
use crate::protocol::address::{default_socket, settled_socket};
use crate::protocol::seqpacket::SeqPacket;
use base::fork::{Private, generation};
use base::poll_within;
use base::process::spawn;
use base::standard;
pub use error::{Absence, OpenError, TransferError};
use fair_semaphore::FairSemaphore;
use session::{ConnectError, Handshake, Session};
pub use transfer::Transfer;

/// The references to a session that no transfer uses: the client's state, and its thread.
const SESSION_OWNERS: usize = 2;

/// How long to wait between attempts to reach an absent daemon: first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(200);
/// The times between attempts while a request waits: first, and at most.
const RETRY_ASKED: Duration = Duration::from_millis(20);

/// How many long transfers over small segments stream at a time: each should have a full ring, and one segment besides
/// is for short ones.
fn streams(segments: u32) -> usize {
    (segments as usize / (MAX_RING + 1)).max(1)
}

/// How a client is set up.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The daemon's command socket.
    pub socket: PathBuf,
    /// How many segments to share with the daemon, from 1 to [`super::MAX_SEGMENTS`].
    pub segments: u32,
    /// The bytes of a segment, from [`super::MIN_SEGMENT_SIZE`] to [`super::MAX_SEGMENT_SIZE`].
    pub segment_size: u32,
    /// How long a request, or a transfer that has begun, waits for a daemon that is absent or silent.
    pub wait: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self { socket: default_socket(), segments: 32, segment_size: 1 << 20, wait: Duration::from_secs(10) }
    }
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The sizes are out of range.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The system gave no memory for the segments.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The system gave no thread or descriptor.
    #[error("cannot start the channel: {0}")]
    Io(#[from] io::Error),
}

/// Counters of a client, for people who watch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientStats {
    /// Sessions made so far; all but the first are reconnections.
    pub sessions: u64,
    /// Transfers that went on after a lost session.
    pub resumed: u64,
    /// Answers that were given out again without a request to the daemon: the client saw that the file is unchanged.
    pub reused: u64,
    /// Whether there is a session now.
    pub connected: bool,
    /// Segments of the session.
    pub segments: usize,
    /// Segments that are free now.
    pub free: usize,
    /// Segments that wait for the daemon to let go of them.
    pub quarantined: usize,
    /// Transfers that wait for a segment, or for their turn, now.
    pub waiting: usize,
}

#[derive(Debug, Default)]
struct State {
    session: Option<Arc<Session>>,
    /// Why the last attempt to get one failed, until one succeeds.
    reason: Option<String>,
    asked: usize,
    stopped: bool,
}

#[derive(Debug)]
struct Shared {
    /// That of the process that made it. Another process may only read what never changes.
    generation: u64,
    config: ClientConfig,
    layout: Layout,
    /// Memory for the first session: where it cannot be had, that shows at the start.
    reserved: Mutex<Option<(Arena, OwnedFd)>>,
    state: Mutex<State>,
    changed: Condvar,
    /// For long transfers over small segments.
    semaphore: FairSemaphore,
    /// Readable once the client stops or loses its session by itself.
    wake: Private<EventFd>,
    sessions: AtomicU64,
    resumed: AtomicU64,
    reused: AtomicU64,
}

/// Asks a daemon for files. To be shared by all threads of a process; each transfer uses one segment of the shared
/// memory, and more while they are idle. Neither needs the daemon to be there first: a thread of the client's own
/// connects, and connects again.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Client {
    /// Starts a client and reserves its memory. The daemon need not be there yet.
    pub fn start(mut config: ClientConfig) -> Result<Self, ClientError> {
        config.socket = settled_socket(&config.socket);
        let layout = Layout::new(config.segments, config.segment_size)?;
        standard::fill();
        let memory = Arena::create(layout)?;
        let wake = Private::event().map_err(io::Error::from)?;
        let shared = Arc::new(Shared {
            generation: generation(),
            config,
            layout,
            reserved: Mutex::new(Some(memory)),
            state: Mutex::default(),
            changed: Condvar::new(),
            semaphore: FairSemaphore::new(streams(layout.segments)),
            wake,
            sessions: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            reused: AtomicU64::new(0),
        });
        let for_thread = Arc::clone(&shared);
        let thread = spawn("shm-channel", move || for_thread.keep_session())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Asks for the file behind `key`, any bytes. Returns once the daemon has answered. A client that a child of
    /// fork(2) inherited is of no use to it.
    pub fn open<'a>(&'a self, key: &'a [u8]) -> Result<Transfer<'a>, OpenError> {
        if self.shared.is_inherited() { Err(OpenError::Stopped) } else { Transfer::open(&self.shared, key) }
    }

    /// Goes on with a transfer that this process inherited from its parent, at the byte that was reached.
    pub fn go_on<'a>(&'a self, key: &'a [u8], inherited: &Transfer<'_>) -> Transfer<'a> {
        Transfer::go_on(&self.shared, key, inherited)
    }

    /// Gives back the memory of a client that this process inherited from its parent, unless transfers use it: their
    /// chunks stay as they are.
    pub fn forsake(&self) {
        if self.shared.is_inherited()
            && let Some(state) = self.shared.state.try_lock()
            && let Some(session) = &state.session
            && Arc::strong_count(session) == SESSION_OWNERS
        {
            session.arena.forsake();
        }
    }

    /// How it was set up.
    pub fn config(&self) -> &ClientConfig {
        &self.shared.config
    }

    /// The counters now.
    pub fn stats(&self) -> ClientStats {
        let session = self.shared.state.lock().session.clone();
        let mut stats = ClientStats {
            sessions: self.shared.sessions.load(Ordering::Relaxed),
            resumed: self.shared.resumed.load(Ordering::Relaxed),
            reused: self.shared.reused.load(Ordering::Relaxed),
            ..ClientStats::default()
        };
        if let Some(session) = session.filter(|session| !session.is_lost()) {
            stats.connected = true;
            stats.segments = self.shared.layout.segments as usize;
            (stats.free, stats.quarantined) = session.pool.counts(&session.arena);
            stats.waiting = (session.pool.waiters() + self.shared.semaphore.waiters()) as usize;
        }
        stats
    }

    /// Ends the session and the thread. Transfers that are open fail; the memory goes when the last of them is dropped.
    pub fn stop(&self) {
        if self.shared.is_inherited() {
            return;
        }
        let session = {
            let mut state = self.shared.state.lock();
            state.stopped = true;
            self.shared.changed.notify_all();
            state.session.take()
        };
        self.shared.semaphore.close();
        if let Some(session) = session {
            session.lose(None);
        }
        self.shared.wake();
        if let Some(thread) = self.thread.lock().take() {
            // A thread that panicked has printed why.
            let _ = thread.join();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Whether it is the parent's of this process.
    fn is_inherited(&self) -> bool {
        self.generation != generation()
    }

    /// The session, or None if there is none until the deadline.
    fn session(&self, deadline: Instant) -> Option<Arc<Session>> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(session) = &state.session
                && !session.is_lost()
            {
                return Some(Arc::clone(session));
            }
            state.asked += 1;
            self.wake();
            let late = self.changed.wait_until(&mut state, deadline).timed_out();
            state.asked -= 1;
            if late {
                return None;
            }
        }
    }

    /// The error for a daemon that did not answer in time.
    fn absence(&self) -> Absence {
        let reason = self.state.lock().reason.clone();
        Absence { socket: self.config.socket.clone(), wait: self.config.wait, reason }
    }

    fn wake(&self) {
        // Full only after 2^64 - 1 pokes.
        let _ = self.wake.write(1);
    }

    /// The client's thread: connects, watches for the end of the session, connects again.
    fn keep_session(&self) {
        let mut pause = RETRY_FIRST;
        let mut last_logged = String::new();
        let mut id = u64::from(process::id()) << 32;
        loop {
            id += 1;
            let mut hurry = RETRY_ASKED;
            match self.connect(id) {
                Ok(session) => {
                    let session = Arc::new(session);
                    if !self.publish(&session) {
                        return;
                    }
                    info!("connected to the cache daemon at {}", self.config.socket.display());
                    self.sessions.fetch_add(1, Ordering::Relaxed);
                    let begun = Instant::now();
                    let fault = self.attend(&session);
                    session.probes.clear();
                    self.state.lock().session = None;
                    session.lose(fault.as_deref());
                    if let Some(fault) = session.fault() {
                        tell(
                            &mut last_logged,
                            Level::Warn,
                            format!("left the cache daemon, pid {}: {fault}", session.pid),
                        );
                        // It will do the same again: no request makes that urgent.
                        (pause, hurry) = (RETRY_MAX, RETRY_MAX);
                    } else {
                        last_logged.clear();
                        // A daemon that ends each session at once is not to be asked in a busy loop.
                        pause = if begun.elapsed() > RETRY_MAX { RETRY_FIRST } else { pause };
                    }
                }
                Err(_) if self.state.lock().stopped => return,
                Err(error) => {
                    let level = if error.may_pass() { Level::Info } else { Level::Warn };
                    self.state.lock().reason = Some(error.to_string());
                    tell(
                        &mut last_logged,
                        level,
                        format!("no cache daemon at {}: {error}", self.config.socket.display()),
                    );
                    (pause, hurry) = (error.patience(pause), error.patience(hurry));
                }
            }
            if !self.rest(pause, hurry) {
                return;
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Shakes hands with a daemon.
    fn connect(&self, id: u64) -> Result<Session, ConnectError> {
        let memory = || self.reserved.lock().take().map_or_else(|| Arena::create(self.layout), Ok);
        let greeted = Handshake::connect(&self.config.socket, id, memory)?;
        self.watch(&greeted.socket, None, || self.state.lock().stopped);
        greeted.finish()
    }

    /// Takes in what the daemon sends, until the session ends. Returns what the daemon did wrong, if that is why.
    fn attend(&self, session: &Session) -> Option<String> {
        loop {
            let patience = session.probes.tidy(Instant::now());
            if !self.watch(&session.socket, patience, || session.is_lost()) {
                return None;
            }
            match session.hear() {
                _ if session.is_lost() => return None,
                Ok(true) => {}
                Ok(false) => return None,
                Err(violation) => return Some(violation.to_string()),
            }
        }
    }

    fn publish(&self, session: &Arc<Session>) -> bool {
        let mut state = self.state.lock();
        if !state.stopped {
            state.session = Some(Arc::clone(session));
            state.reason = None;
            self.changed.notify_all();
        }
        !state.stopped
    }

    /// Waits until the daemon has sent something or hung up, a poke made `enough` true, or `patience` is over. False if
    /// the system does not let it wait.
    fn watch(&self, socket: &SeqPacket, patience: Option<Duration>, enough: impl Fn() -> bool) -> bool {
        while !enough() {
            let mut fds =
                [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
            match poll_within(&mut fds, patience) {
                Ok(0) => return true,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    warn!("poll: {errno}");
                    return false;
                }
            }
            if fds[0].any().unwrap_or(true) {
                return true;
            }
            self.forget_pokes();
        }
        true
    }

    /// Waits before the next attempt; `hurry` at most, if a request waits. False if the client stops.
    fn rest(&self, pause: Duration, hurry: Duration) -> bool {
        let deadline = Instant::now() + pause;
        loop {
            let mut until = deadline;
            {
                let state = self.state.lock();
                if state.stopped {
                    return false;
                }
                if state.asked > 0 {
                    until = until.min(Instant::now() + hurry);
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            let poked = poll_within(&mut [PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)], Some(left));
            if poked != Ok(1) {
                return !self.state.lock().stopped;
            }
            self.forget_pokes();
        }
    }

    fn forget_pokes(&self) {
        // Nothing to read is as good as read.
        let _ = self.wake.read();
    }
}

/// Logs a state of affairs once, not at every attempt to change it.
fn tell(last_logged: &mut String, level: Level, text: String) {
    if *last_logged != text {
        log!(level, "{text}");
        *last_logged = text;
    }
}
