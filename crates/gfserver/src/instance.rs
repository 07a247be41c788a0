//! What `gfserver_init` makes and `gfserver_serve` runs: the settings, the workers' slots, and the state from start to
//! stop.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::unistd::{Pid, gettid};
use parking_lot::{Condvar, Mutex};
use thiserror::Error;

use super::core::Core;
use super::slot::WorkerSlot;
use super::worker::Worker;
use crate::contexts::Context;
use crate::net::Listener;
use base::fork::generation;
use base::standard;

/// What a worker's stack is under the provided server: handlers may count on it.
const STACK_SIZE: usize = 8 << 20;
/// No worker takes connections off the kernel's queue while all of them are in handlers, so that queue is never shorter
/// than this, whatever GFS_MAXNPENDING says (its default is 10). The kernel caps it at net.core.somaxconn.
const MIN_BACKLOG: i32 = 4096;
/// How long `gfserver_stop` lets handlers run unless it was told otherwise.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a send may make no progress unless the handler sets another limit on its socket.
pub const SEND_LIMIT: Duration = Duration::from_secs(30);

/// Why an instance cannot serve.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot listen on {place}: {}", error.desc())]
    Listen { place: String, error: Errno },
    #[error("cannot take the socket of LISTEN_FDS: {0}")]
    Inherit(std::io::Error),
    #[error("cannot start: {}", .0.desc())]
    Setup(#[from] Errno),
    #[error("cannot start worker {index}: {error}")]
    Thread { index: usize, error: std::io::Error },
}

/// A server from `gfserver_init` to the return of `gfserver_serve`.
pub struct Instance {
    slots: Arc<[WorkerSlot]>,
    settings: Mutex<Settings>,
    state: Mutex<State>,
    stopped: Condvar,
    /// That of the process that serves; 0 before.
    serves_in: AtomicU64,
}

struct Settings {
    listen: Option<IpAddr>,
    stop_timeout: Duration,
}

enum State {
    Fresh,
    Serving(Serving),
    Stopped,
}

#[derive(Clone)]
struct Serving {
    core: Arc<Core>,
    /// The thread that is in `gfserver_serve`.
    thread: Pid,
    workers: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Instance {
    pub fn new(workers: usize) -> Self {
        Self {
            slots: (0..workers).map(|_| WorkerSlot::default()).collect(),
            settings: Mutex::new(Settings { listen: None, stop_timeout: STOP_TIMEOUT }),
            state: Mutex::new(State::Fresh),
            stopped: Condvar::new(),
            serves_in: AtomicU64::new(0),
        }
    }

    /// The slot of a worker.
    pub fn slot(&self, index: usize) -> Option<&WorkerSlot> {
        self.slots.get(index)
    }

    pub fn set_listen(&self, address: IpAddr) {
        self.settings.lock().listen = Some(address);
    }

    pub fn set_stop_timeout(&self, limit: Duration) {
        self.settings.lock().stop_timeout = limit;
    }

    /// The socket to listen on: the one that a service manager handed over, else a new one.
    pub fn listen(&self, port: u16, backlog: i32) -> Result<Listener, StartError> {
        standard::fill();
        let listener = match Listener::inherited().map_err(StartError::Inherit)? {
            Some(listener) => listener,
            None => {
                let address = self.settings.lock().listen;
                Listener::bind(address, port, backlog.max(MIN_BACKLOG)).map_err(|error| {
                    let place =
                        address.map_or_else(|| format!("port {port}"), |address| format!("{address} port {port}"));
                    StartError::Listen { place, error }
                })?
            }
        };
        listener.set_connection_options(SEND_LIMIT)?;
        if let Some(address) = listener.local_address() {
            log::info!("gfserver: listening on {address}");
        }
        // Connections are accepted from now on; a service manager, if there is one, may start what needs them.
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            log::warn!("gfserver: cannot notify the service manager: {error}");
        }
        Ok(listener)
    }

    /// Serves until the end, on `contexts.len()` worker threads. `signals` are those that the calling thread takes.
    pub fn serve(&self, listener: Listener, contexts: Vec<Context>, signals: SigSet) -> Result<(), StartError> {
        self.serves_in.store(generation(), Ordering::Release);
        let core = Arc::new(Core::new(listener, Arc::clone(&self.slots))?);
        let serving = Serving { core, thread: gettid(), workers: Arc::default() };
        {
            let mut state = self.state.lock();
            if matches!(*state, State::Stopped) {
                return Ok(());
            }
            *state = State::Serving(serving.clone());
        }
        serving.start_workers(contexts)?;
        serving.core.maintain(signals);
        if !serving.core.is_inherited() {
            serving.wind_down(signals);
        }
        Ok(())
    }

    /// Whether it serves in the parent of this process, which has no part in that.
    pub fn is_parents(&self) -> bool {
        ![0, generation()].contains(&self.serves_in.load(Ordering::Acquire))
    }

    /// The server is gone: threads in [`Self::stop`] may return.
    pub fn conclude(&self) {
        *self.state.lock() = State::Stopped;
        self.stopped.notify_all();
    }

    /// `gfserver_stop`. Returns when every worker has been joined; false where the instance never served. On a worker's
    /// own thread it returns at once. In a signal handler on the thread that is in `gfserver_serve`, it does that
    /// thread's part of the end.
    pub fn stop(&self) -> bool {
        if self.is_parents() {
            return true;
        }
        let mut state = self.state.lock();
        let serving = match &*state {
            State::Serving(serving) => serving.clone(),
            State::Fresh => {
                *state = State::Stopped;
                return false;
            }
            State::Stopped => return true,
        };
        serving.core.limit_end(Instant::now() + self.settings.lock().stop_timeout);
        serving.core.begin_end();
        if serving.thread == gettid() {
            drop(state);
            serving.wind_down(SigSet::thread_get_mask().unwrap_or_else(|_| SigSet::all()));
        } else if !serving.is_worker() {
            self.stopped.wait_while(&mut state, |state| !matches!(state, State::Stopped));
        }
        true
    }
}

impl Serving {
    fn start_workers(&self, contexts: Vec<Context>) -> Result<(), StartError> {
        for (index, context) in contexts.into_iter().enumerate() {
            let worker = Worker::new(Arc::clone(&self.core), index, context);
            self.core.workers.fetch_add(1, Ordering::AcqRel);
            let thread = thread::Builder::new()
                .name(format!("gfserver-{index}"))
                .stack_size(STACK_SIZE)
                .spawn(move || worker.run())
                .map_err(|error| StartError::Thread { index, error })?;
            self.workers.lock().push(thread);
        }
        Ok(())
    }

    /// Whether the calling thread is a worker.
    fn is_worker(&self) -> bool {
        self.core.slots.iter().any(|slot| slot.calls().is_of_this_thread())
    }

    /// Waits for the end of the workers. May interrupt itself: a signal handler that runs during the wait does the
    /// rest.
    fn wind_down(&self, signals: SigSet) {
        self.core.end(signals);
        loop {
            let Some(worker) = self.workers.lock().pop() else { return };
            if worker.join().is_err() {
                log::error!("gfserver: a worker panicked");
            }
        }
    }
}
