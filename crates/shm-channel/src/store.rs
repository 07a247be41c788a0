//! Where a server gets its files from.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC,
    statfs,
};
use nix::unistd::{Whence, lseek};

use parking_lot::{Condvar, Mutex};

use crate::memory::layout::Validator;

/// The longest time that the time stamps of files stand still: a clock tick, on kernels that have nothing finer.
pub const MTIME_TICK: Duration = Duration::from_millis(10);

/// The usual number of looks at a file before it counts as written all the time.
pub const MAX_OPEN_LOOKS: u32 = 10;

/// How long a segment counts as holding what was read into it. Some changes leave size and modification time as they
/// were: a write through a mapping may, and utimensat(2). Without this limit the segment would be the old file for
/// ever.
pub const EXTENT_MAX_AGE: Duration = Duration::from_millis(100);

/// Gives files by key. Called by the worker threads, several at once.
pub trait Store: Send + Sync {
    /// The file behind `key`, any bytes, as it is now: its state must be seen after the call began.
    fn open(&self, key: &[u8]) -> Result<Arc<OpenFile>, StoreError>;

    /// The generation of what keys lead to. None: clients ask for each file each time.
    ///
    /// With a number, a client may see for itself that a file is unchanged where it was [found](OpenFile::found_at). It
    /// may do so if the file was given to it less than a tenth of a second ago. Then it gives the file out again
    /// without asking, until the number changes. The store changes the number when keys are to lead to other paths.
    ///
    /// The server tells all clients of the new number with its next answers. Where none may follow, call
    /// [`Server::tell_generation`](super::Server::tell_generation).
    fn generation(&self) -> Option<u32> {
        None
    }

    /// Gives out the open files that were not asked for in a while, for the caller to close: a file without a name
    /// keeps its blocks while it is open. Also says when the next one will be due.
    fn take_idle(&self, _now: Instant) -> (Vec<Arc<OpenFile>>, Option<Instant>) {
        (Vec::new(), None)
    }

    /// Descriptors have run out: closes files that are open only in case they are asked for again.
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

impl StoreError {
    /// What a failure to open a file means: names that lead nowhere, and files that may not be seen, are not found. The
    /// rest says nothing about whether there is a file: ENXIO and ENODEV, too, once it was seen to be a regular one.
    pub fn of(error: &io::Error) -> Self {
        const NOT_FOUND: [libc::c_int; 7] = [
            libc::ENOENT,
            libc::ENOTDIR,
            libc::ELOOP,
            libc::EACCES,
            libc::EPERM,
            // No file has such a name; no regular one fails so.
            libc::ENAMETOOLONG,
            libc::EISDIR,
        ];
        match error.raw_os_error() {
            Some(errno) if NOT_FOUND.contains(&errno) => Self::NotFound,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// File systems on which stat(2) does not wait for anybody.
const LOCAL: [FsType; 6] =
    [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC];

/// No call of write(2) takes longer: it has 2 GiB at most.
const RECENT: Duration = Duration::from_secs(600);

/// The [`OpenFile`]s of this process.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// An open regular file and the state that it had when it was opened.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    /// Where it was found.
    path: Option<PathBuf>,
    validator: Validator,
    /// The names that it had.
    links: u64,
    /// Its time of change after it got or lost a name, once that was seen. That does not change its content.
    renamed: OnceLock<u64>,
}

impl OpenFile {
    /// Notes the file's state, in which a write from now on shows: it waits until the last change is a clock tick ago
    /// (10 ms; 2 s if its time is of whole seconds, as on file systems that know no others). Anything but a regular
    /// file is refused, and one that is written all the time is [`io::ErrorKind::ResourceBusy`]. Moves the file's
    /// offset.
    pub fn new(file: File) -> io::Result<Self> {
        Self::after(file, None, MAX_OPEN_LOOKS)
    }

    /// As [`OpenFile::new`], of a file that was found there: clients may look at an absolute path themselves.
    pub fn found_at(file: File, path: PathBuf) -> io::Result<Self> {
        Self::after(file, Some(path), MAX_OPEN_LOOKS)
    }

    /// The same, with at most `looks` looks at the file.
    pub fn after(file: File, path: Option<PathBuf>, looks: u32) -> io::Result<Self> {
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let (validator, links) = settle(looks, || file.metadata().map(|now| (Validator::of(&now), now.nlink())))?;
        if validator.last_change(SystemTime::now()).1 < RECENT {
            wait_for_write(&file, &validator)?;
        }
        if validator.len == 0 && is_not_empty(&file)? {
            return Err(io::Error::other("has bytes, though its length is 0"));
        }
        OPEN.fetch_add(1, Ordering::Relaxed);
        Ok(Self { file, path, validator, links, renamed: OnceLock::new() })
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

    /// Whether what is found at its path now is this file, in this state.
    pub fn is_found(&self) -> bool {
        let found = self.path.as_ref().map(fs::metadata);
        found.is_some_and(|found| found.is_ok_and(|found| Validator::of(&found) == self.validator))
    }

    /// Where others may look at it. Nowhere, if such a look may have to wait for another machine or program on the way:
    /// they had better ask, with a limit.
    pub(crate) fn place(&self) -> Option<&Path> {
        let path = self.path.as_deref().filter(|path| path.is_absolute())?;
        let real = fs::canonicalize(path).ok()?;
        let is_local = |at: &Path| statfs(at).is_ok_and(|seen| LOCAL.contains(&seen.filesystem_type()));
        path.ancestors().chain(real.ancestors()).all(is_local).then_some(path)
    }

    /// Whether the file has the content that it had when it was opened.
    pub fn is_unchanged(&self) -> bool {
        self.file.metadata().is_ok_and(|now| {
            let state = Validator::of(&now);
            state == self.validator || self.was_renamed(&state, now.nlink())
        })
    }

    /// Whether the only change is one name got or lost. That moves the file's time of change, too.
    fn was_renamed(&self, now: &Validator, links: u64) -> bool {
        if (Validator { changed_ns: self.validator.changed_ns, ..*now }) != self.validator {
            return false;
        }
        if let Some(since) = self.renamed.get() {
            return *since == now.changed_ns;
        }
        let leads_elsewhere = |path: &PathBuf| {
            let found = fs::metadata(path).map(|found| (found.dev(), found.ino()));
            !found.is_ok_and(|found| found == (now.device, now.inode))
        };
        (links != self.links || self.path.as_ref().is_some_and(leads_elsewhere))
            && *self.renamed.get_or_init(|| now.changed_ns) == now.changed_ns
    }
}

/// A file's state and number of names, once its last change is a tick old. Takes at most `looks` looks, or two where a
/// tick is long.
fn settle(looks: u32, state: impl Fn() -> io::Result<(Validator, u64)>) -> io::Result<(Validator, u64)> {
    for look in 1.. {
        let (state, now) = (state()?, SystemTime::now());
        let (left, tick) = state.0.unsettled(now);
        let looks = if tick > MTIME_TICK { looks.min(2) } else { looks };
        if left.is_zero() {
            return Ok(state);
        }
        if look >= looks {
            break;
        }
        thread::sleep(left);
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "is being written all the time"))
}

/// Waits for the end of a call of write(2) that has begun before the file was seen in this state: it noted its time
/// then, and goes on copying, while others may read what there is of it. The search for data waits for it on btrfs,
/// ext4, f2fs and tmpfs, on overlays of them, and on FUSE; on xfs each read does.
///
/// A writer that does not come on would hold up everybody. So one thread waits for each file, and others only for a
/// while.
fn wait_for_write(file: &File, state: &Validator) -> io::Result<()> {
    static WAITING: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());
    static DONE: Condvar = Condvar::new();
    let Some(last) = state.len.checked_sub(1) else { return Ok(()) };
    let (id, deadline) = ((state.device, state.inode), Instant::now() + MTIME_TICK * MAX_OPEN_LOOKS);
    let mut waiting = WAITING.lock();
    while waiting.contains(&id) {
        if DONE.wait_until(&mut waiting, deadline).timed_out() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "is being written"));
        }
    }
    waiting.push(id);
    drop(waiting);
    // Nothing but a hole, or a file system that cannot search: there is nothing to learn, and nothing that failed.
    let _ = lseek(file, last.cast_signed(), Whence::SeekData);
    WAITING.lock().retain(|other| *other != id);
    DONE.notify_all();
    Ok(())
}

/// Whether a file of length 0 has bytes all the same, as those of procfs have, and some of FUSE whose length nobody
/// knows.
fn is_not_empty(file: &File) -> io::Result<bool> {
    Ok(file.read_at(&mut [0], 0)? > 0 && file.metadata()?.len() == 0)
}

/// Seconds and nanoseconds as nanoseconds since 1970, modulo 2^64.
fn nanoseconds(seconds: i64, rest: i64) -> u64 {
    seconds.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(rest.cast_unsigned())
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Validator {
    /// The state in an answer of stat(2).
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.size(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// How long a write after `now` might still leave the times as they are, and for how long in all after a change. A
    /// time of whole seconds may be of a file system that knows no others, or only even ones.
    fn unsettled(&self, now: SystemTime) -> (Duration, Duration) {
        let (last, age) = self.last_change(now);
        let tick = if last.is_multiple_of(1_000_000_000) { Duration::from_secs(2) } else { MTIME_TICK };
        (tick.saturating_sub(age), tick)
    }

    /// When the file was changed last, and how long that is ago. A time in the future says nothing.
    fn last_change(&self, now: SystemTime) -> (u64, Duration) {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
        let last = [self.modified_ns, self.changed_ns].into_iter().filter(|&time| time <= now).max().unwrap_or(0);
        (last, Duration::from_nanos(now - last))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A file that was changed then, whatever its time of modification was set to.
    fn changed(at: SystemTime) -> (Validator, u64) {
        let since = at.duration_since(UNIX_EPOCH).expect("after 1970");
        (Validator { modified_ns: 1_000_000_000, changed_ns: since.as_nanos() as u64, ..Validator::default() }, 1)
    }

    #[test]
    fn a_file_that_is_written_all_the_time_is_busy() {
        let looks = Cell::new(0);
        let written_now = || {
            looks.set(looks.get() + 1);
            Ok(changed(SystemTime::now()))
        };
        let error = settle(MAX_OPEN_LOOKS, written_now).expect_err("it is never a tick old");
        assert_eq!((error.kind(), looks.get()), (io::ErrorKind::ResourceBusy, MAX_OPEN_LOOKS));
        settle(1, || Ok(changed(SystemTime::now() - MTIME_TICK))).expect("it is a tick old");
        let whole_second =
            || UNIX_EPOCH + Duration::from_secs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
        settle(1, || Ok(changed(whole_second()))).expect_err("written within two seconds");
        settle(1, || Ok(changed(whole_second() - Duration::from_secs(2)))).expect("not within two seconds");
    }

    #[test]
    fn seven_reasons_and_no_others_mean_that_there_is_no_file() {
        let not_found =
            |errno: &i32| matches!(StoreError::of(&io::Error::from_raw_os_error(*errno)), StoreError::NotFound);
        // EPERM, ENOENT, EACCES, ENOTDIR, EISDIR, ENAMETOOLONG, ELOOP
        assert_eq!((0..4096).filter(not_found).collect::<Vec<_>>(), [1, 2, 13, 20, 21, 36, 40]);
        assert!(matches!(StoreError::of(&io::ErrorKind::NotFound.into()), StoreError::Failed(_)));
    }

    #[test]
    fn a_change_is_settled_after_10_ms_or_two_seconds_if_its_time_is_whole() {
        let now = UNIX_EPOCH + Duration::from_millis(1_000_000_995);
        let left = |age: u64| changed(now - Duration::from_millis(age)).0.unsettled(now).0.as_millis();
        assert_eq!([0, 9, 10, 11].map(left), [10, 1, 0, 0]);
        assert_eq!([995, 1995, 2995].map(left), [1005, 5, 0], "times of whole seconds");
        let future = changed(now + Duration::from_millis(1)).0;
        assert!(future.unsettled(now).0.is_zero(), "a time in the future says nothing");
    }
}
