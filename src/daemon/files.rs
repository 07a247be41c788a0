//! Open files: descriptors are opened on demand and kept, the most recently used of them, within the process's limit.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::warn;
use lru::LruCache;
use parking_lot::Mutex;

use super::catalog::Catalog;
use super::regular::open_regular;
use shm_channel::{MAX_OPEN_LOOKS, OpenFile, StoreError};

/// A file that nobody asked for so long is closed: its name may be gone, and its blocks are to come free within the
/// minute that docs/reference/locals.md promises. Whoever asks sees that himself.
const KEPT_FOR: Duration = Duration::from_secs(20);

/// At most so many descriptors are kept, whatever the limit allows.
const MOST_KEPT: usize = 16384;

/// A file that is written all the time is looked at once, by each request for so long after the last such look: workers
/// that wait for it are missing elsewhere.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// At most so many such files are remembered.
const MOST_BUSY: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

#[derive(Debug)]
struct Kept {
    file: Arc<OpenFile>,
    /// When it was last asked for.
    used: Instant,
}

/// A catalog with its open files.
#[derive(Debug)]
pub struct Files {
    catalog: Catalog,
    /// By path, as the catalog has it: many keys may lead to one file.
    kept: Mutex<LruCache<Box<[u8]>, Kept>>,
    /// Those that are written all the time, by path, and when that was last seen.
    busy: Mutex<LruCache<Box<[u8]>, Instant>>,
    /// Beyond so many open files, those of transfers included, fewer are kept.
    most_open: usize,
    /// One bit an entry: whether the log has been told that it cannot be opened.
    told: Box<[AtomicU64]>,
}

impl Files {
    /// Keeps files open on up to half of the descriptors that the process may have.
    pub fn new(catalog: Catalog) -> Self {
        Self::with_limit(catalog, OpenFile::most())
    }

    fn with_limit(catalog: Catalog, most_open: usize) -> Self {
        let most_kept = NonZeroUsize::new((most_open / 3 * 2).min(MOST_KEPT)).unwrap_or(NonZeroUsize::MIN);
        let told = (0..catalog.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let (kept, busy) = (Mutex::new(LruCache::new(most_kept)), Mutex::new(LruCache::new(MOST_BUSY)));
        Self { catalog, kept, busy, most_open, told }
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The file behind a key, in the state that it has now. No answer is given without a look at what its path leads
    /// to: a descriptor does not show that a name is another file's, nor on overlayfs that the name is gone.
    pub fn open(&self, key: &[u8]) -> Result<Arc<OpenFile>, StoreError> {
        let entry = self.catalog.find(key).ok_or(StoreError::NotFound)?;
        let kept = self.kept.lock().get_mut(self.catalog.path_bytes(entry)).map(|kept| {
            kept.used = Instant::now();
            Arc::clone(&kept.file)
        });
        match kept.filter(|file| file.is_found()) {
            Some(file) => Ok(file),
            None => self.open_path(entry),
        }
    }

    /// Opens what a path leads to.
    fn open_path(&self, entry: u32) -> Result<Arc<OpenFile>, StoreError> {
        let path = self.catalog.path(entry);
        self.make_room();
        let looks = if self.is_busy(entry) { 1 } else { MAX_OPEN_LOOKS };
        let opened = loop {
            match open_regular(&path, looks) {
                Err(error) if is_shortage(&error) && self.close_some() => {}
                opened => break opened,
            }
        };
        self.note_busy(entry, opened.as_ref().err().is_some_and(|error| error.kind() == io::ErrorKind::ResourceBusy));
        match opened {
            Ok(file) => {
                let file = Arc::new(file);
                self.keep(entry, Arc::clone(&file));
                self.mark(entry, false);
                Ok(file)
            }
            Err(error) => {
                self.let_go(entry);
                if !self.mark(entry, true) {
                    warn!("{}: {error}", path.display());
                }
                // What is no regular file looks from outside as if nothing were there.
                let is_other = error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none();
                Err(if is_other { StoreError::NotFound } else { StoreError::of(&error) })
            }
        }
    }

    fn keep(&self, entry: u32, file: Arc<OpenFile>) {
        // What falls out is closed after the lock, and once no transfer uses it.
        let gone = self.kept.lock().push(self.catalog.path_bytes(entry).into(), Kept { file, used: Instant::now() });
        drop(gone);
    }

    /// The path of an entry leads to no file any more.
    fn let_go(&self, entry: u32) {
        let gone = self.kept.lock().pop(self.catalog.path_bytes(entry));
        drop(gone);
    }

    fn is_busy(&self, entry: u32) -> bool {
        let seen = self.busy.lock().peek(self.catalog.path_bytes(entry)).copied();
        seen.is_some_and(|seen| seen.elapsed() < BUSY_FOR)
    }

    fn note_busy(&self, entry: u32, is_busy: bool) {
        let (path, mut busy) = (self.catalog.path_bytes(entry), self.busy.lock());
        if is_busy {
            busy.put(path.into(), Instant::now());
        } else if !busy.is_empty() {
            busy.pop(path);
        }
    }

    /// Closes the files that were used least recently, until one more fits.
    fn make_room(&self) {
        while OpenFile::count() >= self.most_open {
            let evicted = self.kept.lock().pop_lru();
            if evicted.is_none() {
                return;
            }
        }
    }

    /// See [`shm_channel::Store::take_idle`].
    pub fn take_idle(&self, now: Instant) -> (Vec<Arc<OpenFile>>, Option<Instant>) {
        let (mut kept, mut idle) = (self.kept.lock(), Vec::new());
        loop {
            let next = kept.peek_lru().map(|(_, kept)| kept.used + KEPT_FOR);
            if next.is_none_or(|next| next > now) {
                return (idle, next);
            }
            idle.extend(kept.pop_lru().map(|(_, kept)| kept.file));
        }
    }

    /// Closes half of the kept files. False if none is kept.
    pub fn close_some(&self) -> bool {
        let mut kept = self.kept.lock();
        let some = kept.len().div_ceil(2);
        let evicted: Vec<_> = (0..some).filter_map(|_| kept.pop_lru()).collect();
        drop(kept);
        !evicted.is_empty()
    }

    /// Notes whether the log was told of an entry; returns what was noted before.
    fn mark(&self, entry: u32, told: bool) -> bool {
        let (word, bit) = (&self.told[entry as usize / 64], 1 << (entry % 64));
        let before = if told { word.fetch_or(bit, Ordering::Relaxed) } else { word.fetch_and(!bit, Ordering::Relaxed) };
        before & bit != 0
    }
}

/// Whether an error means that descriptors have run out.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::SystemTime;

    use super::super::catalog::OnBadLine;
    use super::*;
    use shm_channel::MTIME_TICK;

    /// Files `/0`, `/1`, ... with their own number in them.
    fn files(directory: &Path, count: usize, limit: usize) -> Files {
        let mut locals = String::new();
        for i in 0..count {
            fs::write(directory.join(i.to_string()), i.to_string()).expect("a file");
            locals += &format!("/{i} {i}\n");
        }
        let path = directory.join("locals.txt");
        fs::write(&path, locals).expect("locals.txt");
        Files::with_limit(Catalog::load(&path, OnBadLine::Refuse).expect("well formed"), limit)
    }

    fn read(file: &OpenFile) -> String {
        let mut buffer = [0; 64];
        let len = std::os::unix::fs::FileExt::read_at(file.file(), &mut buffer, 0).expect("read");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }

    #[test]
    fn two_thirds_of_the_limit_are_kept_and_the_least_recently_used_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        // No test of this process has so many files open that they would count against 4,000.
        let files = files(directory.path(), 10, 4000);
        files.kept.lock().resize(NonZeroUsize::new(4).expect("not zero"));
        for i in 0..10 {
            assert_eq!(read(&files.open(format!("/{i}").as_bytes()).expect("it is there")), i.to_string());
        }
        let kept: Vec<_> = files.kept.lock().iter().map(|(path, _)| path.clone()).collect();
        assert_eq!(kept, ["9", "8", "7", "6"].map(|path| Box::from(path.as_bytes())));
        assert_eq!(Files::with_limit(empty(), 768).kept.lock().cap().get(), 512);
        assert_eq!(Files::with_limit(empty(), 1 << 20).kept.lock().cap().get(), MOST_KEPT);
        assert_eq!(Files::with_limit(empty(), 0).kept.lock().cap().get(), 1);
    }

    fn empty() -> Catalog {
        let file = tempfile::NamedTempFile::new().expect("a file");
        Catalog::load(file.path(), OnBadLine::Refuse).expect("empty")
    }

    #[test]
    fn kept_files_make_room_for_those_of_transfers() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut files = files(directory.path(), 8, 4000);
        let running: Vec<_> = (0..4).map(|i| files.open(format!("/{i}").as_bytes()).expect("it is there")).collect();
        // From here on there is room for no file that is not in use.
        files.most_open = 0;
        for i in 4..8 {
            files.open(format!("/{i}").as_bytes()).expect("it is there");
            assert_eq!(files.kept.lock().len(), 1);
        }
        assert_eq!(running.iter().map(|file| read(file)).collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    }

    #[test]
    fn keys_of_one_path_share_a_descriptor() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("file"), "one").expect("a file");
        let locals = directory.path().join("locals.txt");
        fs::write(&locals, "/a file\n/b file\n").expect("locals.txt");
        let files = Files::with_limit(Catalog::load(&locals, OnBadLine::Refuse).expect("well formed"), 4000);
        let [a, b] = [b"/a", b"/b"].map(|key| files.open(key).expect("it is there"));
        assert!(Arc::ptr_eq(&a, &b));
    }

    #[test]
    fn a_file_is_opened_once_until_it_changes_or_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(directory.path(), 1, 4000);
        let path = directory.path().join("0");
        let first = files.open(b"/0").expect("it is there");
        assert!(Arc::ptr_eq(&first, &files.open(b"/0").expect("it is there")));
        fs::write(&path, "changed in place").expect("write");
        assert_eq!(read(&files.open(b"/0").expect("it is there")), "changed in place");
        let other = directory.path().join("other");
        fs::write(&other, "replaced by rename").expect("write");
        fs::rename(&other, &path).expect("rename");
        assert_eq!(read(&files.open(b"/0").expect("it is there")), "replaced by rename");
        fs::remove_file(&path).expect("remove");
        assert!(matches!(files.open(b"/0"), Err(StoreError::NotFound)));
        assert_eq!(files.kept.lock().len(), 0);
        assert_eq!(read(&first), "changed in place", "a transfer goes on with the inode that it began with");
    }

    #[test]
    fn a_file_that_nobody_asks_for_is_closed_after_20_seconds() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(directory.path(), 2, 4000);
        assert!(files.take_idle(Instant::now()).1.is_none(), "nothing to come back for");
        files.open(b"/0").expect("it is there");
        let opened = Instant::now();
        files.open(b"/1").expect("it is there");
        let (idle, next) = files.take_idle(opened);
        assert!(idle.is_empty() && next.is_some_and(|next| next <= opened + Duration::from_secs(20)));
        let (idle, next) = files.take_idle(opened + Duration::from_secs(20));
        assert_eq!(idle.iter().map(|file| read(file)).collect::<Vec<_>>(), ["0"]);
        assert!(next.is_some_and(|next| next > opened + Duration::from_secs(20)));
        assert!(files.take_idle(opened + Duration::from_secs(60)).1.is_none());
    }

    #[test]
    fn the_log_is_told_once_of_a_file_that_cannot_be_opened() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(directory.path(), 65, 4000);
        fs::remove_file(directory.path().join("64")).expect("remove");
        files.open(b"/64").expect_err("it is gone");
        assert!(files.mark(64, true), "told by the first failure");
        assert!(!files.mark(63, false));
        fs::write(directory.path().join("64"), "back").expect("write");
        files.open(b"/64").expect("it is back");
        assert!(!files.mark(64, false), "forgotten by the success");
    }

    #[test]
    fn a_busy_file_keeps_no_second_request_waiting() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(directory.path(), 1, 4000);
        let file = fs::File::options().write(true).open(directory.path().join("0")).expect("it is there");
        files.note_busy(0, true);
        // Whoever waited would find it each time; a look takes a tick only on a machine that is very busy.
        let found = (0..20).filter(|_| {
            file.set_modified(SystemTime::now()).expect("utimes");
            files.note_busy(0, true);
            files.open(b"/0").is_ok()
        });
        assert!(found.count() < 20);
        // It is not written any more.
        while files.open(b"/0").is_err() {
            std::thread::sleep(MTIME_TICK);
        }
        assert!(!files.is_busy(0));
    }
}
