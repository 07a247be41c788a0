//! Deadlines and the end, on the thread that called `gfserver_serve`. It sleeps until a deadline or a ring.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeSpec;

use super::answer::ERROR_HEADER;
use super::core::Core;
use super::idle::{Connection, Wait};
use super::request::Malformed;
use super::slot::WorkerSlot;
use super::worker::unless_hung_up;
use super::worker_limit::{Watch, idle_time};
use crate::net;

/// How soon accepting is tried again after descriptors ran out with nothing to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Core {
    /// Keeps the deadlines until the end begins. `signals` is the mask that the calling thread had: its signals are
    /// taken while it sleeps, when it holds no lock, so that a handler may call `gfserver_stop`.
    pub(super) fn maintain(&self, signals: SigSet) {
        let mut resume_at = None;
        let mut watch = Watch::default();
        while !self.is_ending() && !self.is_inherited() {
            let now = Instant::now();
            self.expire(now);
            if resume_at.is_some_and(|resume_at| resume_at <= now) {
                resume_at = None;
                self.accept_paused.store(false, Ordering::Release);
                self.rearm_listener();
            } else if self.accept_paused.load(Ordering::Acquire) {
                resume_at = resume_at.or(Some(now + ACCEPT_PAUSE));
            }
            let tick_at = self.worker_limit.watch(&mut watch, self.slots.iter().map(WorkerSlot::calls), idle_time, now);
            let wake_at = {
                let mut idle = self.idle.lock();
                idle.wake_at = idle.connections.next_deadline();
                idle.wake_at
            };
            self.sleep([wake_at, resume_at, tick_at].into_iter().flatten().min(), signals);
        }
    }

    /// Closes the connections whose time is up.
    fn expire(&self, now: Instant) {
        // One at a time: the workers need the lock, and closing a socket is a system call.
        while let Some(connection) = self.next_expired(now) {
            self.give_up(&connection);
        }
    }

    fn next_expired(&self, now: Instant) -> Option<Connection> {
        self.idle.lock().connections.take_expired(now)
    }

    fn give_up(&self, connection: &Connection) {
        if matches!(&connection.wait, Wait::Request(received) if !received.is_empty()) {
            self.complain_of_request(connection, Malformed::TooSlow);
            net::send_note(&connection.socket, ERROR_HEADER);
        }
    }

    /// Waits for the workers to leave. Past the limit of [`Self::limit_end`], if one was set, connections that still
    /// are served are cut. Then gives clients with an answer the time to hang up.
    pub(super) fn end(&self, signals: SigSet) {
        while self.drop_unanswered() {}
        while self.workers.load(Ordering::Acquire) > 0 {
            let limit = *self.end_limit.lock();
            self.sleep(limit, signals);
            if limit.is_some_and(|limit| limit <= Instant::now()) {
                *self.end_limit.lock() = None;
                let cut = self.slots.iter().filter(|slot| slot.cut_current()).count();
                if cut > 0 {
                    log::warn!("gfserver: cut {cut} transfers short to stop in time");
                }
            }
        }
        while self.drop_unanswered() {}
        self.linger_out(signals);
    }

    fn drop_unanswered(&self) -> bool {
        self.idle.lock().connections.take_unanswered().is_some()
    }

    /// Closes the answered connections as their clients hang up, or as their deadlines pass.
    fn linger_out(&self, signals: SigSet) {
        let mut answered = self.idle.lock().connections.take_all();
        while let Some(deadline) = answered.iter().filter_map(|connection| connection.deadline).min() {
            let mut sockets: Vec<PollFd<'_>> =
                answered.iter().map(|connection| PollFd::new(connection.socket.as_fd(), PollFlags::POLLIN)).collect();
            let _ = ppoll(&mut sockets, Some(time_until(deadline)), Some(signals));
            let now = Instant::now();
            answered =
                answered.into_iter().filter_map(unless_hung_up).filter(|connection| !connection.is_late(now)).collect();
        }
    }

    /// Sleeps until `deadline`, if there is one, a ring of the maintenance bell or a signal.
    fn sleep(&self, deadline: Option<Instant>, signals: SigSet) {
        let timeout = deadline.map(time_until);
        let mut bell = [PollFd::new(self.maintenance_bell.as_fd(), PollFlags::POLLIN)];
        // A signal ends the sleep like a ring; the callers look again at what there is to do.
        let _ = ppoll(&mut bell, timeout, Some(signals));
        // EAGAIN: nobody rang.
        let _ = self.maintenance_bell.read();
    }
}

fn time_until(deadline: Instant) -> TimeSpec {
    TimeSpec::from(deadline.saturating_duration_since(Instant::now()))
}
