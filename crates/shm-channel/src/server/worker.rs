//! The workers. Each waits for requests of all sessions and serves one at a time, from its datagram to the end of its
//! stream. Requests wait in the kernel's queues: the worker that reads one serves it, without a hand-off.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::{debug, warn};
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use super::{STOP, Shared, session::Session};
use crate::memory::layout::Kind;
use crate::memory::ring::{Area, MAX_RUN_BYTES, Producer, Run, SMALL_SEGMENT, Violation};
use crate::protocol::wire::{Condition, Get, MAX_DATAGRAM};
use crate::store::{OpenFile, Store, StoreError};

/// How long a worker waits for a proxy that releases nothing before it pauses the transfer: while other workers are
/// idle, and while none is.
const CHUNK_WAIT: Duration = Duration::from_millis(5);
const CHUNK_WAIT_BUSY: Duration = Duration::from_millis(1);

/// The bytes and the time after which a transfer goes to the end of the line, while no worker is idle. Bytes alone
/// would let a proxy that releases one small chunk within each patience keep a worker for many seconds.
const TURN_BYTES: u64 = 8 << 20;
const TURN_TIME: Duration = Duration::from_millis(20);

/// A session's socket, for one event.
pub(super) const ARMED: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLONESHOT);

/// Serves until the server stops.
pub(super) fn run(shared: &Shared) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut events = [EpollEvent::empty()];
    loop {
        shared.idle.fetch_add(1, Ordering::Relaxed);
        let waited = shared.requests.wait(&mut events, EpollTimeout::NONE);
        shared.idle.fetch_sub(1, Ordering::Relaxed);
        match waited {
            Ok(_) if events[0].data() == STOP => return,
            Ok(_) => {
                // A session that ended meanwhile is gone from the table.
                if let Some(session) = shared.session(events[0].data()) {
                    let turn = catch_unwind(AssertUnwindSafe(|| take_turn(shared, &session, &mut buffer)));
                    // The panic hook has told where and why. The session's requests are asked again elsewhere.
                    if turn.is_err() {
                        shared.end_session(&session, Some("a worker panicked over its request"));
                    }
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => {
                warn!("epoll_wait: {errno}");
                return;
            }
        }
    }
}

/// Reads one request of a session and serves it.
fn take_turn(shared: &Shared, session: &Arc<Session>, buffer: &mut [u8]) {
    let received = match session.socket.receive(buffer) {
        Ok(received) if received.is_end() => return shared.end_session(session, None),
        Ok(received) => received,
        // Another worker was faster.
        Err(error) if error.kind() == ErrorKind::WouldBlock => return arm(shared, session),
        // It left without having read all that it was sent.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return shared.end_session(session, None),
        Err(error) => return shared.end_session(session, Some(&error.to_string())),
    };
    if session.begin_turn(shared.turns_per_session()) {
        arm(shared, session);
    }
    let served = if received.is_plain() {
        match Get::decode(&buffer[..received.len]) {
            Ok(get) => serve(shared, session, &get).map_err(|violation| violation.to_string()),
            Err(malformed) => Err(malformed.to_string()),
        }
    } else {
        Err("a request that is too long or brings descriptors".to_owned())
    };
    if let Err(reason) = served {
        shared.end_session(session, Some(&reason));
    }
    if session.end_turn(shared.turns_per_session()) {
        arm(shared, session);
    }
}

fn arm(shared: &Shared, session: &Session) {
    let mut event = EpollEvent::new(ARMED, session.id);
    // Fails only for a session that has ended and left the epoll set.
    let _ = shared.requests.modify(session.socket.as_fd(), &mut event);
}

/// What a transfer may take before it goes to the end of the line.
struct Turn {
    begun: Instant,
    offset: u64,
}

impl Turn {
    fn is_over(&self, at: u64, now: Instant) -> bool {
        at - self.offset >= TURN_BYTES || now.duration_since(self.begun) >= TURN_TIME
    }
}

/// One stream in the making.
struct SendStream<'s> {
    shared: &'s Shared,
    session: &'s Session,
    head: u16,
    producer: Producer<'s>,
}

/// Why a stream stops before its chunk is read.
enum Stop {
    /// Its end is published.
    Ended,
    /// Nobody is left to tell.
    SessionEnded,
    Violation(Violation),
}

fn serve(shared: &Shared, session: &Arc<Session>, get: &Get<'_>) -> Result<(), Violation> {
    if !session.stream(get.head) {
        return Err(Violation("a request for a segment that is none or in use"));
    }
    let producer = Producer::new(session.arena.control(get.head), get.head, get.sequence);
    let mut stream = SendStream { shared, session, head: get.head, producer };
    if stream.producer.cancelled() {
        stream.end(Kind::Cancelled);
        return Ok(());
    }
    // What keys lead to may be newer than this, never older.
    let generation = shared.store.generation();
    match stream.open(get) {
        Err(end) => {
            stream.end(end);
            Ok(())
        }
        Ok(file) => match stream.stream(&file, get, generation) {
            Ok(()) | Err(Stop::Ended) => Ok(()),
            Err(Stop::SessionEnded) => {
                session.end_stream_on(get.head);
                Ok(())
            }
            Err(Stop::Violation(violation)) => Err(violation),
        },
    }
}

/// Asks the store, which may be the program's own. A panic of its costs the request, not the session.
fn open_without_panic(store: &dyn Store, key: &[u8]) -> Result<Arc<OpenFile>, StoreError> {
    // The panic hook has told where and why.
    catch_unwind(AssertUnwindSafe(|| store.open(key)))
        .unwrap_or_else(|_| Err(StoreError::Failed("it panicked".to_owned())))
}

impl SendStream<'_> {
    /// The file that the request asks for, or how the stream ends without it.
    fn open(&self, get: &Get<'_>) -> Result<Arc<OpenFile>, Kind> {
        let begun = match get.condition {
            Condition::Resume(validator) => Some(validator),
            Condition::None | Condition::IfNoneMatch { .. } => None,
        };
        if begun.is_some() {
            self.shared.counters.resume();
        }
        if let Some(file) = begun.and_then(|wanted| self.session.paused_file(&wanted))
            && get.offset <= file.validator().len
        {
            return Ok(file);
        }
        let opened = open_without_panic(&*self.shared.store, get.key);
        // Before the answer, so that no client has a newer file with an older generation.
        self.shared.tell_generation();
        let file = opened.map_err(|error| {
            let key = String::from_utf8_lossy(get.key);
            debug!("session {}: {key:?}: {error}", self.session.id);
            match error {
                StoreError::NotFound => Kind::NotFound,
                StoreError::Failed(_) => Kind::Failed,
            }
        })?;
        let fits = begun.is_none_or(|wanted| wanted == *file.validator());
        if fits && get.offset <= file.validator().len { Ok(file) } else { Err(Kind::Changed) }
    }

    /// Publishes the file from the request's offset on, run by run.
    fn stream(&mut self, file: &Arc<OpenFile>, get: &Get<'_>, generation: Option<u32>) -> Result<(), Stop> {
        let validator = file.validator();
        self.producer.describe(validator);
        if let Condition::IfNoneMatch { file: held, wants_probe } = get.condition
            && held == *validator
        {
            self.shared.counters.confirm();
            let len = validator.len.min(self.session.arena.segment_size().into());
            let run = Run { first: self.head, count: 1, len: len as u32 };
            if len == validator.len {
                self.publish_end(run, Kind::End);
            } else {
                // Perhaps another segment holds what follows.
                self.pause(file, run);
            }
            if wants_probe && let Some(generation) = generation {
                self.session.give_probe(generation, get.key, file);
            }
            return Ok(());
        }
        let turn = Turn { begun: Instant::now(), offset: get.offset };
        let mut at = get.offset;
        loop {
            let run = self.next_run(file, validator.len - at)?;
            match self.session.arena.fill(run, file.file(), at) {
                // Never a chunk of a file that changed while it was read: it could mix two versions.
                Ok(got) if got < run.len || !file.is_unchanged() => {
                    self.end(Kind::Changed);
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => {
                    let (id, process) = (self.session.id, self.session.process);
                    self.shared.complaints.warn(process, format_args!("session {id}: read at {at}: {error}"));
                    self.end(Kind::Failed);
                    return Ok(());
                }
            }
            at += u64::from(run.len);
            self.shared.counters.bytes(run.len.into());
            if at == validator.len {
                self.publish_end(run, Kind::End);
                return Ok(());
            }
            if !self.shared.has_idle() && turn.is_over(at, Instant::now()) {
                self.pause(file, run);
                return Ok(());
            }
            self.producer.publish(run, self.session.arena.segment_size(), Kind::Data);
        }
    }

    /// Segments for the next of `left` bytes: one, or as many neighbours as are free while they are small.
    fn next_run(&mut self, file: &Arc<OpenFile>, left: u64) -> Result<Run, Stop> {
        let segment_size = self.session.arena.segment_size();
        let mut last = self.next_segment(file)?;
        let mut run = Run { first: last, count: 1, len: segment_size };
        while u64::from(run.len) < left && run.len + segment_size <= MAX_RUN_BYTES {
            let Some(next) = self.producer.take_behind(last) else { break };
            last = next;
            run.count += 1;
            run.len += segment_size;
        }
        run.len = left.min(run.len.into()) as u32;
        Ok(run)
    }

    /// A free segment of the ring; waits for it as long as the patience lasts, then pauses the transfer.
    fn next_segment(&mut self, file: &Arc<OpenFile>) -> Result<u16, Stop> {
        let mut since: Option<Instant> = None;
        loop {
            self.producer.poll(self.session.arena.layout().segments).map_err(Stop::Violation)?;
            if self.session.has_ended() {
                return Err(Stop::SessionEnded);
            }
            if self.producer.cancelled() {
                // Perhaps only to let others have the segment.
                self.session.pause(file, self.shared.paused_places());
                self.end(Kind::Cancelled);
                return Err(Stop::Ended);
            }
            if let Some(segment) = self.producer.take_free() {
                return Ok(segment);
            }
            if self.producer.retains_all() {
                self.pause(file, self.no_data());
                return Err(Stop::Ended);
            }
            let patience = if self.shared.has_idle() { CHUNK_WAIT } else { CHUNK_WAIT_BUSY };
            let waited = since.get_or_insert_with(Instant::now).elapsed();
            if waited >= patience {
                self.pause(file, self.no_data());
                return Err(Stop::Ended);
            }
            // As a proxy's thread does: see `SendStream::yields` there.
            let yields = self.session.arena.segment_size() < SMALL_SEGMENT || self.shared.is_quiet();
            self.producer.wait(yields, CHUNK_WAIT_BUSY.min(patience - waited));
        }
    }

    /// Ends the stream before the file ends, with the data in `segment` or without. A slow client never holds a worker.
    fn pause(&mut self, file: &Arc<OpenFile>, run: Run) {
        self.session.pause(file, self.shared.paused_places());
        self.publish_end(run, Kind::Paused);
    }

    /// Ends the stream without data.
    fn end(&mut self, kind: Kind) {
        self.publish_end(self.no_data(), kind);
    }

    fn publish_end(&mut self, run: Run, kind: Kind) {
        self.shared.counters.end(kind);
        self.session.end_stream_on(self.head);
        self.producer.publish(run, self.session.arena.segment_size(), kind);
    }

    fn no_data(&self) -> Run {
        Run { first: self.head, count: 1, len: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_ends_by_bytes_and_by_time() {
        let begun = Instant::now();
        let turn = Turn { begun, offset: 1000 };
        assert!(!turn.is_over(1000 + TURN_BYTES - 1, begun + TURN_TIME / 2));
        assert!(turn.is_over(1000 + TURN_BYTES, begun));
        assert!(turn.is_over(1824, begun + TURN_TIME));
    }
}
