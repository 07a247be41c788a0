//! How a transfer comes by its next bytes: with a segment that holds them, or with a request that begins a stream.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Transfer;
use crate::client::cache::extent::{Lookup, RequestStamp};
use crate::client::cache::guard::ExtentGuard;
use crate::client::cache::pool::NoSegment;
use crate::client::fair_semaphore::Permit;
use crate::client::session::Session;
use crate::client::stream::{ALL_TURNS, RecvStream};
use crate::memory::layout::{Layout, Validator};
use crate::memory::ring::{Area, SMALL_SEGMENT};
use crate::protocol::wire::{Condition, Get};

/// Transfers with more small segments to come than this may take turns.
const TURNS_ABOVE_SEGMENTS: u64 = 8;

/// A transfer that goes on from segments alone asks the daemon after this time. The daemon keeps the file of a paused
/// transfer three times as long.
pub(super) const ASK_AGAIN_AFTER: Duration = Duration::from_secs(20);

/// Why [`Transfer::request`] made no stream.
pub(super) enum NoStream {
    /// The session ended meanwhile: try the next.
    Lost,
    Stopped,
    Unavailable,
    NoSegment,
}

impl<'a> Transfer<'a> {
    /// Begins a stream at `self.at`, or finds a segment with the bytes there. What the wait for a permit takes is added
    /// to the deadline.
    pub(super) fn request(&mut self, deadline: &mut Instant) -> Result<(), NoStream> {
        let (permit, waived) = self.wait_for_turn(deadline);
        let Some(session) = self.shared.session(*deadline) else {
            let stopped = self.shared.state.lock().stopped;
            return Err(if stopped { NoStream::Stopped } else { NoStream::Unavailable });
        };
        if self.read_on(&session) {
            return Ok(());
        }
        let key = self.file.is_none().then_some(self.key);
        let (mut consumer, extent) = match session.pool.acquire(&session.arena, key, *deadline) {
            Ok(acquired) => acquired,
            Err(NoSegment::Closed) => return Err(NoStream::Lost),
            Err(NoSegment::TimedOut) => return Err(NoStream::NoSegment),
            Err(NoSegment::Violation(violation)) => {
                session.lose(Some(&violation.to_string()));
                return Err(NoStream::Lost);
            }
        };
        let now = Instant::now();
        let asked = RequestStamp { at: now, generation: session.arena.generation() };
        self.again |= extent.is_some();
        let offered = extent.filter(|extent| session.takes_offers() && extent.is_worth_an_offer(now));
        let condition = match (self.file, &offered) {
            (Some(file), _) => Condition::Resume(file),
            (None, Some(offered)) => {
                Condition::IfNoneMatch { file: offered.file, wants_probe: session.wants_probe(self.key, asked) }
            }
            (None, None) => Condition::None,
        };
        let retains = match self.file {
            // One segment at a time, with others in between, goes on better if it releases them.
            Some(file) => self.may_hold(file) && session.pool.waiters() == 0,
            // A file that is longer goes on in a stream of its own, with what is known of it then.
            None => self.shared.layout.segment_size >= SMALL_SEGMENT,
        };
        let head = consumer.head();
        let sequence = consumer.begin(session.arena.control(head));
        if retains {
            consumer.retain_all(session.arena.control(head));
        }
        let get = Get { head, sequence, offset: self.at, condition, key: self.key };
        let mut stream = RecvStream::new(Arc::clone(&session), consumer, offered, asked, retains, (permit, waived));
        if let Some(file) = self.file.filter(|_| retains) {
            stream.is_shareable = true;
            // Its own takes the first part.
            stream.grant((file.len - self.at).saturating_sub(self.shared.layout.segment_size.into()));
        }
        if let Err(error) = send(&session, &get, *deadline) {
            // Nobody knows of it.
            stream.ended = true;
            if error.kind() == io::ErrorKind::TimedOut {
                stream.leave();
                return Err(NoStream::Unavailable);
            }
            session.lose(None);
            return Err(NoStream::Lost);
        }
        self.join(&session);
        self.spoke = asked.at;
        self.stream = Some(stream);
        Ok(())
    }

    /// A permit, where the transfer takes turns; and whether it goes on without one.
    fn wait_for_turn(&self, deadline: &mut Instant) -> (Option<Permit<'a>>, bool) {
        if !self.takes_turns() {
            return (None, false);
        }
        let asked = Instant::now();
        let permit = self.shared.semaphore.permit(asked + ALL_TURNS);
        // That the others take their turns is no fault of the daemon's.
        *deadline += asked.elapsed();
        let waived = permit.is_none();
        (permit, waived)
    }

    /// Finds the bytes that come next in a segment, if one holds them. The first ones only with the probe that they are
    /// still what the file begins with.
    fn read_on(&mut self, session: &Arc<Session>) -> bool {
        let asked = RequestStamp { at: Instant::now(), generation: session.arena.generation() };
        let Some(guard) = ExtentGuard::attach(session, &self.lookup(asked)) else { return false };
        let file = guard.view.file;
        if self.file.is_some() && self.spoke.elapsed() > ASK_AGAIN_AFTER && file.len > u64::from(guard.view.len) {
            return false;
        }
        if self.file.is_none() && !session.probes.see(self.key, &file, asked) {
            return false;
        }
        self.join(session);
        if self.file.replace(file).is_none() {
            self.again = true;
            self.shared.reused.fetch_add(1, Ordering::Relaxed);
        }
        self.guard = Some(guard);
        true
    }

    /// The bytes that come next.
    pub(super) fn lookup(&self, asked: RequestStamp) -> Lookup<'a> {
        match self.file {
            Some(file) => Lookup::At { file, at: self.at, begun: self.begun },
            None => Lookup::First { key: self.key, asked },
        }
    }

    /// Whether what a stream from here on brings may stay in its segments: the file leaves half of them to others.
    pub(super) fn may_hold(&self, file: Validator) -> bool {
        let Layout { segments, segment_size } = self.shared.layout;
        let most = if segment_size < SMALL_SEGMENT { 1 } else { (segments / 2).max(1) };
        let fits = file.len <= u64::from(most) * u64::from(segment_size);
        // What a transfer goes on with need not be the file of its key any more.
        let begins = self.at == 0 && self.file.is_none();
        let goes_on = self.again && self.at > 0 && self.at.is_multiple_of(segment_size.into());
        fits && (begins || goes_on)
    }

    /// Takes note of the session that the transfer begins or goes on in.
    fn join(&mut self, session: &Arc<Session>) {
        let previous = std::mem::replace(&mut self.session, Arc::downgrade(session));
        // Once there is a file the transfer goes on; before, it only begins again.
        if self.file.is_some() && !previous.ptr_eq(&self.session) {
            self.sessions_lost += 1;
            self.shared.resumed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the transfer needs a permit: it has much left, and segments are small.
    pub(super) fn takes_turns(&self) -> bool {
        let segment_size = self.shared.layout.segment_size;
        self.prompt
            && segment_size < SMALL_SEGMENT
            && self.file.is_some_and(|file| file.len - self.at > TURNS_ABOVE_SEGMENTS * u64::from(segment_size))
    }
}

fn send(session: &Session, get: &Get<'_>, deadline: Instant) -> io::Result<()> {
    thread_local! {
        static DATAGRAM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    DATAGRAM.with_borrow_mut(|datagram| {
        get.encode(datagram);
        session.send(datagram, deadline)
    })
}
