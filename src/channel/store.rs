//! Where a server gets its files from.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC,
    fstatfs,
};

use super::layout::Validator;

/// The time stamps of files stand still for so long at most: a clock tick, on kernels that have nothing finer.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// How often a file is looked at, as a rule, before it counts as written all the time.
pub(crate) const LOOKS: u32 = 10;

/// For so long a segment counts as holding what was read into it. After a change that leaves size and modification time as
/// they were (a write through a mapping may, and utimensat(2)) it would be the old file for ever.
pub(crate) const HOLDS_FOR: Duration = Duration::from_millis(100);

/// Gives files by key. Called by the worker threads, several at once.
pub trait Store: Send + Sync {
    /// The file behind `key`, any bytes, as it is now.
    fn open(&self, key: &[u8]) -> Result<Arc<OpenFile>, StoreError>;

    /// None if clients are to ask for each file each time. With a number they may see for themselves that a file
    /// which they were given less than a tenth of a second ago is unchanged and has a name, and give it out again without
    /// asking, until the number is another. The store moves it when it finds that a key leads to another file, or to none: such a
    /// look need not show that. With the answers to come the server tells all clients; of a move without an answer
    /// [`Server::tell_epoch`](super::Server::tell_epoch) has to tell.
    fn epoch(&self) -> Option<u32> {
        None
    }

    /// Descriptors have run out: closes files that are kept open in case they are asked for again, where there are any.
    fn close_some(&self) {}
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such key or file, or no access.
    #[error("not found")]
    NotFound,
    /// The file is there and cannot be read.
    #[error("{0}")]
    Failed(String),
}

/// File systems on which fstat(2) does not wait for anybody.
const LOCAL: [FsType; 6] =
    [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC];

/// The [`OpenFile`]s of this process.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// An open regular file and the state that it had when it was opened.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    validator: Validator,
}

impl OpenFile {
    /// Notes the file's state, in which a write from now on shows: it waits until the last write is a clock tick ago
    /// (10 ms; 2 s if its time is of whole seconds, as on file systems that know no others). Anything but a regular file is
    /// refused, and one that is written all the time is [`io::ErrorKind::ResourceBusy`].
    pub fn new(file: File) -> io::Result<Self> {
        Self::after(file, LOOKS)
    }

    /// As [`OpenFile::new`], with so many looks at most.
    pub(crate) fn after(file: File, looks: u32) -> io::Result<Self> {
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let validator = settle(looks, || file.metadata().map(|now| Validator::of(&now)))?;
        OPEN.fetch_add(1, Ordering::Relaxed);
        Ok(Self { file, validator })
    }

    /// How many there are in this process, each a descriptor.
    pub fn count() -> usize {
        OPEN.load(Ordering::Relaxed)
    }

    /// How many there should be at most: three quarters of the descriptors that the process may have, and at least 32
    /// fewer than those. The rest is for proxies and what else it does.
    pub fn most() -> usize {
        static MOST: LazyLock<usize> = LazyLock::new(|| {
            let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            (limit / 4 * 3).min(limit.saturating_sub(32))
        });
        *MOST
    }

    /// The file, to be read by position only: many threads share its offset.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The state that it had when it was opened.
    pub fn validator(&self) -> &Validator {
        &self.validator
    }

    /// A descriptor that tells of the file's state and does not read it. An error where there is no /proc, and on file
    /// systems where a look may have to wait for another machine or program: their clients had better ask, with a limit.
    pub(crate) fn witness(&self) -> io::Result<OwnedFd> {
        if !LOCAL.contains(&fstatfs(&self.file)?.filesystem_type()) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        // Reading is what O_PATH rules out, whatever else is asked for.
        let witness = File::options().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(own)?;
        Ok(witness.into())
    }

    /// Whether it still has that state.
    pub fn is_unchanged(&self) -> bool {
        self.file.metadata().is_ok_and(|now| Validator::of(&now) == self.validator)
    }
}

/// A file's state whose time is a tick old, waited for over so many looks; over two at most where a tick is long.
fn settle(looks: u32, state: impl Fn() -> io::Result<Validator>) -> io::Result<Validator> {
    for look in 1.. {
        let (state, now) = (state()?, SystemTime::now());
        let looks = if state.tick() > TICK { looks.min(2) } else { looks };
        match now.duration_since(state.modified()).map(|age| state.tick().saturating_sub(age)) {
            Ok(left) if !left.is_zero() && look >= looks => break,
            Ok(left) if !left.is_zero() => thread::sleep(left),
            // Old enough, or in the future, which says nothing about when it was written.
            _ => return Ok(state),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "is being written all the time"))
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Validator {
    /// The state that stat(2) tells of.
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.size(),
            modified_ns: metadata
                .mtime()
                .cast_unsigned()
                .wrapping_mul(1_000_000_000)
                .wrapping_add(metadata.mtime_nsec().cast_unsigned()),
        }
    }

    /// Whether the last write was at least a tick before `then`, so that each later one changes the time.
    pub(crate) fn is_settled(&self, then: SystemTime) -> bool {
        then.duration_since(self.modified()).is_ok_and(|age| age >= self.tick())
    }

    /// When the file was last written.
    pub(crate) fn modified(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.modified_ns)
    }

    /// For so long the time may stand still. One of whole seconds may be of a file system that knows no others, or only
    /// even ones.
    fn tick(&self) -> Duration {
        if self.modified_ns.is_multiple_of(1_000_000_000) { Duration::from_secs(2) } else { TICK }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn modified(at: SystemTime) -> Validator {
        let since = at.duration_since(UNIX_EPOCH).expect("after 1970");
        Validator { device: 1, inode: 1, len: 1, modified_ns: since.as_nanos() as u64 }
    }

    #[test]
    fn a_file_that_is_written_all_the_time_is_busy() {
        let looks = Cell::new(0);
        let written_now = || {
            looks.set(looks.get() + 1);
            Ok(modified(SystemTime::now()))
        };
        let error = settle(LOOKS, written_now).expect_err("it is never a tick old");
        assert_eq!((error.kind(), looks.get()), (io::ErrorKind::ResourceBusy, LOOKS));
        settle(1, || Ok(modified(SystemTime::now() - TICK))).expect("it is a tick old");
        let whole_second =
            || UNIX_EPOCH + Duration::from_secs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
        settle(1, || Ok(modified(whole_second()))).expect_err("written within two seconds");
        settle(1, || Ok(modified(whole_second() - Duration::from_secs(2)))).expect("not within two seconds");
    }
}
