//! The cache daemon: a catalog of files behind the channel's server.
//!
//! [`Daemon`] is what `simplecached` runs: the server's boss and workers (see [`crate::channel::server`]) ask its
//! [`Store`] for files; a locals file says which there are.

mod catalog;
mod files;
mod line;
mod simple;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{mem, thread};

use log::{info, warn};
use parking_lot::{Mutex, RwLock};

use crate::channel::{OpenFile, Server, ServerConfig, ServerError, Store, StoreError};
pub use catalog::{Catalog, Faults, LoadError};
pub use files::Files;
pub(crate) use simple::SimpleCache;

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
}

impl Store for LocalFiles {
    fn open(&self, key: &[u8]) -> Result<Arc<OpenFile>, StoreError> {
        if !self.delay.is_zero() {
            thread::sleep(self.delay);
        }
        let files = Arc::clone(&self.files.read());
        files.open(key)
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
}

impl Daemon {
    /// Loads the locals file and serves it. Lines that are no entries are skipped: there is nothing to fall back on.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let files = load(&config.locals, Faults::Skip)?;
        let store = Arc::new(LocalFiles { delay: config.delay, files: RwLock::new(files) });
        let server = Server::start(&config.server, Arc::clone(&store) as Arc<dyn Store>)?;
        info!("serving on {}", config.server.socket.display());
        Ok(Self { locals: config.locals, store, server: Mutex::new(Some(server)), reloading: Mutex::default() })
    }

    /// Loads the locals file again. Transfers that have begun end on the old files. If it cannot be read, or has a line
    /// that is no entry, the files loaded before stay.
    pub fn reload(&self) -> Result<(), LoadError> {
        let _alone = self.reloading.lock();
        let files = load(&self.locals, Faults::Refuse)?;
        let old = mem::replace(&mut *self.store.files.write(), files);
        // Not under the lock: a large table takes its time to go.
        drop(old);
        Ok(())
    }

    /// Stops serving and joins all threads. Transfers end at their next chunk.
    pub fn stop(&self) {
        if let Some(server) = self.server.lock().take() {
            server.stop();
        }
    }
}

fn load(locals: &Path, faults: Faults) -> Result<Arc<Files>, LoadError> {
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
