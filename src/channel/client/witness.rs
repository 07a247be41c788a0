//! Descriptors with which a client sees for itself that a small file is unchanged, and so need not ask.
//!
//! A descriptor that only fstat(2) takes shows what the daemon would see. What it cannot show, that the key leads to
//! another file, is told by the epoch, or found out when the file is asked for again, a tenth of a second later at most.

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

/// A witness that was not asked for so long is dropped: it keeps the file of a name that is gone on the disk. Until then it
/// makes way for no other, so that many files do not push each other out.
const IDLE: Duration = Duration::from_secs(1);

/// A file, from the request for its witness on.
#[derive(Debug)]
struct Entry {
    witness: Option<Arc<File>>,
    used: Instant,
}

#[derive(Debug)]
struct State {
    /// By device and inode.
    files: LruCache<(u64, u64), Entry>,
    /// Requests for a witness that none has come for.
    awaited: usize,
}

/// The witnesses of one session.
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

    /// Whether to ask for a witness of the file now. Then it is awaited, for a while.
    pub(super) fn ask(&self, file: &Validator, now: Instant) -> bool {
        let mut state = self.0.lock();
        let is_recent = |entry: &Entry| now.duration_since(entry.used) < IDLE;
        let id = (file.device, file.inode);
        let is_in_the_way = match state.files.peek(&id) {
            Some(entry) => entry.witness.is_some() || is_recent(entry),
            None => {
                state.files.len() == MOST.get() && state.files.peek_lru().is_some_and(|(_, oldest)| is_recent(oldest))
            }
        };
        if !is_in_the_way {
            state.files.push(id, Entry { witness: None, used: now });
            state.awaited += 1;
        }
        !is_in_the_way
    }

    /// Takes in what the daemon has sent.
    pub(super) fn take_in(&self, named: wire::Witness, descriptor: Option<OwnedFd>) -> Result<(), Violation> {
        let mut state = self.0.lock();
        state.awaited = state.awaited.checked_sub(1).ok_or(Violation("a witness that nobody asked for"))?;
        // The kernel leaves a descriptor out where this process may have no more, or may not have this one.
        let Some(witness) = descriptor.map(File::from) else { return Ok(()) };
        let is_named = |seen: std::fs::Metadata| (seen.dev(), seen.ino()) == (named.device, named.inode);
        if !witness.metadata().is_ok_and(is_named) {
            return Err(Violation("a witness of another file than it says"));
        }
        // The file may have made way for another meanwhile.
        if let Some(entry) = state.files.peek_mut(&(named.device, named.inode)) {
            entry.witness = Some(Arc::new(witness));
        }
        Ok(())
    }

    /// Drops those that nobody has asked for a while. When to come again, if any are left.
    pub(super) fn tidy(&self, now: Instant) -> Option<Duration> {
        let mut state = self.0.lock();
        while let Some((_, oldest)) = state.files.peek_lru() {
            let idle = now.duration_since(oldest.used);
            if idle < IDLE {
                return Some(IDLE - idle);
            }
            state.files.pop_lru();
        }
        None
    }
}
