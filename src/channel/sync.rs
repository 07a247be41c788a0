//! The atomics and the futex of the ring, which a loom model replaces by its own.

#[cfg(not(loom))]
pub(crate) use crate::sys::futex;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A futex in loom's world: loom explores every order of its lock and its condition variable. One condition variable
/// serves all words, so wakes are more than a kernel's would be, never fewer: waiters must recheck either way. A timeout
/// never fires, so that a lost wake shows as a deadlock.
#[cfg(loom)]
pub(crate) mod futex {
    use super::{AtomicU32, Ordering};
    use std::time::Duration;

    loom::lazy_static! {
        static ref QUEUE: (loom::sync::Mutex<()>, loom::sync::Condvar) =
            (loom::sync::Mutex::new(()), loom::sync::Condvar::new());
    }

    pub(crate) fn wait(word: &AtomicU32, expected: u32, _timeout: Duration) {
        let guard = QUEUE.0.lock().unwrap();
        if word.load(Ordering::SeqCst) == expected {
            drop(QUEUE.1.wait(guard).unwrap());
        }
    }

    pub(crate) fn wake(_word: &AtomicU32) {
        let _guard = QUEUE.0.lock().unwrap();
        QUEUE.1.notify_all();
    }
}
