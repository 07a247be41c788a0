//! What a server counts, for people who watch it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Shared;
use crate::memory::layout::Kind;

/// Counters of a server and what it is doing now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerStats {
    /// Requests that ended with the end of their file.
    pub served: u64,
    /// Requests for what the store does not have.
    pub not_found: u64,
    /// Requests for what the store has and cannot read.
    pub failed: u64,
    /// Requests for a file that changed meanwhile.
    pub changed: u64,
    /// Requests that the proxy gave up, or broke off to go on later.
    pub cancelled: u64,
    /// Times that a transfer was paused: its proxy released no segment, others wanted their turn, or its segments stay
    /// full.
    pub pauses: u64,
    /// Requests to go on with a transfer.
    pub resumes: u64,
    /// Bytes of files that were put into shared memory.
    pub bytes: u64,
    /// Requests for a file that the proxy's segment still held: those of `served` for which nothing was read.
    pub confirmed: u64,
    /// Sessions so far.
    pub sessions: u64,
    /// Sessions that were ended because the proxy broke the protocol.
    pub dropped: u64,
    /// Sessions now.
    pub peers: usize,
    /// Files that are held for transfers that were paused, now.
    pub paused: usize,
    /// Worker threads.
    pub threads: usize,
    /// Worker threads that wait for a request now.
    pub idle: usize,
}

/// The counters, each touched once a request at most.
#[derive(Debug, Default)]
pub(super) struct Counters {
    served: AtomicU64,
    not_found: AtomicU64,
    failed: AtomicU64,
    changed: AtomicU64,
    cancelled: AtomicU64,
    pauses: AtomicU64,
    resumes: AtomicU64,
    bytes: AtomicU64,
    confirmed: AtomicU64,
    sessions: AtomicU64,
    dropped: AtomicU64,
}

impl Counters {
    /// A stream ended with `kind`.
    pub(super) fn end(&self, kind: Kind) {
        let counter = match kind {
            Kind::Data => return,
            Kind::End => &self.served,
            Kind::Paused => &self.pauses,
            Kind::NotFound => &self.not_found,
            Kind::Failed => &self.failed,
            Kind::Changed => &self.changed,
            Kind::Cancelled => &self.cancelled,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn resume(&self) {
        self.resumes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn confirm(&self) {
        self.confirmed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn session(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn stats(&self) -> ServerStats {
        let counters = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sessions = self.sessions.read();
        ServerStats {
            served: read(&counters.served),
            not_found: read(&counters.not_found),
            failed: read(&counters.failed),
            changed: read(&counters.changed),
            cancelled: read(&counters.cancelled),
            pauses: read(&counters.pauses),
            resumes: read(&counters.resumes),
            bytes: read(&counters.bytes),
            confirmed: read(&counters.confirmed),
            sessions: read(&counters.sessions),
            dropped: read(&counters.dropped),
            peers: sessions.len(),
            paused: sessions.values().map(|session| session.paused()).sum(),
            threads: self.threads,
            idle: self.idle.load(Ordering::Relaxed),
        }
    }
}
