//! The requests in flight, and what is done with them at the end.

use std::time::{Duration, Instant};

use log::warn;
use parking_lot::{Condvar, Mutex};

use super::unacked;

#[derive(Debug, Default)]
pub(super) struct Drain {
    state: Mutex<State>,
    settled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    in_flight: usize,
    refusing: bool,
}

/// A request that [`Drain::drain`] waits for, until it is dropped.
pub(super) struct InFlight<'f>(&'f Drain);

impl Drain {
    /// Counts a request in, unless requests are refused.
    pub(super) fn enter(&self) -> Option<InFlight<'_>> {
        let mut state = self.state.lock();
        if state.refusing {
            return None;
        }
        state.in_flight += 1;
        Some(InFlight(self))
    }

    pub(super) fn in_flight(&self) -> usize {
        self.state.lock().in_flight
    }

    /// Refuses requests from now on.
    pub(super) fn refuse(&self) {
        self.state.lock().refusing = true;
    }

    /// Waits for the requests in flight, for `limit` at most. True if none is left.
    pub(super) fn settle(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let Some(mut state) = self.state.try_lock_until(deadline) else { return false };
        while state.in_flight > 0 && !self.settled.wait_until(&mut state, deadline).timed_out() {}
        state.in_flight == 0
    }

    /// Refuses requests from now on and waits for three things in turn: the requests in flight, requests to the origin
    /// whose last reader has left, and the acknowledgement of what was sent to clients. `drain_origins` waits for the
    /// second and returns how many are left at the deadline. At the end of `limit` this returns how many are left of
    /// the first of these that is not done; 0 if all is done.
    pub(super) fn drain(&self, limit: Duration, drain_origins: impl FnOnce(Instant) -> usize) -> usize {
        let deadline = Instant::now() + limit;
        let in_flight = {
            let mut state = self.state.lock();
            state.refusing = true;
            while state.in_flight > 0 && !self.settled.wait_until(&mut state, deadline).timed_out() {}
            state.in_flight
        };
        if in_flight > 0 {
            warn!("transfers cut short after {} ms: {in_flight}", limit.as_millis());
            return in_flight;
        }
        let fetches = drain_origins(deadline);
        if fetches > 0 {
            warn!("requests to the origin given up after {} ms: {fetches}", limit.as_millis());
            return fetches;
        }
        // The kernel resets a connection on which a client sends something after the end of the process, or whose last
        // bytes from the client were not read: what is still to be sent is lost then.
        let unacked = unacked::wait(deadline);
        if unacked > 0 {
            warn!("answers that had not arrived after {} ms: {unacked}", limit.as_millis());
        }
        unacked
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.in_flight -= 1;
        if state.refusing && state.in_flight == 0 {
            self.0.settled.notify_all();
        }
    }
}
