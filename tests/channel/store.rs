//! A store of the files of one directory.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use gfproxy::channel::{OpenFile, Server, ServerConfig, Store, StoreError};
use tempfile::TempDir;

/// A server of files, with its socket, in a directory of its own.
pub struct Served {
    pub directory: TempDir,
    _server: Server,
}

struct Directory(std::path::PathBuf);

impl Store for Directory {
    fn open(&self, key: &[u8]) -> Result<Arc<OpenFile>, StoreError> {
        let key = std::str::from_utf8(key).map_err(|_| StoreError::NotFound)?;
        let file = File::open(self.0.join(key)).map_err(|_| StoreError::NotFound)?;
        OpenFile::new(file).map(Arc::new).map_err(|e| StoreError::Failed(e.to_string()))
    }
}

/// Bytes that differ from chunk to chunk.
pub fn bytes(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

impl Served {
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, bytes) in files {
            fs::write(directory.path().join(name), bytes).expect("a file");
        }
        let config = ServerConfig { socket: directory.path().join("socket"), threads: 2, ..ServerConfig::default() };
        let store = Arc::new(Directory(directory.path().to_owned()));
        Self { directory, _server: Server::start(&config, store).expect("a server") }
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        Path::join(self.directory.path(), name)
    }
}
