//! What the threads of a serving instance share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;

use super::idle::{Connection, IdleConnections};
use super::request::Malformed;
use super::slot::WorkerSlot;
use super::worker_limit::WorkerLimit;
use crate::net::{self, Listener};
use base::Limiter;
use base::fork::{Private, generation};

/// The epoll's names for its descriptors: these two, and FIRST_PLACE plus the place of a parked connection.
const LISTENER: u64 = 0;
const END: u64 = 1;
const FIRST_PLACE: u64 = 2;

/// What a worker found to do.
pub(super) enum Event {
    /// There are connections to accept. This worker alone knows, until it calls [`Core::rearm_listener`].
    Connections,
    /// Something happened on the connection parked at this place.
    Idle(usize),
    /// Nothing within the time given.
    Nothing,
    /// The server ends.
    End,
}

pub(super) struct Core {
    listener: Listener,
    /// That of the process that serves.
    generation: u64,
    epoll: Private<Epoll>,
    pub(super) worker_limit: WorkerLimit,
    /// Readable from the end on: every worker sees it.
    end_bell: Private<EventFd>,
    /// Wakes the maintenance loop.
    pub(super) maintenance_bell: Private<EventFd>,
    pub(super) idle: Mutex<Idle>,
    /// The most connections that may be parked. The rest of the descriptors is for the program.
    ceiling: usize,
    pub(super) slots: Arc<[WorkerSlot]>,
    ending: AtomicBool,
    /// When the end cuts the connections that still are served. Never, where it has no limit.
    pub(super) end_limit: Mutex<Option<Instant>>,
    /// Descriptors have run out and nothing could be closed: the maintenance loop resumes accepting.
    pub(super) accept_paused: AtomicBool,
    /// The workers that have not left yet.
    pub(super) workers: AtomicUsize,
    /// Log lines about bad clients: one a second for all of them.
    complaints: Limiter<()>,
}

#[derive(Default)]
pub(super) struct Idle {
    pub(super) connections: IdleConnections,
    /// When the maintenance loop wakes by itself.
    pub(super) wake_at: Option<Instant>,
}

impl Core {
    pub(super) fn new(listener: Listener, slots: Arc<[WorkerSlot]>) -> nix::Result<Self> {
        let epoll = Private::epoll()?;
        let end_bell = Private::event()?;
        epoll.add(&listener, listener_event())?;
        epoll.add(&*end_bell, EpollEvent::new(EpollFlags::EPOLLIN, END))?;
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        Ok(Self {
            listener,
            generation: generation(),
            epoll,
            worker_limit: WorkerLimit::new(slots.len()),
            end_bell,
            maintenance_bell: Private::event()?,
            idle: Mutex::default(),
            ceiling: ceiling(usize::try_from(descriptors).unwrap_or(usize::MAX), slots.len()),
            slots,
            ending: AtomicBool::new(false),
            end_limit: Mutex::new(None),
            accept_paused: AtomicBool::new(false),
            workers: AtomicUsize::new(0),
            complaints: Limiter::new(module_path!(), 1),
        })
    }

    /// Whether this is a child of fork(2) of the process that serves: it has none of the threads.
    pub(super) fn is_inherited(&self) -> bool {
        self.generation != generation()
    }

    /// Waits for something to do. Each event goes to one worker.
    pub(super) fn wait(&self, timeout: EpollTimeout) -> Event {
        let mut events = [EpollEvent::empty()];
        match self.epoll.wait(&mut events, timeout) {
            _ if self.is_ending() => Event::End,
            Ok(0) | Err(Errno::EINTR) => Event::Nothing,
            Ok(_) => match events[0].data() {
                LISTENER => Event::Connections,
                END => Event::End,
                place => Event::Idle((place - FIRST_PLACE) as usize),
            },
            Err(e) => {
                log::error!("gfserver: epoll_wait: {e}");
                self.begin_end();
                Event::End
            }
        }
    }

    /// The next connection, if one waits.
    pub(super) fn accept(&self) -> Option<Connection> {
        loop {
            match self.listener.accept() {
                Ok(socket) => return Some(Connection::new(socket)),
                Err(Errno::EAGAIN) => return None,
                Err(e @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                    // accept(2) wants a descriptor before it looks whether a connection waits.
                    if !self.listener.is_ready() {
                        return None;
                    }
                    if !self.shed(e) {
                        self.accept_paused.store(true, Ordering::Release);
                        self.ring_maintenance();
                        return None;
                    }
                }
                // The program has shut its listening socket down: that is how a main which must do with any gfserver
                // refuses new clients.
                Err(Errno::EINVAL | Errno::EBADF | Errno::ENOTSOCK | Errno::EOPNOTSUPP) => {
                    self.begin_end();
                    return None;
                }
                // The failure of one connection (ECONNABORTED and the network's errors, see accept(2)).
                Err(_) => {}
            }
        }
    }

    /// Lets the next connection wake a worker. The worker that got [`Event::Connections`] calls it before anything that
    /// may take long. So connections behind the first one find a free worker.
    pub(super) fn rearm_listener(&self) {
        if !self.is_ending() && !self.accept_paused.load(Ordering::Acquire) {
            let result = self.epoll.modify(&self.listener, &mut listener_event());
            debug_assert_eq!(result, Ok(()));
        }
    }

    /// The worker of `slot` enters its handler.
    pub(super) fn enter_handler(&self, slot: &WorkerSlot) {
        if self.worker_limit.enter_call(slot.calls()) {
            self.ring_maintenance();
        }
    }

    /// The worker of `slot` has left its handler.
    pub(super) fn leave_handler(&self, slot: &WorkerSlot) {
        self.worker_limit.leave_call(slot.calls());
    }

    /// Parks a connection until something happens on it or its deadline passes.
    pub(super) fn park(&self, connection: Connection) {
        let mut shed = None;
        let mut idle = self.idle.lock();
        if idle.connections.len() >= self.ceiling {
            shed = idle.connections.take_oldest(net::has_bytes).or_else(|| idle.connections.take_oldest(|_| false));
        }
        // Under the lock: from the moment the socket is armed another worker may take the connection out.
        let result = idle.connections.park(connection, |connection, place| {
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLONESHOT;
            let mut event = EpollEvent::new(flags, place as u64 + FIRST_PLACE);
            if connection.registered {
                return self.epoll.modify(&connection.socket, &mut event);
            }
            connection.registered = true;
            self.epoll.add(&connection.socket, event)
        });
        let deadline = result.ok();
        let early = deadline.is_some_and(|deadline| idle.wake_at.is_none_or(|wake_at| deadline < wake_at));
        if early {
            idle.wake_at = deadline;
        }
        drop(idle);
        if early {
            self.ring_maintenance();
        }
        if shed.is_some() {
            self.complain_of_crowd("as many connections wait as there are descriptors for");
        }
    }

    /// The connection parked at a place, unless another thread was faster.
    pub(super) fn take(&self, place: usize) -> Option<Connection> {
        self.idle.lock().connections.take(place)
    }

    /// Closes the parked connection that has been idle longest. False where none is idle: then others are about to be
    /// served, and closed.
    fn shed(&self, cause: Errno) -> bool {
        let oldest = self.idle.lock().connections.take_oldest(net::has_bytes);
        match oldest {
            Some(_) => self.complain_of_crowd(cause.desc()),
            None => self.complaints.warn((), format_args!("gfserver: {}: new connections wait", cause.desc())),
        }
        oldest.is_some()
    }

    fn complain_of_crowd(&self, cause: &str) {
        self.complaints.warn((), format_args!("gfserver: {cause}: closing the connection that is idle longest"));
    }

    /// Logs a request that no handler answers.
    pub(super) fn complain_of_request(&self, connection: &Connection, fault: Malformed) {
        let peer = net::peer(&connection.socket);
        let peer = peer.map_or_else(|| "a client that left".into(), |peer| peer.to_string());
        self.complaints.warn((), format_args!("gfserver: malformed request from {peer}: {fault}"));
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Refuses new work and tells everybody.
    pub(super) fn begin_end(&self) {
        if !self.ending.swap(true, Ordering::AcqRel) {
            self.listener.refuse();
            ring(&self.end_bell);
            self.worker_limit.end_rest();
            self.ring_maintenance();
        }
    }

    /// Gives the end a limit. A program that only shuts its listening socket down sets none: it ends the rest when it
    /// sees fit.
    pub(super) fn limit_end(&self, limit: Instant) {
        *self.end_limit.lock() = Some(limit);
        self.ring_maintenance();
    }

    pub(super) fn ring_maintenance(&self) {
        ring(&self.maintenance_bell);
    }
}

/// One worker's presence: the end waits for all to leave, however they leave.
pub(super) struct Presence<'a>(&'a Core);

impl<'a> Presence<'a> {
    pub(super) fn new(core: &'a Core) -> Self {
        Self(core)
    }
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.workers.fetch_sub(1, Ordering::AcqRel);
        self.0.ring_maintenance();
    }
}

/// One-shot, so that one worker at a time goes to accept.
fn listener_event() -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, LISTENER)
}

/// An eventfd's counter is full only where nobody has read 2^64 - 2 rings: then it is readable already.
fn ring(bell: &EventFd) {
    let _ = bell.write(1);
}

/// How many connections may be parked where a process may have `descriptors`. The others are left free for handlers and
/// for the program: 16 for each worker and 128, but never more than half.
fn ceiling(descriptors: usize, workers: usize) -> usize {
    descriptors - (128 + 16 * workers).min(descriptors / 2)
}

#[cfg(test)]
mod tests {
    use super::ceiling;

    #[test]
    fn handlers_keep_descriptors_under_any_limit() {
        assert_eq!(ceiling(1024, 8), 1024 - 128 - 128);
        assert_eq!(ceiling(64, 200), 32);
        assert_eq!(ceiling(0, 1), 0);
        assert_eq!(ceiling(usize::MAX, 1), usize::MAX - 144);
    }
}
