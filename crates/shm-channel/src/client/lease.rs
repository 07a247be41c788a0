//! One answer of the daemon as the client sees it: the segments that it may use, lent, released, taken back and left.

use std::sync::Arc;
use std::time::Duration;

use super::gate::{Gate, Pass};
use super::held::{Asked, Held, Wanted};
use super::reading::Reading;
use super::session::Session;
use crate::layout::{MAX_RING, Validator};
use crate::ring::{Area, Consumer, Published, Run, SMALL, SegmentList, Violation};

/// The bytes that a lease keeps in flight, if there are segments, so that small ones stay in the second-level cache together
/// with the socket's buffers. Never fewer than two segments.
const IN_FLIGHT: u32 = 512 << 10;

/// How long a lease may keep its segment while others wait for one, and how long all that wait may take together until
/// each has had its turn.
const TURN: Duration = Duration::from_millis(50);
pub(super) const ROUND: Duration = Duration::from_secs(1);

/// One request's segments, until its end was seen.
#[derive(Debug)]
pub(super) struct Lease<'a> {
    pub(super) session: Arc<Session>,
    pub(super) consumer: Consumer,
    loans: Vec<Consumer>,
    /// What the lead held when the request was made, and the request told of.
    pub(super) offered: Option<Held>,
    /// It releases no segment before its end.
    pub(super) keeps: bool,
    /// What it brings is for all who want it, once it has ended.
    pub(super) holds: bool,
    /// What its segments hold.
    brought: Vec<(u16, Held)>,
    /// When the request was made.
    pub(super) asked: Asked,
    pub(super) pass: Option<Pass<'a>>,
    /// It goes on without a pass: it has waited for one long enough, or had to give it up.
    pub(super) waived: bool,
    /// A chunk was polled: its file was compared with the transfer's.
    pub(super) answered: bool,
    /// The chunk that ends it was polled.
    pub(super) ended: bool,
}

impl<'a> Lease<'a> {
    pub(super) fn new(
        session: Arc<Session>,
        consumer: Consumer,
        offered: Option<Held>,
        asked: Asked,
        keeps: bool,
        (pass, waived): (Option<Pass<'a>>, bool),
    ) -> Self {
        Self {
            session,
            consumer,
            loans: Vec::new(),
            offered,
            keeps,
            holds: false,
            brought: Vec::new(),
            asked,
            pass,
            waived,
            answered: false,
            ended: false,
        }
    }

    /// Takes note of a chunk of `file`.
    pub(super) fn note(&mut self, key: &[u8], file: Validator, at: u64, chunk: Published) -> Result<(), Violation> {
        let offered = self.offered.take();
        if self.holds && (chunk.len > 0 || file.len == 0) {
            if self.keeps && self.brought.iter().any(|(segment, _)| *segment == chunk.segment) {
                return Err(Violation("a chunk in a segment that was not released"));
            }
            self.brought.push((chunk.segment, Held::after(offered, key, file, at, chunk.len, self.asked)));
        }
        Ok(())
    }

    /// Whether others wait for the pass that this lease has had for long enough.
    pub(super) fn turn_is_over(&self, gate: &Gate) -> bool {
        let waiters = if self.pass.is_some() { gate.waiters() } else { 0 };
        waiters > 0 && self.is_older_than_a_turn(waiters)
    }

    fn is_older_than_a_turn(&self, waiters: u32) -> bool {
        self.asked.at.elapsed() > TURN.min(ROUND / waiters)
    }

    /// Whether a wait for the next chunk begins awake: a small chunk is there sooner than a sleep and a wake would be over, and
    /// so is a large one while nothing else is going on. Else those who are on their way would come first whenever this
    /// thread yields.
    pub(super) fn yields(&self) -> bool {
        let is_small = self.answered && self.session.arena.segment_size() < SMALL;
        let pool = &self.session.pool;
        is_small || pool.waiters() == 0 && pool.has_lent_out(1 + self.loans.len())
    }

    /// Lends idle segments, if `left` bytes do not fit the lease's own.
    pub(super) fn lend(&mut self, left: u64) {
        let Self { session, consumer, loans, keeps, ended, .. } = self;
        if *ended || !loans.is_empty() || session.pool.waiters() > 0 {
            return;
        }
        let segment_size = session.arena.segment_size();
        let most = MAX_RING as u32;
        let ring = if *keeps { most } else { (IN_FLIGHT / segment_size).clamp(2, most) };
        let useful = left.div_ceil(u64::from(segment_size)).min(u64::from(ring) - 1);
        let control = session.arena.control(consumer.lead());
        let borrowed = match session.pool.borrow(&session.arena, useful as usize) {
            Ok(borrowed) => borrowed,
            Err(violation) => return session.lose(Some(&violation.to_string())),
        };
        for loan in borrowed {
            if consumer.can_lend() {
                consumer.lend(control, loan.lead());
                loans.push(loan);
            } else {
                session.pool.give_back([loan]);
            }
        }
    }

    /// Gives the segments of a run to the producer again, or those that were lent to others who wait for one. True if the
    /// last one is waited for, and it is time to leave.
    pub(super) fn release(&mut self, run: Run) -> bool {
        if self.keeps {
            return self.session.pool.waiters() > 0;
        }
        self.holds = false;
        self.brought.clear();
        let Self { session, consumer, loans, .. } = self;
        let control = session.arena.control(consumer.lead());
        let waiters = session.pool.waiters();
        let had_loans = !loans.is_empty();
        let mut taken_back = SegmentList::default();
        consumer.release(control, run, |segment| {
            let wanted = taken_back.len() < waiters as usize && loans.iter().any(|loan| loan.lead() == segment);
            if wanted {
                taken_back.push(segment);
            }
            wanted
        });
        if !taken_back.is_empty() {
            session.pool.give_back(loans.extract_if(.., |loan| taken_back.contains(loan.lead())));
        }
        waiters > 0 && !had_loans && self.is_older_than_a_turn(waiters)
    }

    /// Gives the segments of a lease that has ended back, and reads on in the one with what is wanted.
    pub(super) fn share(self, wanted: &Wanted<'_>) -> Option<Reading> {
        let Self { session, consumer, loans, brought, .. } = self;
        Reading::attach_to(session, segments(consumer, loans, brought), wanted)
    }

    /// Gives all segments back; those of a lease that has not ended only once it has.
    pub(super) fn leave(self) {
        // The pass goes last: whoever gets it is to find the segments.
        let Self { session, mut consumer, loans, brought, ended, pass: _pass, .. } = self;
        if session.is_lost() {
            return;
        }
        let control = session.arena.control(consumer.lead());
        let ended = if ended { Ok(true) } else { consumer.cancel(control, session.arena.segment_size()) };
        match ended {
            Ok(true) => {
                session.pool.give_back_holding(segments(consumer, loans, brought), None);
            }
            Ok(false) => session.pool.quarantine(consumer, loans),
            Err(violation) => session.lose(Some(&violation.to_string())),
        }
    }
}

/// The segments of a lease with what they hold.
fn segments(
    lead: Consumer,
    loans: Vec<Consumer>,
    mut brought: Vec<(u16, Held)>,
) -> impl Iterator<Item = (Consumer, Option<Held>)> {
    std::iter::once(lead).chain(loans).map(move |consumer| {
        let at = brought.iter().position(|(segment, _)| *segment == consumer.lead());
        let held = at.map(|at| brought.swap_remove(at).1);
        (consumer, held)
    })
}
