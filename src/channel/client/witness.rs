//! Descriptors with which a client sees for itself that a small file is unchanged, and so need not ask.
//!
//! A descriptor that only fstat(2) takes shows what the daemon would see. What it cannot show, that the key leads to
//! another file, is told by the epoch, or by the daemon's answers: the file is asked for again a tenth of a second later at
//! most.

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

/// So many keys at most.
const MOST: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// A witness that was not called for so long is dropped: it keeps the blocks of a file whose name is gone. Until then it
/// makes way for no other, so that many files do not push each other out.
const IDLE: Duration = Duration::from_secs(1);

/// The file that a key leads to, from the request for its witness on.
#[derive(Debug)]
struct Entry {
    device: u64,
    inode: u64,
    /// None until it has come.
    witness: Option<Arc<File>>,
    /// When the witness was called last, or asked for.
    used: Instant,
}

impl Entry {
    fn is_of(&self, file: &Validator) -> bool {
        (self.device, self.inode) == (file.device, file.inode)
    }

    fn is_idle(&self, now: Instant) -> bool {
        now.duration_since(self.used) >= IDLE
    }
}

#[derive(Debug)]
struct State {
    keys: LruCache<Box<[u8]>, Entry>,
    /// Requests for a witness that none has come for.
    awaited: usize,
}

/// The witnesses of one session.
#[derive(Debug)]
pub(super) struct Witnesses(Mutex<State>);

impl Witnesses {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { keys: LruCache::new(MOST), awaited: 0 }))
    }

    /// Whether a witness shows that the file behind `key` is in this state, and has a name.
    pub(super) fn see(&self, key: &[u8], file: &Validator, now: Instant) -> bool {
        let witness = {
            let mut state = self.0.lock();
            let Some(entry) = state.keys.get_mut(key).filter(|entry| entry.is_of(file)) else { return false };
            let Some(witness) = &entry.witness else { return false };
            entry.used = now;
            Arc::clone(witness)
        };
        witness.metadata().is_ok_and(|seen| seen.nlink() > 0 && Validator::of(&seen) == *file)
    }

    /// Whether to ask for a witness of the file behind `key` now. Then it is awaited.
    pub(super) fn ask(&self, key: &[u8], file: &Validator, now: Instant) -> bool {
        let mut state = self.0.lock();
        let has_room = match state.keys.peek(key) {
            Some(entry) => !entry.is_of(file) || entry.witness.is_none() && entry.is_idle(now),
            None => state.keys.len() < MOST.get() || state.keys.peek_lru().is_some_and(|(_, last)| last.is_idle(now)),
        };
        if has_room {
            let Validator { device, inode, .. } = *file;
            state.keys.push(key.into(), Entry { device, inode, witness: None, used: now });
            state.awaited += 1;
        }
        has_room
    }

    /// The daemon has answered with this file, or that there is none: what is known of another one is out of date.
    pub(super) fn answered(&self, key: &[u8], file: Option<&Validator>) {
        let mut state = self.0.lock();
        if state.keys.peek(key).is_some_and(|entry| !file.is_some_and(|file| entry.is_of(file))) {
            state.keys.pop(key);
        }
    }

    /// Takes in what the daemon has sent.
    pub(super) fn take_in(&self, named: wire::Witness, descriptor: Option<OwnedFd>) -> Result<(), Violation> {
        let wire::Witness { device, inode } = named;
        let mut state = self.0.lock();
        state.awaited = state.awaited.checked_sub(1).ok_or(Violation("a witness that nobody asked for"))?;
        // The kernel leaves a descriptor out where this process may have no more, or may not have this one.
        let Some(witness) = descriptor.map(File::from) else { return Ok(()) };
        if !witness.metadata().is_ok_and(|seen| (seen.dev(), seen.ino()) == (device, inode)) {
            return Err(Violation("a witness of another file than it says"));
        }
        let witness = Arc::new(witness);
        // None, where the keys lead elsewhere meanwhile.
        for (_, entry) in state.keys.iter_mut().filter(|(_, entry)| (entry.device, entry.inode) == (device, inode)) {
            entry.witness.get_or_insert_with(|| Arc::clone(&witness));
        }
        Ok(())
    }

    /// Drops those that were not called for a while. When to come again, if any are left.
    pub(super) fn tidy(&self, now: Instant) -> Option<Duration> {
        let mut state = self.0.lock();
        while let Some((_, last)) = state.keys.peek_lru() {
            if !last.is_idle(now) {
                return Some(IDLE.saturating_sub(now.duration_since(last.used)));
            }
            state.keys.pop_lru();
        }
        None
    }
}
