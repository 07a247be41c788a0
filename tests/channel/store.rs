//! A store of the files of one directory.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shm_channel::{OpenFile, Server, ServerConfig, Store, StoreError};
use tempfile::TempDir;

/// A server of files, with its socket, in a directory of its own.
pub struct Served {
    pub directory: TempDir,
    server: Server,
    generation: Arc<AtomicU32>,
}

struct Directory {
    path: std::path::PathBuf,
    generation: Option<Arc<AtomicU32>>,
}

impl Store for Directory {
    fn open(&self, key: &[u8]) -> Result<Arc<OpenFile>, StoreError> {
        let key = std::str::from_utf8(key).map_err(|_| StoreError::NotFound)?;
        let path = self.path.join(key);
        let file = File::open(&path).map_err(|_| StoreError::NotFound)?;
        OpenFile::found_at(file, path).map(Arc::new).map_err(|e| StoreError::Failed(e.to_string()))
    }

    fn generation(&self) -> Option<u32> {
        self.generation.as_ref().map(|generation| generation.load(Ordering::SeqCst))
    }
}

/// Bytes that differ from chunk to chunk.
pub fn bytes(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

impl Served {
    /// Each request is answered by the server.
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        Self::start_with(files, false)
    }

    /// Clients may see for themselves that files are unchanged.
    pub fn start_witnessed(files: &[(&str, &[u8])]) -> Self {
        Self::start_with(files, true)
    }

    fn start_with(files: &[(&str, &[u8])], may_be_witnessed: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, bytes) in files {
            fs::write(directory.path().join(name), bytes).expect("a file");
        }
        let config = ServerConfig { socket: directory.path().join("socket"), threads: 2, ..ServerConfig::default() };
        let generation = Arc::new(AtomicU32::new(0));
        let its = may_be_witnessed.then(|| Arc::clone(&generation));
        let store = Arc::new(Directory { path: directory.path().to_owned(), generation: its });
        Self { directory, server: Server::start(&config, store).expect("a server"), generation }
    }

    /// Moves the epoch; the server tells of it now, or with the next answer.
    pub fn begin_generation(&self, generation: u32, tell: bool) {
        self.generation.store(generation, Ordering::SeqCst);
        if tell {
            self.server.tell_generation();
        }
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        Path::join(self.directory.path(), name)
    }
}
