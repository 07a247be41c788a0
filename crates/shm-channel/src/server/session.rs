//! One connected proxy as the daemon sees it.

use std::collections::VecDeque;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::peer::Peer;
use crate::memory::arena::Arena;
use crate::memory::layout::Validator;
use crate::memory::ring::{self, Area};
use crate::protocol::seqpacket::Process;
use crate::protocol::wire::Probe;
use crate::store::OpenFile;

/// The file of transfers that were paused. They go on with it, even if the store has another one by then.
#[derive(Debug)]
struct Paused {
    file: Arc<OpenFile>,
    /// How many of them did not go on yet. The others' file is the first to be let go of.
    waiting: u32,
    /// When one of them last stopped or went on.
    used: Instant,
}

/// The most files that a session holds for paused transfers; beyond it the oldest is let go of.
const MAX_PAUSED_FILES: usize = 1024;

/// How many requests of a session are being served, and whether its socket is armed for more.
#[derive(Debug)]
struct Turns {
    serving: usize,
    armed: bool,
}

impl Turns {
    fn begin(&mut self, cap: usize) -> bool {
        self.serving += 1;
        self.armed = self.serving < cap;
        self.armed
    }

    fn end(&mut self, cap: usize) -> bool {
        self.serving -= 1;
        let arm = !self.armed && self.serving < cap;
        self.armed |= arm;
        arm
    }
}

pub(super) struct Session {
    pub(crate) id: u64,
    pub(crate) process: Process,
    pub(super) socket: Peer,
    pub(crate) arena: Arena,
    /// For each segment, in private memory: a stream runs on its control words, and no second one may.
    leased: Box<[AtomicBool]>,
    paused: Mutex<VecDeque<Paused>>,
    turns: Mutex<Turns>,
    ended: AtomicBool,
}

impl Session {
    pub(super) fn new(id: u64, process: Process, socket: Peer, arena: Arena) -> Self {
        let leased = (0..arena.layout().segments).map(|_| AtomicBool::new(false)).collect();
        let turns = Mutex::new(Turns { serving: 0, armed: true });
        Self { id, process, socket, arena, leased, paused: Mutex::default(), turns, ended: AtomicBool::new(false) }
    }

    /// Begins a stream on a segment. False if the segment does not exist or is in use already.
    pub(crate) fn stream(&self, head: u16) -> bool {
        self.leased.get(usize::from(head)).is_some_and(|leased| !leased.swap(true, Ordering::Acquire))
    }

    /// Ends a stream; to be called before its end is published, since the proxy may ask again at once.
    pub(crate) fn end_stream_on(&self, head: u16) {
        self.leased[usize::from(head)].store(false, Ordering::Release);
    }

    /// Keeps the file of a transfer that stops before its end, and `most` files at most. While descriptors are scarce
    /// the number of files that are held this way does not grow.
    pub(crate) fn pause(&self, file: &Arc<OpenFile>, most: usize) {
        let mut all = self.paused.lock();
        let scarce = OpenFile::count() > OpenFile::most();
        let most = if scarce { all.len() } else { most }.clamp(1, MAX_PAUSED_FILES);
        let same = all.iter().position(|paused| paused.file.validator() == file.validator());
        let (file, waiting) = match same.and_then(|at| all.remove(at)) {
            Some(paused) => (paused.file, paused.waiting.saturating_add(1)),
            None => (Arc::clone(file), 1),
        };
        while all.len() >= most {
            let idle = all.iter().position(|paused| paused.waiting == 0);
            all.remove(idle.unwrap_or(0));
        }
        all.push_back(Paused { file, waiting, used: Instant::now() });
    }

    /// The file of a paused transfer, in this state. It stays for a while: transfers that read what the proxy's
    /// segments hold of it, and were never paused, may need the rest.
    pub(crate) fn paused_file(&self, wanted: &Validator) -> Option<Arc<OpenFile>> {
        let mut all = self.paused.lock();
        let at = all.iter().position(|paused| paused.file.validator() == wanted)?;
        let Paused { file, waiting, .. } = all.remove(at)?;
        let paused = Paused { file: Arc::clone(&file), waiting: waiting.saturating_sub(1), used: Instant::now() };
        all.push_back(paused);
        Some(file)
    }

    /// The number of files that are held for transfers that stopped before their end.
    pub(crate) fn paused(&self) -> usize {
        self.paused.lock().len()
    }

    /// Lets go of files of which no transfer stopped or went on since `limit`.
    pub(crate) fn forget_paused(&self, limit: Instant) {
        self.paused.lock().retain(|paused| paused.used >= limit);
    }

    /// Gives the proxy the means to see for itself whether a file is unchanged. Left out where that cannot be, or where
    /// the proxy has not taken in what it was given before: it can do without.
    pub(crate) fn give_probe(&self, generation: u32, key: &[u8], file: &OpenFile) {
        if self.socket.has_unread() {
            return;
        }
        if let Some(place) = file.place() {
            let path = place.as_os_str().as_bytes();
            let _ = self.socket.send(&Probe { generation, key, path }.encode(), None);
        }
    }

    /// Counts a request in. True if the socket is to be armed again at once: fewer than `cap` requests are being
    /// served.
    pub(crate) fn begin_turn(&self, cap: usize) -> bool {
        self.turns.lock().begin(cap)
    }

    /// Counts a request out. True if the socket is to be armed again now. The cap may have shrunk since the request
    /// began, as other sessions came.
    pub(crate) fn end_turn(&self, cap: usize) -> bool {
        self.turns.lock().end(cap)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Ends the session: no more requests, and workers that wait for this proxy stop waiting. True for the first
    /// caller.
    pub(crate) fn end(&self) -> bool {
        if self.ended.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.socket.shut_down();
        for (segment, leased) in self.leased.iter().enumerate() {
            if leased.load(Ordering::Acquire) {
                ring::wake_producer(self.arena.control(segment as u16));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Turns;

    #[test]
    fn a_session_asks_again_below_its_cap_alone() {
        let mut turns = Turns { serving: 0, armed: true };
        assert!(turns.begin(3) && turns.begin(3));
        assert!(!turns.begin(3), "three of three are being served");
        // Another session comes, and the cap is 2.
        assert!(!turns.end(2), "two of two are being served");
        assert!(turns.end(2));
        assert!(!turns.end(2), "armed already");
        // The last one out arms in any case.
        assert!(!turns.begin(1));
        assert!(turns.end(1));
    }
}
