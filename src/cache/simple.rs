//! The static cache of `simplecache.h`: keys to descriptors that stay open.

use std::collections::HashMap;
use std::io::{self, Seek};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;
use std::{mem, thread};

use parking_lot::{Mutex, RwLock};

use super::catalog::{Catalog, Faults, LoadError};
use super::regular::open_regular;
use crate::channel::{LOOKS, OpenFile};

/// A catalog whose files are opened when they are first asked for, and closed all at once.
#[derive(Default)]
pub(crate) struct SimpleCache {
    loaded: RwLock<Loaded>,
}

#[derive(Default)]
struct Loaded {
    catalog: Option<Catalog>,
    /// By entry.
    open: Mutex<HashMap<u32, OpenFile>>,
    /// Of catalogs loaded before, whose descriptors somebody may still hold.
    retired: Vec<OpenFile>,
}

impl SimpleCache {
    /// The process's cache.
    pub(crate) fn get() -> &'static Self {
        static CACHE: LazyLock<SimpleCache> = LazyLock::new(SimpleCache::default);
        &CACHE
    }

    /// Loads a locals file in the place of the one before. Descriptors that were given out stay open.
    pub(crate) fn load(&self, locals: &Path) -> Result<(), LoadError> {
        let catalog = Catalog::load(locals, Faults::Refuse)?;
        let mut loaded = self.loaded.write();
        let before = mem::take(loaded.open.get_mut());
        loaded.retired.extend(before.into_values());
        loaded.catalog = Some(catalog);
        Ok(())
    }

    /// The descriptor of the file behind `key`, its offset at 0, after a sleep of `delay`. It stays open until
    /// [`Self::clear`].
    pub(crate) fn descriptor(&self, key: &[u8], delay: Duration) -> io::Result<RawFd> {
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        let loaded = self.loaded.read();
        let absent = || io::Error::from_raw_os_error(libc::ENOENT);
        let catalog = loaded.catalog.as_ref().ok_or_else(absent)?;
        let entry = catalog.find(key).ok_or_else(absent)?;
        if let Some(file) = loaded.open.lock().get(&entry) {
            return rewound(file);
        }
        // Not under the lock: opening may take its time. Of two threads that open the same file the first wins.
        let opened = open_regular(&catalog.path(entry), LOOKS)?;
        rewound(loaded.open.lock().entry(entry).or_insert(opened))
    }

    /// Closes all descriptors and forgets the catalog.
    pub(crate) fn clear(&self) {
        let loaded = mem::take(&mut *self.loaded.write());
        drop(loaded);
    }
}

fn rewound(file: &OpenFile) -> io::Result<RawFd> {
    file.file().rewind()?;
    Ok(file.file().as_raw_fd())
}
