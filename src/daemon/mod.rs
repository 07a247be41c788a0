//! The cache daemon: a catalog of files behind the channel's server.
//!
//! [`Daemon`] is what `simplecached` runs: the server's boss and workers (see [`shm_channel::server`]) ask its
//! [`Store`] for files; a locals file says which there are.

mod catalog;
mod files;
mod line;
mod metrics;
mod regular;
mod simple;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};
use std::{mem, thread};

use log::{info, warn};
use parking_lot::{Mutex, RwLock};

pub use catalog::{Catalog, LoadError, OnBadLine};
pub use files::Files;
use shm_channel::{OpenFile, Server, ServerConfig, ServerError, ServerStats, Store, StoreError, settled};
pub(crate) use simple::SimpleCache;
pub use telemetry::metrics::ListenError;
use telemetry::metrics::{Exporter, Metrics, Seconds};

/// How a daemon is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The locals file.
    pub locals: PathBuf,
    /// By how much each lookup is delayed.
    pub delay: Duration,
    /// The command socket and the workers.
    pub server: ServerConfig,
}

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The locals file cannot be loaded.
    #[error(transparent)]
    Locals(#[from] LoadError),
    /// The server does not start.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// The files of a locals file, which can be loaded again while they are served.
struct LocalFiles {
    delay: Duration,
    files: RwLock<Arc<Files>>,
    /// See [`Store::generation`].
    generation: AtomicU32,
    lookups: Seconds,
}

impl Store for LocalFiles {
    fn open(&self, key: &[u8]) -> Result<Arc<OpenFile>, StoreError> {
        let begun = Instant::now();
        if !self.delay.is_zero() {
            thread::sleep(self.delay);
        }
        let files = Arc::clone(&self.files.read());
        let opened = files.open(key);
        self.lookups.observe(begun.elapsed());
        opened
    }

    fn generation(&self) -> Option<u32> {
        // A delay is for each lookup.
        self.delay.is_zero().then(|| self.generation.load(Ordering::Acquire))
    }

    fn take_idle(&self, now: Instant) -> (Vec<Arc<OpenFile>>, Option<Instant>) {
        self.files.read().take_idle(now)
    }

    fn close_some(&self) {
        self.files.read().close_some();
    }
}

/// A running cache daemon. Dropping it stops it.
pub struct Daemon {
    locals: PathBuf,
    store: Arc<LocalFiles>,
    server: Mutex<Option<Server>>,
    /// Held while a locals file is loaded again, so that of two reloads the later one stays.
    reloading: Mutex<()>,
    /// Reloads that took the new file, and those that kept the old one.
    reloads: [AtomicU64; 2],
    metrics: Metrics,
    /// Whether `metrics` can be asked for what the daemon counts.
    told: Once,
    exporter: Mutex<Option<Exporter>>,
}

impl Daemon {
    /// Loads the locals file and serves it. Lines that are no entries are skipped: there is nothing to fall back on.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let metrics = Metrics::new("simplecached");
        let locals = settled(&config.locals);
        let files = load(&locals, OnBadLine::Skip)?;
        let store = Arc::new(LocalFiles {
            delay: config.delay,
            files: RwLock::new(files),
            generation: AtomicU32::new(0),
            lookups: metrics.seconds("lookup_duration_seconds", "To find and open a file, with the delay of -d.", &[]),
        });
        let server = Server::start(&config.server, Arc::clone(&store) as Arc<dyn Store>)?;
        info!("serving on {}", server.socket().display());
        Ok(Self {
            locals,
            store,
            server: Mutex::new(Some(server)),
            reloading: Mutex::default(),
            reloads: Default::default(),
            metrics,
            told: Once::new(),
            exporter: Mutex::default(),
        })
    }

    /// Serves metrics on `address`, `HOST:PORT`, until the daemon stops; a second address takes the place of the first.
    pub fn serve_metrics(self: &Arc<Self>, address: &str) -> Result<(), ListenError> {
        self.told.call_once(|| metrics::tell(&self.metrics, self));
        *self.exporter.lock() = Some(Exporter::start(address, self.metrics.clone())?);
        Ok(())
    }

    /// Loads the locals file again. Transfers that have begun end on the old files. If it cannot be read, or has a line
    /// that is no entry, the files loaded before stay.
    pub fn reload(&self) -> Result<(), LoadError> {
        let _alone = self.reloading.lock();
        let loaded = load(&self.locals, OnBadLine::Refuse);
        let is_refused = loaded.is_err();
        let old = loaded.map(|files| {
            let mut current = self.store.files.write();
            let old = mem::replace(&mut *current, files);
            // Before anybody is served from the new files.
            self.store.generation.fetch_add(1, Ordering::AcqRel);
            drop(current);
            if let Some(server) = &*self.server.lock() {
                server.tell_generation();
            }
            old
        });
        // Whoever sees this count is served from the new files.
        self.reloads[usize::from(is_refused)].fetch_add(1, Ordering::Release);
        // Not under the lock: a large table takes its time to go.
        old.map(drop)
    }

    /// Stops serving and joins all threads. Transfers end at their next chunk.
    pub fn stop(&self) {
        let exporter = self.exporter.lock().take();
        drop(exporter);
        if let Some(server) = self.server.lock().take() {
            server.stop();
        }
    }

    fn stats(&self) -> Option<ServerStats> {
        self.server.lock().as_ref().map(Server::stats)
    }
}

fn load(locals: &Path, faults: OnBadLine) -> Result<Arc<Files>, LoadError> {
    let begun = Instant::now();
    let catalog = Catalog::load(locals, faults)?;
    let (entries, ms) = (catalog.len(), begun.elapsed().as_millis());
    if entries == 0 {
        warn!("{}: no entries", locals.display());
    } else {
        info!("{}: {entries} entries, loaded in {ms} ms", locals.display());
    }
    Ok(Arc::new(Files::new(catalog)))
}
