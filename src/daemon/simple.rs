//! The static cache of `simplecache.h`: keys to descriptors that stay open.

use std::collections::HashMap;
use std::io::{self, Seek};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Duration;
use std::{mem, thread};

use parking_lot::{Mutex, RwLock};

use super::catalog::{Catalog, LoadError, OnBadLine};
use super::regular::open_regular;
use base::fork::PerProcess;
use base::process::at_exit;
use shm_channel::{MAX_OPEN_LOOKS, OpenFile};

/// A catalog whose files are opened when they are first asked for, and closed all at once.
#[derive(Default)]
pub(crate) struct SimpleCache {
    loaded: RwLock<Loaded>,
}

#[derive(Default)]
struct Loaded {
    catalog: Option<Arc<Catalog>>,
    /// By entry.
    open: Mutex<HashMap<u32, Arc<OpenFile>>>,
    /// Of catalogs loaded before, whose descriptors somebody may still hold.
    retired: Vec<Arc<OpenFile>>,
}

impl Loaded {
    /// For a child of fork(2): the same, but for what a thread of the parent's was just changing.
    fn of_parents(parents: &Self) -> Self {
        let open = parents.open.try_lock().map(|open| open.clone());
        Self {
            catalog: parents.catalog.clone(),
            open: Mutex::new(open.unwrap_or_default()),
            retired: parents.retired.clone(),
        }
    }
}

static CACHE: PerProcess<SimpleCache> = PerProcess::new();

/// How long the end of the process waits for a lock.
const MOMENT: Duration = Duration::from_millis(250);

impl SimpleCache {
    /// The process's cache.
    pub(crate) fn get() -> &'static Self {
        CACHE.get_or(|parents| {
            let loaded =
                parents.and_then(|parents| parents.loaded.try_read().map(|loaded| Loaded::of_parents(&loaded)));
            Self { loaded: RwLock::new(loaded.unwrap_or_default()) }
        })
    }

    /// At the end of the process, frees the catalog. Descriptors that were given out stay open: threads may still run.
    extern "C" fn end() {
        let Some(mut loaded) = CACHE.get().and_then(|cache| cache.loaded.try_write_for(MOMENT)) else { return };
        let open = mem::take(loaded.open.get_mut());
        loaded.retired.extend(open.into_values());
        loaded.catalog = None;
    }

    /// Loads a locals file in the place of the one before. Descriptors that were given out stay open.
    pub(crate) fn load(&self, locals: &Path) -> Result<(), LoadError> {
        let catalog = Catalog::load(locals, OnBadLine::Refuse)?;
        let mut loaded = self.loaded.write();
        let before = mem::take(loaded.open.get_mut());
        loaded.retired.extend(before.into_values());
        loaded.catalog = Some(Arc::new(catalog));
        drop(loaded);
        static AT_EXIT: Once = Once::new();
        AT_EXIT.call_once(|| at_exit(Self::end));
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
        let opened = open_regular(&catalog.path(entry), MAX_OPEN_LOOKS)?;
        rewound(loaded.open.lock().entry(entry).or_insert_with(|| Arc::new(opened)))
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
