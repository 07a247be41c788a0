//! A worker thread: accepts, reads, and calls the handler. Connections that wait for a client go to the epoll.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::EpollTimeout;

use super::answer::ERROR_HEADER;
use super::core::{Core, Event, Presence};
use super::idle::{Connection, Wait};
use super::request::{self, MAX_LINE, Malformed};
use super::slot::Ending;
use crate::contexts::Context;
use crate::net;
use base::process;

/// The most connections that a worker accepts before it looks for other events again.
const BURST: usize = 16;
/// The most answered connections that a worker keeps. Most of their clients hang up before they need to be parked.
const MAX_ANSWERED: usize = 4;
/// How long an idle worker keeps them, in milliseconds.
const ANSWERED_PATIENCE: u8 = 20;
/// The most bytes behind a request that are thrown away at a time.
const DISCARD: usize = 1024;

pub(super) struct Worker {
    core: Arc<Core>,
    index: usize,
    context: Context,
    /// A request as it arrives.
    buffer: Box<[u8; MAX_LINE]>,
    /// Answered connections that are not parked yet.
    answered: Vec<Connection>,
}

impl Worker {
    pub(super) fn new(core: Arc<Core>, index: usize, context: Context) -> Self {
        Self { core, index, context, buffer: Box::new([0; MAX_LINE]), answered: Vec::with_capacity(MAX_ANSWERED + 1) }
    }

    pub(super) fn run(mut self) {
        let core = Arc::clone(&self.core);
        let _presence = Presence::new(&core);
        self.context.adopt();
        core.slots[self.index].calls().adopt();
        while self.turn() {}
        for connection in self.answered.drain(..) {
            core.park(connection);
        }
    }

    /// Waits for one event and does what it asks for. False at the end of the server.
    fn turn(&mut self) -> bool {
        if self.core.worker_limit.goes_off_duty() {
            self.reap_answered(0);
            self.core.worker_limit.rest();
        }
        let patience =
            if self.answered.is_empty() { EpollTimeout::NONE } else { EpollTimeout::from(ANSWERED_PATIENCE) };
        match self.core.wait(patience) {
            Event::Connections => {
                let connection = self.core.accept();
                self.core.rearm_listener();
                if let Some(connection) = connection {
                    self.read(connection);
                    self.accept_more();
                }
            }
            Event::Idle(place) => {
                if let Some(connection) = self.core.take(place) {
                    self.attend(connection);
                }
            }
            Event::Nothing => self.reap_answered(0),
            Event::End => return false,
        }
        true
    }

    /// Serves connections that have come meanwhile, without the way through the epoll.
    fn accept_more(&mut self) {
        for _ in 1..BURST {
            let Some(connection) = self.core.accept() else { return };
            self.read(connection);
        }
    }

    fn attend(&mut self, connection: Connection) {
        match connection.wait {
            Wait::Request(_) => self.read(connection),
            Wait::HangUp => {
                if let Some(connection) = unless_hung_up(connection) {
                    self.core.park(connection);
                }
            }
        }
    }

    /// Reads what has arrived of a request, and serves it if that is all.
    fn read(&mut self, mut connection: Connection) {
        let Wait::Request(received) = &mut connection.wait else { return };
        let had = received.len();
        self.buffer[..had].copy_from_slice(received);
        let count = match net::receive(&connection.socket, &mut self.buffer[had..]) {
            Ok(count) => count,
            Err(Errno::EAGAIN) => return self.core.park(connection),
            Err(_) => return,
        };
        let have = had + count;
        if let Some(end) = self.buffer[had..have].iter().position(|byte| *byte == b'\n') {
            self.serve(connection, had + end + 1);
        } else if count == 0 {
            // A connection without a single byte is a probe, and nobody waits for an answer.
            if had > 0 {
                self.refuse(connection, Malformed::Unfinished);
            }
        } else if have == MAX_LINE {
            self.refuse(connection, Malformed::TooLong);
        } else {
            received.extend_from_slice(&self.buffer[had..have]);
            net::confirm(&connection.socket);
            self.core.park(connection);
        }
    }

    /// Answers the request line of `len` bytes in the buffer.
    fn serve(&mut self, connection: Connection, len: usize) {
        let line = &mut self.buffer[..len];
        let words = match request::parse(line) {
            Ok(words) => words,
            Err(fault) => return self.refuse(connection, fault),
        };
        let slot = &self.core.slots[self.index];
        slot.take_up(&connection.socket);
        self.core.enter_handler(slot);
        let called = self.context.call(&connection.socket, line, &words);
        if self.core.is_inherited() {
            // A child that its handler made. It must not go on as a worker: the connections are its parent's.
            process::end_at_once("gfserver: a child process returned from its handler: it ends");
        }
        self.core.leave_handler(slot);
        match slot.leave(&called) {
            Ending::Complete => self.finish(connection),
            Ending::Error => self.answer_error(connection),
            Ending::Cut => net::cut(connection.socket.as_raw_fd()),
        }
    }

    fn refuse(&mut self, connection: Connection, fault: Malformed) {
        self.core.complain_of_request(&connection, fault);
        self.answer_error(connection);
    }

    fn answer_error(&mut self, connection: Connection) {
        net::send_note(&connection.socket, ERROR_HEADER);
        self.finish(connection);
    }

    /// The answer is sent. A close now, with bytes of the client unread or on their way, would make the kernel send a
    /// reset, which can destroy the answer. So the server sends its FIN, and the client hangs up first.
    fn finish(&mut self, mut connection: Connection) {
        net::half_close(&connection.socket);
        connection.linger();
        self.answered.push(connection);
        if self.answered.len() > MAX_ANSWERED {
            self.reap_answered(MAX_ANSWERED);
        }
    }

    /// Closes the answered connections whose clients have hung up. Of the others, parks the oldest until `keep` are
    /// left.
    fn reap_answered(&mut self, keep: usize) {
        let waiting: Vec<Connection> = self.answered.drain(..).filter_map(unless_hung_up).collect();
        let surplus = waiting.len().saturating_sub(keep);
        for (index, connection) in waiting.into_iter().enumerate() {
            if index < surplus { self.core.park(connection) } else { self.answered.push(connection) }
        }
    }
}

/// The connection, unless its client has hung up. Throws away what the client has sent behind its request.
pub(super) fn unless_hung_up(connection: Connection) -> Option<Connection> {
    match net::receive(&connection.socket, &mut [0; DISCARD]) {
        Ok(0) => None,
        Ok(_) | Err(Errno::EAGAIN) => Some(connection),
        Err(_) => None,
    }
}
