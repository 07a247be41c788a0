//! Descriptors with which a client sees for itself that a file is unchanged, and so need not ask.
//!
//! A descriptor of the daemon's that fstat(2) takes shows what the daemon would see. What it cannot show, that a key leads to
//! another file, is told by the epoch.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use crate::channel::layout::Validator;
use crate::channel::ring::Violation;
use crate::channel::wire;

/// So many files at most.
const MOST: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// A witness that was not called for so long is dropped: it keeps the blocks of a file whose name is gone. Until then it
/// makes way for no other, so that many files do not push each other out.
const IDLE: Duration = Duration::from_secs(1);

/// A file, from the request for its witness on.
#[derive(Debug)]
struct Entry {
    /// None until it has come.
    witness: Option<Arc<File>>,
    /// When the witness was called last, or asked for.
    used: Instant,
}

impl Entry {
    fn is_idle(&self, now: Instant) -> bool {
        now.duration_since(self.used) >= IDLE
    }
}

#[derive(Debug)]
struct State {
    /// By device and inode.
    files: LruCache<(u64, u64), Entry>,
    /// Requests for a witness that none has come for, but for some that are long past.
    awaited: usize,
}

/// The witnesses of one session. What leaves the table is closed after its lock.
#[derive(Debug)]
pub(super) struct Witnesses(Mutex<State>);

impl Witnesses {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { files: LruCache::new(MOST), awaited: 0 }))
    }

    /// Whether a witness shows that the file is in this state, and has a name.
    pub(super) fn see(&self, file: &Validator, now: Instant) -> bool {
        let witness = {
            let mut state = self.0.lock();
            let Some(entry) = state.files.get_mut(&(file.device, file.inode)) else { return false };
            let Some(witness) = &entry.witness else { return false };
            entry.used = now;
            Arc::clone(witness)
        };
        witness.metadata().is_ok_and(|seen| seen.nlink() > 0 && Validator::of(&seen) == *file)
    }

    /// Whether to ask for a witness of the file now. Then it is awaited.
    pub(super) fn ask(&self, file: &Validator, now: Instant) -> bool {
        let mut state = self.0.lock();
        let id = (file.device, file.inode);
        let has_room = match state.files.peek(&id) {
            Some(entry) => entry.witness.is_none() && entry.is_idle(now),
            None => state.files.len() < MOST.get() || state.files.peek_lru().is_some_and(|(_, last)| last.is_idle(now)),
        };
        if !has_room {
            return false;
        }
        let pushed_out = state.files.push(id, Entry { witness: None, used: now });
        state.awaited = (state.awaited + 1).min(MOST.get());
        drop(state);
        drop(pushed_out);
        true
    }

    /// Takes in what the daemon has sent.
    pub(super) fn take_in(&self, named: wire::Witness, descriptor: Option<OwnedFd>) -> Result<(), Violation> {
        let id = (named.device, named.inode);
        let witness = descriptor.map(File::from);
        let is_named = |file: &File| file.metadata().is_ok_and(|seen| (seen.dev(), seen.ino()) == id);
        if witness.as_ref().is_some_and(|file| !is_named(file)) {
            return Err(Violation("a witness of another file than it says"));
        }
        let mut state = self.0.lock();
        state.awaited = state.awaited.checked_sub(1).ok_or(Violation("a witness that nobody asked for"))?;
        // The kernel leaves a descriptor out where this process may have no more, or may not have this one; and the file
        // may have made way for another meanwhile.
        let unused = match (state.files.peek_mut(&id), witness) {
            (Some(entry), Some(file)) => entry.witness.replace(Arc::new(file)),
            (_, file) => file.map(Arc::new),
        };
        drop(state);
        drop(unused);
        Ok(())
    }

    /// Drops those that were not called for a while. When to come again, if any are left.
    pub(super) fn tidy(&self, now: Instant) -> Option<Duration> {
        loop {
            let mut state = self.0.lock();
            let (_, last) = state.files.peek_lru()?;
            if !last.is_idle(now) {
                return Some(IDLE.saturating_sub(now.duration_since(last.used)));
            }
            let idle = state.files.pop_lru();
            drop(state);
            drop(idle);
        }
    }

    /// Drops all: the session has ended.
    pub(super) fn clear(&self) {
        let all = std::mem::replace(&mut self.0.lock().files, LruCache::new(MOST));
        drop(all);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn state(path: &Path) -> Validator {
        Validator::of(&fs::metadata(path).expect("stat"))
    }

    fn bear(witnesses: &Witnesses, path: &Path) -> Result<(), Violation> {
        let Validator { device, inode, .. } = state(path);
        let file = File::open(path).expect("open");
        witnesses.take_in(wire::Witness { device, inode }, Some(file.into()))
    }

    #[test]
    fn a_witness_sees_its_file_as_long_as_it_is_unchanged_and_has_a_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        fs::write(&path, "content").expect("write");
        let (witnesses, before, now) = (Witnesses::new(), state(&path), Instant::now());
        assert!(!witnesses.see(&before, now));
        assert!(witnesses.ask(&before, now) && !witnesses.ask(&before, now));
        bear(&witnesses, &path).expect("asked for");
        assert!(witnesses.see(&before, now) && !witnesses.ask(&before, now));
        fs::write(&path, "another length").expect("write");
        assert!(!witnesses.see(&before, now));
        let after = state(&path);
        assert!(witnesses.see(&after, now));
        fs::remove_file(&path).expect("remove");
        assert!(!witnesses.see(&after, now));
    }

    #[test]
    fn only_what_was_asked_for_is_taken_in() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let other = tempfile::NamedTempFile::new().expect("a file");
        let (witnesses, now) = (Witnesses::new(), Instant::now());
        bear(&witnesses, file.path()).expect_err("nobody asked");
        assert!(witnesses.ask(&state(file.path()), now));
        // A server need not answer: then there is another chance later, and an answer to each request is fine.
        assert!(!witnesses.ask(&state(file.path()), now + IDLE / 2));
        assert!(witnesses.ask(&state(file.path()), now + IDLE));
        let Validator { device, inode, .. } = state(file.path());
        let false_one = Some(File::open(other.path()).expect("open").into());
        witnesses.take_in(wire::Witness { device, inode }, false_one).expect_err("another file");
        bear(&witnesses, file.path()).expect("the first");
        bear(&witnesses, file.path()).expect("the second");
        bear(&witnesses, file.path()).expect_err("one more");
    }

    #[test]
    fn only_so_many_and_those_not_called_for_a_while_make_way() {
        let file = |inode| Validator { inode, ..Validator::default() };
        let (witnesses, now) = (Witnesses::new(), Instant::now());
        let many = MOST.get() as u64;
        assert!((0..many).all(|inode| witnesses.ask(&file(inode), now)));
        assert!(!witnesses.ask(&file(many), now + IDLE / 2));
        assert!(witnesses.ask(&file(many), now + IDLE));
        assert_eq!(witnesses.tidy(now + IDLE + IDLE / 4), Some(IDLE * 3 / 4), "the last one is young");
        assert_eq!(witnesses.tidy(now + IDLE * 2), None);
        assert!(witnesses.ask(&file(0), now + IDLE * 2));
        witnesses.clear();
        assert!(witnesses.ask(&file(0), now + IDLE * 2));
    }
}
