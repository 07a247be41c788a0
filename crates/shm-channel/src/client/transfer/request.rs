//! How a transfer comes by its next bytes: with a segment that holds them, or with a request that begins a lease.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Transfer;
use crate::client::held::{Asked, Wanted};
use crate::client::lease::{Lease, ROUND};
use crate::client::pool::NoSegment;
use crate::client::reading::Reading;
use crate::client::session::Session;
use crate::layout::{Layout, Validator};
use crate::ring::{Area, SMALL};
use crate::wire::{Get, Known};

/// Transfers with more than so many small segments to come may take turns.
const LONG: u64 = 8;

/// After so long a transfer that goes on with what segments hold asks the daemon all the same, which keeps a file that is
/// parked for thrice as long.
pub(super) const SILENT: Duration = Duration::from_secs(20);

/// Why [`Transfer::request`] made no lease.
pub(super) enum NoLease {
    /// The session ended meanwhile: try the next.
    Lost,
    Stopped,
    Unavailable,
    NoSegment,
}

impl<'a> Transfer<'a> {
    /// Begins a lease at `self.at`, or finds a segment with the bytes there. What the wait for a pass takes is added
    /// to the deadline.
    pub(super) fn request(&mut self, deadline: &mut Instant) -> Result<(), NoLease> {
        let mut pass = None;
        let takes_turns = self.takes_turns();
        if takes_turns {
            let asked = Instant::now();
            pass = self.shared.gate.pass(asked + ROUND);
            // That the others take their turns is no fault of the daemon's.
            *deadline += asked.elapsed();
        }
        let waived = takes_turns && pass.is_none();
        let Some(session) = self.shared.session(*deadline) else {
            let stopped = self.shared.state.lock().stopped;
            return Err(if stopped { NoLease::Stopped } else { NoLease::Unavailable });
        };
        if self.read_on(&session) {
            return Ok(());
        }
        let key = self.file.is_none().then_some(self.key);
        let (mut consumer, held) = match session.pool.acquire(&session.arena, key, *deadline) {
            Ok(acquired) => acquired,
            Err(NoSegment::Closed) => return Err(NoLease::Lost),
            Err(NoSegment::TimedOut) => return Err(NoLease::NoSegment),
            Err(NoSegment::Violation(violation)) => {
                session.lose(Some(&violation.to_string()));
                return Err(NoLease::Lost);
            }
        };
        let now = Instant::now();
        let asked = Asked { at: now, epoch: session.arena.epoch() };
        self.again |= held.is_some();
        let offered = held.filter(|held| session.takes_offers() && held.is_worth_an_offer(now));
        let known = match (self.file, &offered) {
            (Some(file), _) => Known::Begun(file),
            (None, Some(offered)) => {
                Known::Held { file: offered.file, wants_witness: session.wants_witness(self.key, asked) }
            }
            (None, None) => Known::Nothing,
        };
        let keeps = match self.file {
            // One segment at a time, with others in between, goes on better if it releases them.
            Some(file) => self.may_hold(file) && session.pool.waiters() == 0,
            // A file that is longer goes on in a lease of its own, with what is known of it then.
            None => self.shared.layout.segment_size >= SMALL,
        };
        let lead = consumer.lead();
        let sequence = consumer.begin(session.arena.control(lead));
        if keeps {
            consumer.keep_all(session.arena.control(lead));
        }
        let get = Get { lead, sequence, offset: self.at, known, key: self.key };
        let mut lease = Lease::new(Arc::clone(&session), consumer, offered, asked, keeps, (pass, waived));
        if let Some(file) = self.file.filter(|_| keeps) {
            lease.holds = true;
            // Its own takes the first part.
            lease.lend((file.len - self.at).saturating_sub(self.shared.layout.segment_size.into()));
        }
        if let Err(error) = send(&session, &get, *deadline) {
            // Nobody knows of it.
            lease.ended = true;
            if error.kind() == io::ErrorKind::TimedOut {
                lease.leave();
                return Err(NoLease::Unavailable);
            }
            session.lose(None);
            return Err(NoLease::Lost);
        }
        self.join(&session);
        self.spoke = asked.at;
        self.lease = Some(lease);
        Ok(())
    }

    /// Finds the bytes that come next in a segment, if one holds them. The first ones only with the witness that they are
    /// still what the file begins with.
    fn read_on(&mut self, session: &Arc<Session>) -> bool {
        let asked = Asked { at: Instant::now(), epoch: session.arena.epoch() };
        let Some(reading) = Reading::attach(session, &self.wanted(asked)) else { return false };
        let file = reading.part.file;
        if self.file.is_some() && self.spoke.elapsed() > SILENT && file.len > u64::from(reading.part.len) {
            return false;
        }
        if self.file.is_none() && !session.witnesses.see(self.key, &file, asked) {
            return false;
        }
        self.join(session);
        if self.file.replace(file).is_none() {
            self.again = true;
            self.shared.reused.fetch_add(1, Ordering::Relaxed);
        }
        self.reading = Some(reading);
        true
    }

    /// The bytes that come next.
    pub(super) fn wanted(&self, asked: Asked) -> Wanted<'a> {
        match self.file {
            Some(file) => Wanted::At { file, at: self.at, begun: self.begun },
            None => Wanted::First { key: self.key, asked },
        }
    }

    /// Whether what a lease from here on brings may stay in its segments: the file leaves half of them to others.
    pub(super) fn may_hold(&self, file: Validator) -> bool {
        let Layout { segments, segment_size } = self.shared.layout;
        let most = if segment_size < SMALL { 1 } else { (segments / 2).max(1) };
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

    /// Whether so much is left, and segments are so small, that the transfer needs a pass.
    pub(super) fn takes_turns(&self) -> bool {
        let segment_size = self.shared.layout.segment_size;
        self.prompt
            && segment_size < SMALL
            && self.file.is_some_and(|file| file.len - self.at > LONG * u64::from(segment_size))
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
