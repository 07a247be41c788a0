//! One file on its way from the daemon to a consumer, over as many leases and sessions as it takes.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Shared;
use super::error::{OpenError, TransferError};
use super::lease::{Lease, ROUND};
use super::pool::{Asked, Held, NoSegment};
use super::session::Session;
use crate::channel::layout::{Kind, Validator};
use crate::channel::ring::{Area, MAX_RUN, Published, Run, SMALL, Violation};
use crate::channel::wire::{Get, Known, MAX_KEY};
use crate::reply::Chunk;

/// Transfers with more than so many small segments to come may take turns.
const LONG: u64 = 8;

/// After so long a sleeping transfer looks around by itself: a peer may publish and wake nobody.
const LOOK: Duration = Duration::from_millis(100);

const MISFIT: Violation = Violation("a chunk that does not fit the file");

/// How often a request is made again whose file changed under the first read.
const ATTEMPTS: u32 = 5;

/// A file on its way. Dropping it before its end lets the daemon know.
#[derive(Debug)]
pub struct Transfer<'a> {
    shared: &'a Shared,
    key: &'a [u8],
    /// What the first answer told; None until then.
    file: Option<Validator>,
    /// Where the next chunk begins.
    at: u64,
    lease: Option<Lease<'a>>,
    /// A chunk that came with the answer and was not handed out yet.
    ready: Option<Published>,
    /// The chunks that the caller has.
    held: Option<Run>,
    /// That of the last lease: the next one may begin after its loss.
    session: Weak<Session>,
    sessions_lost: u32,
    /// See [`Transfer::be_prompt`].
    prompt: bool,
}

/// What [`Transfer::step`] found.
enum Step {
    Chunk(Published),
    /// The daemon's answer is no file.
    Refused(Kind),
    /// The session is gone.
    Lost,
    TimedOut,
}

/// Why [`Transfer::request`] made no lease.
enum NoLease {
    /// The session ended meanwhile: try the next.
    Lost,
    Stopped,
    Unavailable,
    NoSegment,
}

impl<'a> Transfer<'a> {
    pub(super) fn open(shared: &'a Shared, key: &'a [u8]) -> Result<Self, OpenError> {
        if key.len() > MAX_KEY {
            return Err(OpenError::KeyTooLong(key.len()));
        }
        let mut transfer = Self {
            shared,
            key,
            file: None,
            at: 0,
            lease: None,
            ready: None,
            held: None,
            session: Weak::new(),
            sessions_lost: 0,
            prompt: false,
        };
        let wait = shared.config.wait;
        let mut deadline = Instant::now() + wait;
        let mut attempts = 0;
        loop {
            match transfer.request(&mut deadline) {
                Ok(()) if transfer.ready.is_some() => return Ok(transfer),
                Ok(()) => {}
                // A daemon that comes and goes, or breaks the protocol each time, must not be waited for longer.
                Err(NoLease::Lost) if Instant::now() < deadline => continue,
                Err(NoLease::Stopped) => return Err(OpenError::Stopped),
                Err(NoLease::Lost | NoLease::Unavailable) => return Err(OpenError::Unavailable(shared.absence())),
                Err(NoLease::NoSegment) => return Err(OpenError::NoSegment(wait)),
            }
            match transfer.step(deadline) {
                Step::Chunk(chunk) => {
                    transfer.ready = Some(chunk);
                    return Ok(transfer);
                }
                Step::Refused(Kind::NotFound) => return Err(OpenError::NotFound),
                // Nothing was delivered yet: the new version will do.
                Step::Refused(Kind::Changed) if attempts < ATTEMPTS => attempts += 1,
                Step::Refused(_) => return Err(OpenError::Failed),
                Step::Lost if Instant::now() < deadline => {}
                Step::Lost | Step::TimedOut => return Err(OpenError::Unavailable(shared.absence())),
            }
            transfer.leave();
            // Nothing was delivered: what this answer said of the file binds the next one to nothing.
            transfer.file = None;
        }
    }

    /// The length of the file in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a file's length, not a container's")]
    pub fn len(&self) -> u64 {
        self.file.map_or(0, |file| file.len)
    }

    /// How often the transfer went on in a new session.
    pub fn sessions_lost(&self) -> u32 {
        self.sessions_lost
    }

    /// Promises that the caller is done with each chunk within moments, or puts it back. Long transfers over small segments
    /// then take turns with all segments instead of sharing them out, which is several times as fast. A caller that held
    /// its chunk would keep all of them waiting.
    pub fn be_prompt(&mut self) {
        self.prompt = true;
    }

    /// Whether others wait for the transfer's segments, or for its turn.
    pub fn is_wanted(&self) -> bool {
        let wanted = |lease: &Lease<'_>| {
            lease.session.pool.waiters() > 0 || lease.pass.is_some() && self.shared.gate.waiters() > 0
        };
        self.lease.as_ref().is_some_and(wanted)
    }

    /// The next bytes of the file; None after the last. They stay until the next are asked for. At most a segment's, or
    /// 32 KiB where segments are smaller.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk<'_>>, TransferError> {
        if let Some(run) = self.held.take() {
            self.release(run);
        }
        if self.at == self.len() {
            return Ok(None);
        }
        let chunk = match self.ready.take() {
            Some(chunk) if chunk.len > 0 => chunk,
            Some(_) => {
                self.leave();
                self.fetch()?
            }
            None => self.fetch()?,
        };
        self.at += u64::from(chunk.len);
        let run = self.extend(chunk);
        self.held = Some(run);
        self.lend();
        let lease = self.lease.as_ref().expect("a chunk was polled from a lease, which is kept until its release");
        let arena = &lease.session.arena;
        Ok(Some(match &lease.held {
            // The segment has all of the file, and the chunk is the last of it, or all.
            Some(held) => {
                let (len, all) = (run.len as usize, held.file.len as u32);
                arena.chunk(Run { len: all, ..run }).part(all as usize - len, len)
            }
            None => arena.chunk(run),
        }))
    }

    /// The run that begins with `chunk`: with it what else is there and follows it in memory.
    fn extend(&mut self, chunk: Published) -> Run {
        let lease = self.lease.as_mut().expect("chunks come with a lease");
        let session = Arc::clone(&lease.session);
        let (control, segment_size) = (session.arena.control(lease.consumer.lead()), session.arena.segment_size());
        let (mut run, mut last) = (Run::from(chunk), chunk);
        while run.len + segment_size <= MAX_RUN {
            let lease = self.lease.as_mut().expect("as above");
            match lease.consumer.poll_behind(control, segment_size, last) {
                Ok(Some(next)) if self.fits(next) => last = next,
                Ok(None) => break,
                Ok(Some(_)) => {
                    session.lose(Some(&MISFIT.to_string()));
                    break;
                }
                Err(violation) => {
                    session.lose(Some(&violation.to_string()));
                    break;
                }
            }
            self.at += u64::from(last.len);
            run.count += 1;
            run.len += last.len;
            self.lease.as_mut().expect("as above").ended = last.kind.ends_lease();
        }
        run
    }

    /// Whether a chunk ends where one of its kind may.
    fn fits(&self, chunk: Published) -> bool {
        let end = self.at.checked_add(u64::from(chunk.len));
        match chunk.kind {
            Kind::End => end == Some(self.len()),
            _ => end.is_some_and(|end| end < self.len()),
        }
    }

    /// Gives the last `unused` bytes of the chunk and all segments back, for whoever can use them while the caller cannot.
    /// The next chunk begins with those bytes.
    pub fn put_back(&mut self, unused: usize) {
        assert!(self.held.is_some_and(|chunk| unused <= chunk.len as usize), "more than the chunk is put back");
        self.held = None;
        self.at -= unused as u64;
        self.leave();
    }

    /// Gets the next chunk with data, over as many leases and sessions as it takes.
    fn fetch(&mut self) -> Result<Published, TransferError> {
        let wait = self.shared.config.wait;
        let mut deadline = Instant::now() + wait;
        loop {
            if self.lease.is_none() {
                match self.request(&mut deadline) {
                    Ok(()) => {
                        if let Some(chunk) = self.ready.take() {
                            return Ok(chunk);
                        }
                    }
                    // A peer that answers and answers but brings nothing must end, too.
                    Err(NoLease::Lost) if Instant::now() < deadline => continue,
                    Err(NoLease::Lost | NoLease::Unavailable) => {
                        return Err(TransferError::Unavailable(self.shared.absence()));
                    }
                    Err(NoLease::Stopped) => return Err(TransferError::Stopped),
                    Err(NoLease::NoSegment) => return Err(TransferError::NoSegment(wait)),
                }
            }
            match self.step(deadline) {
                Step::Chunk(chunk) if chunk.len > 0 => return Ok(chunk),
                Step::Chunk(_) => self.leave(),
                Step::Refused(Kind::NotFound | Kind::Changed) => return Err(TransferError::Changed),
                Step::Refused(_) => return Err(TransferError::Failed),
                Step::Lost => self.leave(),
                Step::TimedOut => return Err(TransferError::Unavailable(self.shared.absence())),
            }
            if Instant::now() >= deadline {
                return Err(TransferError::Unavailable(self.shared.absence()));
            }
        }
    }

    /// Begins a lease at `self.at`, or finds all of the file in a segment, ready. What the wait for a pass takes is added
    /// to the deadline.
    fn request(&mut self, deadline: &mut Instant) -> Result<(), NoLease> {
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
        let (mut consumer, held) = match session.pool.acquire(&session.arena, self.key, *deadline) {
            Ok(acquired) => acquired,
            Err(NoSegment::Closed) => return Err(NoLease::Lost),
            Err(NoSegment::TimedOut) => return Err(NoLease::NoSegment),
            Err(NoSegment::Violation(violation)) => {
                session.lose(Some(&violation.to_string()));
                return Err(NoLease::Lost);
            }
        };
        let lead = consumer.lead();
        let now = Instant::now();
        let asked = Asked { at: now, epoch: session.arena.epoch() };
        // What was begun goes on with the same state of the file, wherever it comes from.
        let is_enough = |held: &Held| match self.file {
            Some(file) => held.file == file,
            None => session.vouches_for(held, now),
        };
        if let Some(file) = held.as_ref().filter(|held| is_enough(held)).map(|held| held.file) {
            self.join(&session);
            if self.file.replace(file).is_none() {
                self.shared.reused.fetch_add(1, Ordering::Relaxed);
            }
            self.ready = Some(Published { segment: lead, len: (file.len - self.at) as u32, kind: Kind::End });
            self.lease = Some(Lease::of_held(session, consumer, held, asked));
            return Ok(());
        }
        let may_offer = session.takes_offers() && self.file.is_none();
        let offered = held.filter(|held| may_offer && held.is_worth_an_offer(now));
        let known = match (self.file, &offered) {
            (Some(file), _) => Known::Begun(file),
            (None, Some(offered)) => {
                Known::Held { file: offered.file, wants_witness: session.wants_witness(offered, now) }
            }
            (None, None) => Known::Nothing,
        };
        let sequence = consumer.begin(session.arena.control(lead));
        let get = Get { lead, sequence, offset: self.at, known, key: self.key };
        if let Err(error) = send(&session, &get, *deadline) {
            if error.kind() == std::io::ErrorKind::TimedOut {
                session.pool.give_back([consumer]);
                return Err(NoLease::Unavailable);
            }
            session.lose(None);
            return Err(NoLease::Lost);
        }
        self.join(&session);
        self.lease = Some(Lease::new(session, consumer, offered, asked, pass, waived));
        Ok(())
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

    /// Waits for the next chunk of the lease.
    fn step(&mut self, deadline: Instant) -> Step {
        let lease = self.lease.as_mut().expect("step is called with a lease");
        let session = Arc::clone(&lease.session);
        let control = session.arena.control(lease.consumer.lead());
        let chunk = loop {
            if session.is_lost() {
                return Step::Lost;
            }
            match lease.consumer.poll(control, session.arena.segment_size()) {
                Ok(Some(chunk)) => break chunk,
                Ok(None) => {}
                Err(violation) => {
                    session.lose(Some(&violation.to_string()));
                    return Step::Lost;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Step::TimedOut;
            }
            lease.consumer.wait(control, lease.yields(), left.min(LOOK));
            // A file that the daemon cannot read on must not keep the others waiting.
            if lease.turn_is_over(&self.shared.gate) {
                (lease.pass, lease.waived) = (None, true);
            }
        };
        lease.ended = chunk.kind.ends_lease();
        let offered = lease.offered.take();
        if !matches!(chunk.kind, Kind::Data | Kind::End | Kind::Parked) {
            return Step::Refused(chunk.kind);
        }
        if !std::mem::replace(&mut lease.answered, true) {
            let file = lease.consumer.file(control);
            if self.file.is_some_and(|known| known != file) {
                return Step::Refused(Kind::Changed);
            }
            if i64::try_from(file.len).is_err() {
                session.lose(Some(&Violation("file_len").to_string()));
                return Step::Lost;
            }
            // What a transfer goes on with need not be the file of its key any more.
            if chunk.kind == Kind::End && self.at == 0 && self.file.is_none() {
                lease.held = Held::after(offered, self.key, file, lease.asked);
            }
            self.file = Some(file);
        }
        if self.fits(chunk) {
            Step::Chunk(chunk)
        } else {
            session.lose(Some(&MISFIT.to_string()));
            Step::Lost
        }
    }

    /// Whether so much is left, and segments are so small, that the transfer needs a pass.
    fn takes_turns(&self) -> bool {
        let segment_size = self.shared.layout.segment_size;
        self.prompt
            && segment_size < SMALL
            && self.file.is_some_and(|file| file.len - self.at > LONG * u64::from(segment_size))
    }

    /// Lends idle segments to a lease that has more to bring than fits its own.
    fn lend(&mut self) {
        let left = self.len() - self.at;
        let takes_turns = self.takes_turns();
        let Some(lease) = &mut self.lease else { return };
        if takes_turns && lease.pass.is_none() {
            lease.pass = self.shared.gate.try_pass();
            if lease.pass.is_none() {
                return;
            }
        }
        lease.lend(left);
    }

    /// Gives the segments of a run to the producer again, or to somebody who waits for one.
    fn release(&mut self, run: Run) {
        let takes_turns = self.takes_turns();
        let Some(lease) = &mut self.lease else { return };
        if lease.ended {
            return self.leave();
        }
        if lease.turn_is_over(&self.shared.gate) || takes_turns && lease.pass.is_none() && !lease.waived {
            return self.leave();
        }
        if lease.release(run) {
            self.leave();
        }
    }

    /// Gives the lease's segments back; those of a lease that has not ended only once it has.
    fn leave(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.leave();
        }
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

fn send(session: &Session, get: &Get<'_>, deadline: Instant) -> std::io::Result<()> {
    thread_local! {
        static DATAGRAM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    DATAGRAM.with_borrow_mut(|datagram| {
        get.encode(datagram);
        session.send(datagram, deadline)
    })
}
