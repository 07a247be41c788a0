//! Where files are found, so that a client sees for itself that one is unchanged, and need not ask.
//!
//! stat(2) of a path that the daemon told shows what the daemon would see. What it cannot show, that a key leads to another
//! path, is told by the epoch.

use std::ffi::OsStr;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use super::held::Asked;
use crate::layout::Validator;
use crate::ring::Violation;
use crate::wire;

/// So many keys at most.
const MOST: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// A witness that was not called for so long is dropped. Until then it makes way for no other, so that many files do not
/// push each other out.
const IDLE: Duration = Duration::from_secs(1);

/// A key, from the request for its witness on.
#[derive(Debug)]
struct Entry {
    /// Where its file is; None until that was told.
    path: Option<Arc<Path>>,
    /// Since when the key leads there.
    epoch: u32,
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
    keys: LruCache<Box<[u8]>, Entry>,
    /// Requests for a witness that none has come for, but for some that are long past.
    awaited: usize,
}

/// The witnesses of one session.
#[derive(Debug)]
pub(super) struct Witnesses(Mutex<State>);

impl Witnesses {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { keys: LruCache::new(MOST), awaited: 0 }))
    }

    /// Whether the key leads to the file in this state.
    pub(super) fn see(&self, key: &[u8], file: &Validator, Asked { at, epoch }: Asked) -> bool {
        let path = {
            let mut state = self.0.lock();
            let Some(entry) = state.keys.get_mut(key).filter(|entry| entry.epoch == epoch) else { return false };
            let Some(path) = &entry.path else { return false };
            entry.used = at;
            Arc::clone(path)
        };
        fs::metadata(&path).is_ok_and(|seen| Validator::of(&seen) == *file)
    }

    /// Whether to ask for a witness of the key now. Then it is awaited.
    pub(super) fn ask(&self, key: &[u8], Asked { at, epoch }: Asked) -> bool {
        let mut state = self.0.lock();
        let has_room = match state.keys.peek(key) {
            Some(entry) if entry.path.is_some() => entry.epoch != epoch,
            Some(entry) => entry.is_idle(at),
            None => state.keys.len() < MOST.get() || state.keys.peek_lru().is_some_and(|(_, last)| last.is_idle(at)),
        };
        if has_room {
            state.keys.push(key.into(), Entry { path: None, epoch, used: at });
            state.awaited = (state.awaited + 1).min(MOST.get());
        }
        has_room
    }

    /// Takes in what the daemon has sent.
    pub(super) fn take_in(&self, told: &wire::Witness<'_>) -> Result<(), Violation> {
        let mut state = self.0.lock();
        state.awaited = state.awaited.checked_sub(1).ok_or(Violation("a witness that nobody asked for"))?;
        // The key may have made way for another meanwhile.
        if let Some(entry) = state.keys.peek_mut(told.key) {
            entry.path = Some(Path::new(OsStr::from_bytes(told.path)).into());
            entry.epoch = told.epoch;
        }
        Ok(())
    }

    /// Drops those that were not called for a while. When to come again, if any are left.
    pub(super) fn tidy(&self, now: Instant) -> Option<Duration> {
        let mut state = self.0.lock();
        loop {
            let (_, last) = state.keys.peek_lru()?;
            if !last.is_idle(now) {
                return Some(IDLE.saturating_sub(now.duration_since(last.used)));
            }
            state.keys.pop_lru();
        }
    }

    /// Drops all: the session has ended.
    pub(super) fn clear(&self) {
        self.0.lock().keys.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"key";

    fn state(path: &Path) -> Validator {
        Validator::of(&fs::metadata(path).expect("stat"))
    }

    fn at(at: Instant) -> Asked {
        Asked { at, epoch: 7 }
    }

    fn bear(witnesses: &Witnesses, path: &Path, epoch: u32) -> Result<(), Violation> {
        witnesses.take_in(&wire::Witness { epoch, key: KEY, path: path.as_os_str().as_bytes() })
    }

    #[test]
    fn a_witness_sees_what_is_at_its_path_in_its_epoch() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, backup) = (directory.path().join("file"), directory.path().join("backup"));
        fs::write(&path, "content").expect("write");
        let (witnesses, before, now) = (Witnesses::new(), state(&path), at(Instant::now()));
        assert!(!witnesses.see(KEY, &before, now));
        assert!(witnesses.ask(KEY, now) && !witnesses.ask(KEY, now));
        assert!(!witnesses.see(KEY, &before, now));
        bear(&witnesses, &path, 7).expect("asked for");
        assert!(witnesses.see(KEY, &before, now) && !witnesses.ask(KEY, now));
        assert!(
            !witnesses.see(b"another key", &before, now) && !witnesses.see(KEY, &before, Asked { epoch: 8, ..now })
        );
        fs::write(&path, "another length").expect("write");
        assert!(!witnesses.see(KEY, &before, now));
        fs::rename(&path, &backup).expect("rename");
        let after = state(&backup);
        assert!(!witnesses.see(KEY, &after, now), "it has a name, and another one");
        std::os::unix::fs::symlink(&backup, &path).expect("link");
        assert!(witnesses.see(KEY, &after, now));
        // The daemon may tell of an epoch that was over when it answered: then it is asked again.
        assert!(witnesses.ask(KEY, Asked { epoch: 8, ..now }));
        bear(&witnesses, &path, 7).expect("asked for");
        assert!(
            !witnesses.see(KEY, &after, Asked { epoch: 8, ..now }) && witnesses.ask(KEY, Asked { epoch: 8, ..now })
        );
    }

    #[test]
    fn only_what_was_asked_for_is_taken_in() {
        let (witnesses, now) = (Witnesses::new(), Instant::now());
        let path = Path::new("/dev/null");
        bear(&witnesses, path, 7).expect_err("nobody asked");
        assert!(witnesses.ask(KEY, at(now)));
        // A server need not answer: then there is another chance later, and an answer to each request is fine.
        assert!(!witnesses.ask(KEY, at(now + IDLE / 2)));
        assert!(witnesses.ask(KEY, at(now + IDLE)));
        bear(&witnesses, path, 7).expect("the first");
        bear(&witnesses, path, 7).expect("the second");
        bear(&witnesses, path, 7).expect_err("one more");
    }

    #[test]
    fn only_so_many_and_those_not_called_for_a_while_make_way() {
        let key = |number: usize| number.to_string().into_bytes();
        let (witnesses, now) = (Witnesses::new(), Instant::now());
        let many = MOST.get();
        assert!((0..many).all(|number| witnesses.ask(&key(number), at(now))));
        assert!(!witnesses.ask(&key(many), at(now + IDLE / 2)));
        assert!(witnesses.ask(&key(many), at(now + IDLE)));
        assert_eq!(witnesses.tidy(now + IDLE + IDLE / 4), Some(IDLE * 3 / 4), "the last one is young");
        assert_eq!(witnesses.tidy(now + IDLE * 2), None);
        assert!(witnesses.ask(&key(0), at(now + IDLE * 2)));
        witnesses.clear();
        assert!(witnesses.ask(&key(0), at(now + IDLE * 2)));
    }
}
