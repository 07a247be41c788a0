//! The permits to stream. Where segments are small, long transfers take turns, each with a whole ring of segments. If
//! all went on at once, each with one segment, both sides would sleep and wake for every chunk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

#[derive(Debug)]
pub(crate) struct FairSemaphore {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The permits that are left.
    free: usize,
    queue: VecDeque<Arc<Waiter>>,
    closed: bool,
}

/// One thread's place in the queue. Notified with the gate's lock held, after it has left the queue.
#[derive(Debug, Default)]
struct Waiter(Condvar);

/// The right to stream, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit<'g>(&'g FairSemaphore);

impl FairSemaphore {
    /// Lets `most` through at a time.
    pub(crate) fn new(most: usize) -> Self {
        Self { state: Mutex::new(State { free: most, queue: VecDeque::new(), closed: false }) }
    }

    /// A pass, unless somebody would have to wait.
    pub(crate) fn try_permit(&self) -> Option<Permit<'_>> {
        let mut state = self.state.lock();
        state.free = state.free.checked_sub(1)?;
        Some(Permit(self))
    }

    /// A pass, after everybody who asked before; None if there is none until the deadline, or the gate is closed.
    pub(crate) fn permit(&self, deadline: Instant) -> Option<Permit<'_>> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        if let Some(left) = state.free.checked_sub(1) {
            state.free = left;
            return Some(Permit(self));
        }
        let waiter = Arc::new(Waiter::default());
        state.queue.push_back(Arc::clone(&waiter));
        loop {
            let late = waiter.0.wait_until(&mut state, deadline).timed_out();
            // The thread that gave a permit up has handed it to the first in the queue, and taken that one out.
            let Some(place) = state.queue.iter().position(|other| Arc::ptr_eq(other, &waiter)) else {
                return Some(Permit(self));
            };
            if late || state.closed {
                state.queue.remove(place);
                return None;
            }
        }
    }

    /// How many wait for a pass.
    pub(crate) fn waiters(&self) -> u32 {
        self.state.lock().queue.len() as u32
    }

    /// Sends all who wait away, and all who come.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for waiter in &state.queue {
            waiter.0.notify_one();
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        match state.queue.pop_front() {
            Some(waiter) => {
                waiter.0.notify_one();
            }
            None => state.free += 1,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn until_waiting(semaphore: &FairSemaphore, count: u32) {
        while semaphore.waiters() < count {
            thread::yield_now();
        }
    }

    #[test]
    fn passes_go_round_in_the_order_of_asking() {
        let semaphore = FairSemaphore::new(1);
        let order = Mutex::new(Vec::new());
        let first = semaphore.permit(far()).expect("nobody streams");
        assert!(semaphore.try_permit().is_none());
        assert_eq!(semaphore.waiters(), 0);
        thread::scope(|scope| {
            for number in 0..3 {
                let (semaphore, order) = (&semaphore, &order);
                scope.spawn(move || {
                    let _pass = semaphore.permit(far()).expect("in time");
                    order.lock().push(number);
                });
                until_waiting(semaphore, number + 1);
            }
            assert_eq!(semaphore.waiters(), 3);
            drop(first);
        });
        assert_eq!(*order.lock(), [0, 1, 2]);
        assert!(semaphore.try_permit().is_some(), "all gave theirs back");
    }

    #[test]
    fn who_gives_up_leaves_the_queue_and_a_closed_gate_lets_nobody_wait() {
        let semaphore = FairSemaphore::new(1);
        let first = semaphore.permit(far()).expect("nobody streams");
        assert!(semaphore.permit(soon()).is_none());
        assert_eq!(semaphore.waiters(), 0);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| semaphore.permit(far()).is_none());
            until_waiting(&semaphore, 1);
            semaphore.close();
            assert!(waiting.join().expect("no panic"));
        });
        drop(first);
        assert!(semaphore.permit(far()).is_none());
    }
}
