//! What ring and pool are synchronised with, which a loom model replaces by its own.

#[cfg(not(loom))]
pub(crate) use crate::memory::futex;
#[cfg(not(loom))]
pub(crate) use parking_lot::{Condvar, Mutex};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
#[cfg(all(test, loom))]
pub(crate) use self::model::let_time_pass;
#[cfg(loom)]
pub(crate) use self::model::{Condvar, Mutex, futex};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
mod model {
    use std::ops::{Deref, DerefMut};
    use std::time::{Duration, Instant};

    /// A wait that may take longer has no end in a model, so that a lost wake shows as a deadlock. A shorter one ends
    /// when time passes.
    const PATIENCE: Duration = Duration::from_secs(1);

    loom::lazy_static! {
        static ref CLOCK: loom::sync::Condvar = loom::sync::Condvar::new();
    }

    /// Ends the short waits that have begun under a lock that the caller holds.
    pub(crate) fn let_time_pass() {
        CLOCK.notify_all();
    }

    /// A futex in loom's world: loom explores every order of its lock and its condition variable. One condition
    /// variable serves all words, so wakes are more than a kernel's would be, never fewer: waiters must recheck either
    /// way. It never times out.
    pub(crate) mod futex {
        use std::time::Duration;

        use loom::sync::atomic::{AtomicU32, Ordering};

        loom::lazy_static! {
            static ref QUEUE: (loom::sync::Mutex<()>, loom::sync::Condvar) =
                (loom::sync::Mutex::new(()), loom::sync::Condvar::new());
        }

        /// To be called before a model's threads begin: who makes the queue first must not order them.
        pub(crate) fn set_up() {
            let _ = (&*QUEUE, &*super::CLOCK);
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

    /// parking_lot's Mutex.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    /// Empty only inside of [`Condvar::wait_until`].
    pub(crate) struct MutexGuard<'m, T>(Option<loom::sync::MutexGuard<'m, T>>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap()))
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().unwrap()
        }
    }

    /// parking_lot's Condvar.
    #[derive(Debug, Default)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) {
            let held = guard.0.take().unwrap();
            let is_short = until.saturating_duration_since(Instant::now()) < PATIENCE;
            let awaited = if is_short { &*CLOCK } else { &self.0 };
            guard.0 = Some(awaited.wait(held).unwrap());
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
            // Whose wait is short wakes for others, too, as it may.
            CLOCK.notify_all();
        }
    }
}
