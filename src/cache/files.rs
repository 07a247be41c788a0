//! Open files: descriptors are opened on demand and kept, the most recently used of them, within the process's limit.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;
use lru::LruCache;
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;

use super::catalog::Catalog;
use crate::channel::{OpenFile, StoreError, Validator};

/// For so long an open descriptor is used without a look at whether its path leads to another file by now.
const RECHECK: Duration = Duration::from_secs(1);

/// At most so many descriptors are kept, whatever the limit allows.
const MOST: u64 = 16384;

#[derive(Debug)]
struct Kept {
    file: Arc<OpenFile>,
    checked: Instant,
}

/// A catalog with its open files.
#[derive(Debug)]
pub struct Files {
    catalog: Catalog,
    kept: Mutex<LruCache<u32, Kept>>,
}

impl Files {
    /// Half of the descriptors that the process may have are kept for files; the rest is for proxies and what else it does.
    pub fn new(catalog: Catalog) -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let most = NonZeroUsize::new((limit / 2).clamp(1, MOST) as usize).unwrap_or(NonZeroUsize::MIN);
        Self { catalog, kept: Mutex::new(LruCache::new(most)) }
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The file behind a key, in the state that it has now.
    pub fn open(&self, key: &[u8]) -> Result<Arc<OpenFile>, StoreError> {
        let entry = self.catalog.find(key).ok_or(StoreError::NotFound)?;
        let kept = self.kept.lock().get(&entry).map(|kept| (Arc::clone(&kept.file), kept.checked));
        if let Some((file, checked)) = kept
            && file.is_unchanged()
        {
            if checked.elapsed() < RECHECK {
                return Ok(file);
            }
            let path = self.catalog.path(entry);
            if std::fs::metadata(&path).is_ok_and(|now| Validator::of(&now) == *file.validator()) {
                self.keep(entry, Arc::clone(&file));
                return Ok(file);
            }
        }
        let path = self.catalog.path(entry);
        match open_regular(&path) {
            Ok(file) => {
                let file = Arc::new(file);
                self.keep(entry, Arc::clone(&file));
                Ok(file)
            }
            Err(error) => {
                self.kept.lock().pop(&entry);
                warn!("{}: {error}", path.display());
                // What is not there and what may not be seen look the same from outside.
                Err(match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EIO) => {
                        StoreError::Failed(error.to_string())
                    }
                    _ => StoreError::NotFound,
                })
            }
        }
    }

    fn keep(&self, entry: u32, file: Arc<OpenFile>) {
        // What falls out is closed after the lock, and once no transfer uses it.
        let _evicted = self.kept.lock().push(entry, Kept { file, checked: Instant::now() });
    }
}

/// Opens a regular file and nothing else: opening a FIFO could wait, opening a device could do something.
pub(crate) fn open_regular(path: &Path) -> io::Result<OpenFile> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    OpenFile::new(file)
}
