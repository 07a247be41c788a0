//! One answer of the daemon as the client sees it: the segments that it may use, granted, released, taken back and
//! left.

use std::sync::Arc;
use std::time::Duration;

use crate::client::cache::extent::{Extent, Lookup, RequestStamp};
use crate::client::cache::guard::ExtentGuard;
use crate::client::fair_semaphore::{FairSemaphore, Permit};
use crate::client::session::Session;
use crate::memory::layout::{MAX_RING, Validator};
use crate::memory::ring::{Area, Consumer, Published, Run, SMALL_SEGMENT, SegmentList, Violation};

/// The bytes that a stream keeps in flight, if there are segments, so that small ones stay in the second-level cache
/// together with the socket's buffers. Never fewer than two segments.
const IN_FLIGHT_BYTES: u32 = 512 << 10;

/// How long a stream may keep its segment while others wait for one, and how long all that wait may take together until
/// each has had its turn.
const SEGMENT_TURN: Duration = Duration::from_millis(50);
pub(super) const ALL_TURNS: Duration = Duration::from_secs(1);

/// One request's segments, until its end was seen.
#[derive(Debug)]
pub(super) struct RecvStream<'a> {
    pub(super) session: Arc<Session>,
    pub(super) consumer: Consumer,
    grants: Vec<Consumer>,
    /// The head's extent when the request was made, as the request offered it.
    pub(super) offered: Option<Extent>,
    /// It releases no segment before its end.
    pub(super) retains: bool,
    /// What it brings is for all who want it, once it has ended.
    pub(super) is_shareable: bool,
    /// What its segments hold.
    brought: Vec<(u16, Extent)>,
    /// When the request was made.
    pub(super) asked: RequestStamp,
    pub(super) permit: Option<Permit<'a>>,
    /// It goes on without a permit: it has waited for one long enough, or had to give it up.
    pub(super) waived: bool,
    /// A chunk was polled: its file was compared with the transfer's.
    pub(super) answered: bool,
    /// The chunk that ends it was polled.
    pub(super) ended: bool,
}

impl<'a> RecvStream<'a> {
    pub(super) fn new(
        session: Arc<Session>,
        consumer: Consumer,
        offered: Option<Extent>,
        asked: RequestStamp,
        retains: bool,
        (permit, waived): (Option<Permit<'a>>, bool),
    ) -> Self {
        Self {
            session,
            consumer,
            grants: Vec::new(),
            offered,
            retains,
            is_shareable: false,
            brought: Vec::new(),
            asked,
            permit,
            waived,
            answered: false,
            ended: false,
        }
    }

    /// Takes note of a chunk of `file`.
    pub(super) fn note(&mut self, key: &[u8], file: Validator, at: u64, chunk: Published) -> Result<(), Violation> {
        let offered = self.offered.take();
        if self.is_shareable && (chunk.len > 0 || file.len == 0) {
            if self.retains && self.brought.iter().any(|(segment, _)| *segment == chunk.segment) {
                return Err(Violation("a chunk in a segment that was not released"));
            }
            self.brought.push((chunk.segment, Extent::after(offered, key, file, at, chunk.len, self.asked)));
        }
        Ok(())
    }

    /// Whether others wait for the permit that this stream has had for long enough.
    pub(super) fn turn_is_over(&self, semaphore: &FairSemaphore) -> bool {
        let waiters = if self.permit.is_some() { semaphore.waiters() } else { 0 };
        waiters > 0 && self.is_older_than_a_turn(waiters)
    }

    fn is_older_than_a_turn(&self, waiters: u32) -> bool {
        self.asked.at.elapsed() > SEGMENT_TURN.min(ALL_TURNS / waiters)
    }

    /// Whether a wait for the next chunk begins with yields. A small chunk comes sooner than a sleep and a wake take.
    /// So does a large one while nothing else is going on. Otherwise other transfers would overtake this thread at each
    /// yield.
    pub(super) fn yields(&self) -> bool {
        let is_small = self.answered && self.session.arena.segment_size() < SMALL_SEGMENT;
        let pool = &self.session.pool;
        is_small || pool.waiters() == 0 && pool.has_lent_out(1 + self.grants.len())
    }

    /// Grants idle segments, if `left` bytes do not fit the stream's own.
    pub(super) fn grant(&mut self, left: u64) {
        let Self { session, consumer, grants, retains, ended, .. } = self;
        if *ended || !grants.is_empty() || session.pool.waiters() > 0 {
            return;
        }
        let segment_size = session.arena.segment_size();
        let most = MAX_RING as u32;
        let ring = if *retains { most } else { (IN_FLIGHT_BYTES / segment_size).clamp(2, most) };
        let useful = left.div_ceil(u64::from(segment_size)).min(u64::from(ring) - 1);
        let control = session.arena.control(consumer.head());
        let borrowed = match session.pool.borrow(&session.arena, useful as usize) {
            Ok(borrowed) => borrowed,
            Err(violation) => return session.lose(Some(&violation.to_string())),
        };
        for grant in borrowed {
            if consumer.can_grant() {
                consumer.grant(control, grant.head());
                grants.push(grant);
            } else {
                session.pool.give_back([grant]);
            }
        }
    }

    /// Gives the segments of a run to the producer again, or those that were granted to others who wait for one. True
    /// if the last one is waited for, and it is time to leave.
    pub(super) fn release(&mut self, run: Run) -> bool {
        if self.retains {
            return self.session.pool.waiters() > 0;
        }
        self.is_shareable = false;
        self.brought.clear();
        let Self { session, consumer, grants, .. } = self;
        let control = session.arena.control(consumer.head());
        let waiters = session.pool.waiters();
        let had_grants = !grants.is_empty();
        let mut taken_back = SegmentList::default();
        consumer.release(control, run, |segment| {
            let lookup = taken_back.len() < waiters as usize && grants.iter().any(|grant| grant.head() == segment);
            if lookup {
                taken_back.push(segment);
            }
            lookup
        });
        if !taken_back.is_empty() {
            session.pool.give_back(grants.extract_if(.., |grant| taken_back.contains(grant.head())));
        }
        waiters > 0 && !had_grants && self.is_older_than_a_turn(waiters)
    }

    /// Gives the segments of the ended stream back, and reads on in the one with the wanted bytes.
    pub(super) fn share(self, lookup: &Lookup<'_>) -> Option<ExtentGuard> {
        let Self { session, consumer, grants, brought, .. } = self;
        ExtentGuard::attach_to(session, segments(consumer, grants, brought), lookup)
    }

    /// Gives all segments back. Those of a stream that has not ended yet follow once it has.
    pub(super) fn leave(self) {
        // The permit goes last, so that the next holder finds the segments.
        let Self { session, mut consumer, grants, brought, ended, permit: _pass, .. } = self;
        if session.is_lost() {
            return;
        }
        let control = session.arena.control(consumer.head());
        let ended = if ended { Ok(true) } else { consumer.cancel(control, session.arena.segment_size()) };
        match ended {
            Ok(true) => {
                session.pool.give_back_cached(segments(consumer, grants, brought), None);
            }
            Ok(false) => session.pool.quarantine(consumer, grants),
            Err(violation) => session.lose(Some(&violation.to_string())),
        }
    }
}

/// The segments of a stream with what they hold.
fn segments(
    head: Consumer,
    grants: Vec<Consumer>,
    mut brought: Vec<(u16, Extent)>,
) -> impl Iterator<Item = (Consumer, Option<Extent>)> {
    std::iter::once(head).chain(grants).map(move |consumer| {
        let at = brought.iter().position(|(segment, _)| *segment == consumer.head());
        let extent = at.map(|at| brought.swap_remove(at).1);
        (consumer, extent)
    })
}
