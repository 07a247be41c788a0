//! A peer's socket and what comes through it, closed where nobody waits: the last close of a descriptor that a peer sent
//! takes as long as the peer likes (a TCP socket with SO_LINGER, a file of a file system of his), and closing a socket
//! closes those that were never received.

use std::mem;
use std::ops::Deref;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::sys::process;
use crate::sys::seqpacket::SeqPacket;

/// At most so many threads close at a time. While all of them are held up, what is to be closed stays open.
const MOST: usize = 64;

#[derive(Default)]
struct State {
    /// What is to be closed.
    left: Vec<Box<dyn Send>>,
    closing: usize,
    threads: Vec<JoinHandle<()>>,
}

/// Threads that close, each made for what there is to close just now.
#[derive(Default)]
pub(super) struct Closers {
    state: Mutex<State>,
    done: Condvar,
}

impl Closers {
    /// Drops `what` on another thread, which gets none of this one's time.
    pub(super) fn drop(self: &Arc<Self>, what: impl Send + 'static) {
        let mut state = self.state.lock();
        state.left.push(Box::new(what));
        state.threads.retain(|thread| !thread.is_finished());
        if state.closing < MOST {
            let closers = Arc::clone(self);
            // Where there is no thread to be had, the next one closes this, too.
            if let Ok(thread) = process::spawn("closer", move || closers.close()) {
                state.closing += 1;
                state.threads.push(thread);
            }
        }
    }

    fn close(&self) {
        let mut state = self.state.lock();
        while let Some(what) = state.left.pop() {
            drop(state);
            drop(what);
            state = self.state.lock();
        }
        state.closing -= 1;
        self.done.notify_all();
    }

    /// Waits until all is closed, but no longer than `limit`.
    pub(super) fn finish(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        while state.closing > 0 && !self.done.wait_until(&mut state, deadline).timed_out() {}
        if state.closing == 0 {
            let threads = mem::take(&mut state.threads);
            drop(state);
            for thread in threads {
                // A thread that panicked has printed why.
                let _ = thread.join();
            }
        }
    }
}

/// The socket of a peer.
pub(super) struct Peer {
    /// There until it is dropped.
    socket: Option<SeqPacket>,
    closers: Arc<Closers>,
}

impl Peer {
    pub(super) fn new(socket: SeqPacket, closers: Arc<Closers>) -> Self {
        Self { socket: Some(socket), closers }
    }

    /// Drops what came through the socket and is not wanted, as the socket itself.
    pub(super) fn discard(&self, what: impl Send + 'static) {
        self.closers.drop(what);
    }
}

impl Deref for Peer {
    type Target = SeqPacket;

    fn deref(&self) -> &SeqPacket {
        self.socket.as_ref().expect("a socket until it is dropped")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.closers.drop(self.socket.take());
    }
}
