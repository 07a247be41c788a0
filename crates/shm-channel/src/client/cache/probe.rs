//! Where files are found, so that a client sees for itself that one is unchanged, and need not ask.
//!
//! stat(2) of a path that the daemon named shows what the daemon would see. It cannot show that a key leads to another
//! path. That the generation shows.

use std::ffi::OsStr;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use crate::client::cache::extent::RequestStamp;
use crate::memory::layout::Validator;
use crate::memory::ring::Violation;
use crate::protocol::wire;

/// The most keys with a probe.
const MAX_PROBES: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// A probe that was not called for this time is dropped. Until then it makes way for no other, so that many files do
/// not push each other out.
const PROBE_IDLE_LIMIT: Duration = Duration::from_secs(1);

/// A key, from the request for its probe on.
#[derive(Debug)]
struct Entry {
    /// Where its file is; None until the daemon has answered.
    path: Option<Arc<Path>>,
    /// Since when the key leads there.
    generation: u32,
    /// When the probe was called last, or asked for.
    used: Instant,
}

impl Entry {
    fn is_idle(&self, now: Instant) -> bool {
        now.duration_since(self.used) >= PROBE_IDLE_LIMIT
    }
}

#[derive(Debug)]
struct State {
    keys: LruCache<Box<[u8]>, Entry>,
    /// Requests for a probe without an answer so far. Some that are long past are left out.
    awaited: usize,
}

/// The probes of one session.
#[derive(Debug)]
pub(crate) struct Probes(Mutex<State>);

impl Probes {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { keys: LruCache::new(MAX_PROBES), awaited: 0 }))
    }

    /// Whether the key leads to the file in this state.
    pub(crate) fn see(&self, key: &[u8], file: &Validator, RequestStamp { at, generation }: RequestStamp) -> bool {
        let path = {
            let mut state = self.0.lock();
            let Some(entry) = state.keys.get_mut(key).filter(|entry| entry.generation == generation) else {
                return false;
            };
            let Some(path) = &entry.path else { return false };
            entry.used = at;
            Arc::clone(path)
        };
        fs::metadata(&path).is_ok_and(|seen| Validator::of(&seen) == *file)
    }

    /// Whether to ask for a probe of the key now. Then it is awaited.
    pub(crate) fn ask(&self, key: &[u8], RequestStamp { at, generation }: RequestStamp) -> bool {
        let mut state = self.0.lock();
        let has_room = match state.keys.peek(key) {
            Some(entry) if entry.path.is_some() => entry.generation != generation,
            Some(entry) => entry.is_idle(at),
            None => {
                state.keys.len() < MAX_PROBES.get() || state.keys.peek_lru().is_some_and(|(_, last)| last.is_idle(at))
            }
        };
        if has_room {
            state.keys.push(key.into(), Entry { path: None, generation, used: at });
            state.awaited = (state.awaited + 1).min(MAX_PROBES.get());
        }
        has_room
    }

    /// Takes in what the daemon has sent.
    pub(crate) fn take_in(&self, last_logged: &wire::Probe<'_>) -> Result<(), Violation> {
        let mut state = self.0.lock();
        state.awaited = state.awaited.checked_sub(1).ok_or(Violation("a probe that nobody asked for"))?;
        // The key may have made way for another meanwhile.
        if let Some(entry) = state.keys.peek_mut(last_logged.key) {
            entry.path = Some(Path::new(OsStr::from_bytes(last_logged.path)).into());
            entry.generation = last_logged.generation;
        }
        Ok(())
    }

    /// Drops those that were not called for a while. When to come again, if any are left.
    pub(crate) fn tidy(&self, now: Instant) -> Option<Duration> {
        let mut state = self.0.lock();
        loop {
            let (_, last) = state.keys.peek_lru()?;
            if !last.is_idle(now) {
                return Some(PROBE_IDLE_LIMIT.saturating_sub(now.duration_since(last.used)));
            }
            state.keys.pop_lru();
        }
    }

    /// Drops all: the session has ended.
    pub(crate) fn clear(&self) {
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

    fn at(at: Instant) -> RequestStamp {
        RequestStamp { at, generation: 7 }
    }

    fn bear(probes: &Probes, path: &Path, generation: u32) -> Result<(), Violation> {
        probes.take_in(&wire::Probe { generation, key: KEY, path: path.as_os_str().as_bytes() })
    }

    #[test]
    fn a_probe_sees_what_is_at_its_path_in_its_epoch() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, backup) = (directory.path().join("file"), directory.path().join("backup"));
        fs::write(&path, "content").expect("write");
        let (probes, before, now) = (Probes::new(), state(&path), at(Instant::now()));
        assert!(!probes.see(KEY, &before, now));
        assert!(probes.ask(KEY, now) && !probes.ask(KEY, now));
        assert!(!probes.see(KEY, &before, now));
        bear(&probes, &path, 7).expect("asked for");
        assert!(probes.see(KEY, &before, now) && !probes.ask(KEY, now));
        assert!(
            !probes.see(b"another key", &before, now)
                && !probes.see(KEY, &before, RequestStamp { generation: 8, ..now })
        );
        fs::write(&path, "another length").expect("write");
        assert!(!probes.see(KEY, &before, now));
        fs::rename(&path, &backup).expect("rename");
        let after = state(&backup);
        assert!(!probes.see(KEY, &after, now), "it has a name, and another one");
        std::os::unix::fs::symlink(&backup, &path).expect("link");
        assert!(probes.see(KEY, &after, now));
        // The daemon may tell of a generation that was over when it answered: then it is asked again.
        assert!(probes.ask(KEY, RequestStamp { generation: 8, ..now }));
        bear(&probes, &path, 7).expect("asked for");
        assert!(
            !probes.see(KEY, &after, RequestStamp { generation: 8, ..now })
                && probes.ask(KEY, RequestStamp { generation: 8, ..now })
        );
    }

    #[test]
    fn only_what_was_asked_for_is_taken_in() {
        let (probes, now) = (Probes::new(), Instant::now());
        let path = Path::new("/dev/null");
        bear(&probes, path, 7).expect_err("nobody asked");
        assert!(probes.ask(KEY, at(now)));
        // A server need not answer: then there is another chance later, and an answer to each request is fine.
        assert!(!probes.ask(KEY, at(now + PROBE_IDLE_LIMIT / 2)));
        assert!(probes.ask(KEY, at(now + PROBE_IDLE_LIMIT)));
        bear(&probes, path, 7).expect("the first");
        bear(&probes, path, 7).expect("the second");
        bear(&probes, path, 7).expect_err("one more");
    }

    #[test]
    fn only_so_many_and_those_not_called_for_a_while_make_way() {
        let key = |number: usize| number.to_string().into_bytes();
        let (probes, now) = (Probes::new(), Instant::now());
        let many = MAX_PROBES.get();
        assert!((0..many).all(|number| probes.ask(&key(number), at(now))));
        assert!(!probes.ask(&key(many), at(now + PROBE_IDLE_LIMIT / 2)));
        assert!(probes.ask(&key(many), at(now + PROBE_IDLE_LIMIT)));
        assert_eq!(
            probes.tidy(now + PROBE_IDLE_LIMIT + PROBE_IDLE_LIMIT / 4),
            Some(PROBE_IDLE_LIMIT * 3 / 4),
            "the last one is young"
        );
        assert_eq!(probes.tidy(now + PROBE_IDLE_LIMIT * 2), None);
        assert!(probes.ask(&key(0), at(now + PROBE_IDLE_LIMIT * 2)));
        probes.clear();
        assert!(probes.ask(&key(0), at(now + PROBE_IDLE_LIMIT * 2)));
    }
}
