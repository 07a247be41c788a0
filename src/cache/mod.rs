//! The cache daemon: a catalog of files behind the channel's server.
//!
//! [`Daemon`] is what `simplecached` runs: the server's boss and workers (see [`crate::channel::server`]) ask its
//! [`Store`] for files; a locals file says which there are.

mod catalog;
mod files;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::info;
use parking_lot::{Mutex, RwLock};

use crate::channel::{OpenFile, Server, ServerConfig, ServerError, Store, StoreError};
pub use catalog::{Catalog, LoadError};
pub use files::Files;

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
}

/// A running cache daemon. Dropping it stops it.
pub struct Daemon {
    locals: PathBuf,
    store: Arc<LocalFiles>,
    server: Mutex<Option<Server>>,
}

impl Daemon {
    /// Loads the locals file and serves it.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let files = load(&config.locals)?;
        let store = Arc::new(LocalFiles { delay: config.delay, files: RwLock::new(files) });
        let server = Server::start(&config.server, Arc::clone(&store) as Arc<dyn Store>)?;
        info!("serving on {}", config.server.socket.display());
        Ok(Self { locals: config.locals, store, server: Mutex::new(Some(server)) })
    }

    /// Loads the locals file again. Transfers that have begun end on the old files; if it cannot be loaded, the old one
    /// stays in force.
    pub fn reload(&self) -> Result<(), LoadError> {
        let files = load(&self.locals)?;
        *self.store.files.write() = files;
        Ok(())
    }

    /// Stops serving and joins all threads. Transfers end at their next chunk.
    pub fn stop(&self) {
        if let Some(server) = self.server.lock().take() {
            server.stop();
        }
    }
}

fn load(locals: &std::path::Path) -> Result<Arc<Files>, LoadError> {
    let begun = Instant::now();
    let catalog = Catalog::load(locals)?;
    let (entries, skipped, ms) = (catalog.len(), catalog.skipped(), begun.elapsed().as_millis());
    info!("{}: {entries} entries, {skipped} lines skipped, in {ms} ms", locals.display());
    Ok(Arc::new(Files::new(catalog)))
}
