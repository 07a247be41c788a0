//! The serving side of the channel: a boss thread that owns the command socket, and workers that serve requests.
//!
//! Every request that is read is answered by exactly one end of its stream, or its session ends.

mod boss;
mod peer;
mod session;
mod stats;
mod worker;

use std::collections::HashMap;
use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use log::info;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::{Mutex, RwLock};

use super::store::Store;
use crate::protocol::address::{BindError, BoundSocket, default_socket, settled_socket};
use crate::protocol::seqpacket::Process;
use crate::protocol::wire::{FEATURE_IF_NONE_MATCH, FEATURE_PROBE};
use base::Limiter;
use base::fork::{Private, generation};
use base::{process, standard};
use session::Session;
use stats::Counters;
pub use stats::ServerStats;

/// The event of the stop descriptor; sessions are numbered from 1.
const STOP: u64 = 0;

/// The most proxies at a time, where descriptors allow it.
const MAX_SESSIONS: usize = 512;
/// The most of them in one process: one that opens session after session must leave room for others.
const MAX_SESSIONS_OF_A_PROCESS: usize = 64;

/// The most log lines about one process at once: each fault once, a flood of them as a few lines.
const MOST_COMPLAINTS: u32 = 32;

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The command socket's path.
    pub socket: PathBuf,
    /// Worker threads, at least 1.
    pub threads: usize,
    /// Use the listening socket that a service manager handed over (`LISTEN_FDS`), if there is one, instead of
    /// `socket`.
    pub inherit: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { socket: default_socket(), threads: 8, inherit: false }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The command socket cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system gave no thread or descriptor.
    #[error("cannot start the server: {0}")]
    Io(#[from] io::Error),
}

/// What boss and workers share.
pub(crate) struct Shared {
    store: Arc<dyn Store>,
    threads: usize,
    /// The descriptors that this process may have.
    descriptors: usize,
    /// By the peer's process.
    complaints: Limiter<Process>,
    /// The sessions' sockets, each for one event at a time.
    requests: Private<Epoll>,
    sessions: RwLock<HashMap<u64, Arc<Session>>>,
    counters: Counters,
    /// The store's generation that clients were told of last, and the right to tell them.
    generation: AtomicU32,
    telling: Mutex<()>,
    /// Workers that wait for a request: none once the server stops, so that each transfer then ends with its turn.
    idle: AtomicUsize,
    stopping: AtomicBool,
    /// Readable for ever once the server stops.
    stop: Private<EventFd>,
}

impl Shared {
    fn session(&self, id: u64) -> Option<Arc<Session>> {
        self.sessions.read().get(&id).cloned()
    }

    /// What clients may ask for, beyond the version.
    fn features(&self) -> u64 {
        FEATURE_IF_NONE_MATCH | if self.store.generation().is_some() { FEATURE_PROBE } else { 0 }
    }

    /// Tells all clients of the store's generation, if it has moved.
    fn tell_generation(&self) {
        let is_told = |generation| self.generation.load(Ordering::Acquire) == generation;
        if self.store.generation().is_none_or(is_told) {
            return;
        }
        let _alone = self.telling.lock();
        // A client that comes later needs no word: it is served later, and so with the new generation.
        if let Some(generation) = self.store.generation() {
            self.sessions.read().values().for_each(|session| session.arena.begin_generation(generation));
            self.generation.store(generation, Ordering::Release);
        }
    }

    fn has_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed) > 0
    }

    /// Whether the calling worker is the only one at work. False where there is one worker in all: others may wait for
    /// it unseen.
    fn is_quiet(&self) -> bool {
        self.threads > 1 && self.idle.load(Ordering::Relaxed) + 1 >= self.threads
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The most workers that one session may hold: all if it is alone, else three of four, but never the last one.
    fn turns_per_session(&self) -> usize {
        let alone = self.sessions.read().len() <= 1;
        if alone { self.threads } else { (self.threads - (self.threads / 4).max(1)).max(1) }
    }

    /// Why one more session of a process is too many, if it is.
    fn refuses(&self, process: Process) -> Option<String> {
        let sessions = self.sessions.read();
        // Two descriptors each; the files need theirs, too.
        let most = MAX_SESSIONS.min(self.descriptors / 8).max(1);
        if sessions.len() >= most {
            return Some(format!("{most} proxies are connected"));
        }
        let of_this = sessions.values().filter(|session| session.process == process).count();
        let too_many = of_this >= MAX_SESSIONS_OF_A_PROCESS;
        too_many.then(|| format!("this process has {MAX_SESSIONS_OF_A_PROCESS} sessions"))
    }

    /// How many files a session may hold open for transfers that were paused.
    fn paused_places(&self) -> usize {
        let sessions = self.sessions.read().len().max(1);
        (self.descriptors / 8 / sessions).max(1)
    }

    /// Ends a session and forgets it; its memory is unmapped when the last worker lets go of it. `fault` is what the
    /// peer did wrong, if it did.
    fn end_session(&self, session: &Session, fault: Option<&str>) {
        if !session.end() {
            return;
        }
        match fault {
            Some(fault) => {
                self.counters.dropped();
                let (id, process) = (session.id, session.process);
                self.complaints.warn(process, format_args!("session {id} ({process}) dropped: {fault}"));
            }
            None => info!("session {} ({}) ended", session.id, session.process),
        }
        let _ = self.requests.delete(session.socket.as_fd());
        self.sessions.write().remove(&session.id);
    }
}

/// A running server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    /// That of the process that it serves in.
    generation: u64,
    socket: PathBuf,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Binds the command socket and starts the threads.
    pub fn start(config: &ServerConfig, store: Arc<dyn Store>) -> Result<Self, ServerError> {
        standard::fill();
        let socket = settled_socket(&config.socket);
        let bound = if config.inherit { BoundSocket::inherit_or_bind(&socket)? } else { BoundSocket::bind(&socket)? };
        let requests = Private::epoll().map_err(io::Error::from)?;
        let stop = Private::event().map_err(io::Error::from)?;
        requests.add(stop.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, STOP)).map_err(io::Error::from)?;
        let shared = Arc::new(Shared {
            store,
            threads: config.threads.max(1),
            descriptors: getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft as usize),
            complaints: Limiter::new(module_path!(), MOST_COMPLAINTS),
            requests,
            sessions: RwLock::new(HashMap::new()),
            counters: Counters::default(),
            generation: AtomicU32::new(0),
            telling: Mutex::default(),
            idle: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            stop,
        });
        let mut server = Self { shared, generation: generation(), socket: bound.path.clone(), threads: Vec::new() };
        let boss = boss::Boss::new(Arc::clone(&server.shared), bound)?;
        server.spawn("boss", move |_| boss.run())?;
        for i in 0..server.shared.threads {
            server.spawn(&format!("worker-{i}"), worker::run)?;
        }
        Ok(server)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce(&Shared) + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.threads.push(process::spawn(name, move || body(&shared))?);
        Ok(())
    }

    /// Tells all clients of the store's generation, before it returns. See [`Store::generation`].
    pub fn tell_generation(&self) {
        self.shared.tell_generation();
    }

    /// The counters now.
    pub fn stats(&self) -> ServerStats {
        self.shared.stats()
    }

    /// The path of the command socket, or its name behind an `@` where a service manager made an abstract one.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Stops the server: transfers end within 20 ms or 8 MiB (their proxies go on with the next server), the sessions
    /// and the command socket close, all threads are joined.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        if self.generation != generation() {
            // A child of fork(2) has none of its threads.
            return mem::forget(mem::take(&mut self.threads));
        }
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Cannot fail short of 2^64 - 1 stops.
        let _ = self.shared.stop.write(1);
        for thread in self.threads.drain(..) {
            // A thread that panicked has printed why.
            let _ = thread.join();
        }
        let sessions: Vec<_> = self.shared.sessions.read().values().cloned().collect();
        for session in sessions {
            self.shared.end_session(&session, None);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shut_down();
    }
}
