//! One file on its way from the daemon to a consumer, over as many streams and sessions as it takes.

mod request;
#[cfg(test)]
mod tests;

use std::mem::forget;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Shared;
use crate::client::cache::guard::ExtentGuard;
use crate::client::error::{OpenError, TransferError};
use crate::client::session::Session;
use crate::client::stream::RecvStream;
use crate::memory::layout::{Kind, Validator};
use crate::memory::ring::{Area, MAX_RUN_BYTES, Published, Run, Violation};
use crate::protocol::wire::MAX_KEY;
use base::Chunk;
use request::NoStream;

/// A sleeping transfer looks by itself after this time: a peer may publish and wake nobody.
const LOST_CHECK_INTERVAL: Duration = Duration::from_millis(100);

const MISFIT: Violation = Violation("a chunk that does not fit the file");

/// How often a request is made again whose file changed under the first read.
const ATTEMPTS: u32 = 5;

/// A file on its way. Dropping it before its end lets the daemon know.
#[derive(Debug)]
pub struct Transfer<'a> {
    shared: &'a Shared,
    key: &'a [u8],
    /// The file's state in the first answer; None until then.
    file: Option<Validator>,
    /// When it began.
    begun: Instant,
    /// When the daemon was last asked for it.
    spoke: Instant,
    /// A segment held what the file begins with, or an older state of it: it is asked for again and again.
    again: bool,
    /// Where the next chunk begins.
    at: u64,
    /// The segment with the next bytes, or with those that the caller has: other transfers may read it, too.
    guard: Option<ExtentGuard>,
    stream: Option<RecvStream<'a>>,
    /// A chunk of the stream that was not handed out yet.
    ready: Option<Published>,
    /// The chunks that the caller has.
    current: Option<Run>,
    /// That of the last stream: the next one may begin after its loss.
    session: Weak<Session>,
    sessions_lost: u32,
    /// See [`Transfer::be_prompt`].
    prompt: bool,
    /// Why it is over before its end.
    failed: Option<TransferError>,
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

impl<'a> Transfer<'a> {
    fn new(shared: &'a Shared, key: &'a [u8]) -> Self {
        let begun = Instant::now();
        Self {
            shared,
            key,
            file: None,
            begun,
            spoke: begun,
            again: false,
            at: 0,
            guard: None,
            stream: None,
            ready: None,
            current: None,
            session: Weak::new(),
            sessions_lost: 0,
            prompt: false,
            failed: None,
        }
    }

    pub(super) fn open(shared: &'a Shared, key: &'a [u8]) -> Result<Self, OpenError> {
        if key.len() > MAX_KEY {
            return Err(OpenError::KeyTooLong(key.len()));
        }
        let mut transfer = Self::new(shared, key);
        let wait = shared.config.wait;
        let mut deadline = transfer.begun + wait;
        let mut attempts = 0;
        loop {
            match transfer.request(&mut deadline) {
                Ok(()) if transfer.guard.is_some() => return Ok(transfer),
                Ok(()) => {}
                // A daemon that comes and goes, or breaks the protocol each time, must not be waited for longer.
                Err(NoStream::Lost) if Instant::now() < deadline => continue,
                Err(NoStream::Stopped) => return Err(OpenError::Stopped),
                Err(NoStream::Lost | NoStream::Unavailable) => return Err(OpenError::Unavailable(shared.absence())),
                Err(NoStream::NoSegment) => return Err(OpenError::NoSegment(wait)),
            }
            match transfer.step(deadline) {
                Step::Chunk(chunk) => {
                    transfer.ready = Some(chunk);
                    transfer.share();
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
            // Nothing was delivered, so the next answer may be of another version.
            transfer.file = None;
        }
    }

    /// Goes on with a transfer that was begun in the parent of this process, at the byte that was reached.
    pub(super) fn go_on(shared: &'a Shared, key: &'a [u8], inherited: &Transfer<'_>) -> Self {
        let Transfer { file, at, ref failed, .. } = *inherited;
        let mut transfer = Self::new(shared, key);
        (transfer.file, transfer.at, transfer.failed) = (file, at, failed.clone());
        transfer
    }

    /// The length of the file in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a file's length, not a container's")]
    pub fn len(&self) -> u64 {
        self.file.map_or(0, |file| file.len)
    }

    /// Whether it was begun in the parent of this process, and is of no use here.
    pub fn is_inherited(&self) -> bool {
        self.shared.is_inherited()
    }

    /// How often the transfer went on in a new session.
    pub fn sessions_lost(&self) -> u32 {
        self.sessions_lost
    }

    /// Promises that the caller is done with each chunk within moments, or puts it back. Long transfers over small
    /// segments then take turns with all segments instead of sharing them out, which is several times as fast. A caller
    /// that held its chunk would keep all of them waiting.
    pub fn be_prompt(&mut self) {
        self.prompt = true;
    }

    /// Whether others wait for the transfer's segments, or for its turn.
    pub fn is_wanted(&self) -> bool {
        let lookup = |stream: &RecvStream<'_>| {
            stream.session.pool.waiters() > 0 || stream.permit.is_some() && self.shared.semaphore.waiters() > 0
        };
        self.stream.as_ref().is_some_and(lookup)
            || self.guard.as_ref().is_some_and(|guard| guard.session.pool.waiters() > 0)
    }

    /// The next bytes of the file; None after the last. They stay until the next are asked for. At most a segment's, or
    /// 32 KiB where segments are smaller. An error is the end of the transfer: it is all that there is from then on.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk<'_>>, TransferError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.is_inherited() {
            return Err(TransferError::Stopped);
        }
        if let Some(run) = self.current.take() {
            self.release(run);
        }
        if self.at == self.len() {
            return Ok(None);
        }
        self.finish();
        self.fetch().inspect_err(|error| self.failed = Some(error.clone()))?;
        let Some(chunk) = self.ready.take() else {
            let guard = self.guard.as_ref().expect("the bytes are ready or in a segment");
            let chunk = guard.chunk(self.at);
            self.at += chunk.len() as u64;
            self.current = Some(Run { first: guard.view.segment, count: 1, len: chunk.len() as u32 });
            return Ok(Some(chunk));
        };
        self.at += u64::from(chunk.len);
        let run = self.extend(chunk);
        self.current = Some(run);
        self.grant();
        let stream = self.stream.as_ref().expect("a chunk was polled from a stream, which is kept until its release");
        Ok(Some(stream.session.arena.chunk(run)))
    }

    /// The run that begins with `chunk`: with it what else is there and follows it in memory.
    fn extend(&mut self, chunk: Published) -> Run {
        let stream = self.stream.as_mut().expect("chunks come with a stream");
        let session = Arc::clone(&stream.session);
        let (control, segment_size) = (session.arena.control(stream.consumer.head()), session.arena.segment_size());
        let (mut run, mut last) = (Run::from(chunk), chunk);
        while run.len + segment_size <= MAX_RUN_BYTES {
            let stream = self.stream.as_mut().expect("as above");
            match stream.consumer.poll_behind(control, segment_size, last) {
                Ok(Some(next)) if self.fits(self.at, next) => last = next,
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
            self.stream.as_mut().expect("as above").ended = last.kind.ends_stream();
        }
        run
    }

    /// Whether a chunk that begins `at` ends where one of its kind may.
    fn fits(&self, at: u64, chunk: Published) -> bool {
        let end = at.checked_add(u64::from(chunk.len));
        match chunk.kind {
            Kind::End => end == Some(self.len()),
            _ => end.is_some_and(|end| end < self.len()),
        }
    }

    /// Gives the last `unused` bytes of the chunk and all segments back, for other transfers while the caller
    /// cannot. The next chunk begins with those bytes.
    pub fn put_back(&mut self, unused: usize) {
        assert!(self.current.is_some_and(|chunk| unused <= chunk.len as usize), "more than the chunk is put back");
        self.current = None;
        self.at -= unused as u64;
        self.guard = None;
        self.leave();
    }

    /// Gets the next chunk with data ready, or finds it in a segment, over as many streams and sessions as it takes.
    fn fetch(&mut self) -> Result<(), TransferError> {
        let wait = self.shared.config.wait;
        let mut deadline = Instant::now() + wait;
        if self.ready.is_some_and(|chunk| chunk.len == 0) {
            self.leave();
        }
        while !self.has_bytes() {
            if self.stream.is_none() {
                match self.request(&mut deadline) {
                    Ok(()) if self.has_bytes() => break,
                    Ok(()) => {}
                    // A peer that answers and answers but brings nothing must end, too.
                    Err(NoStream::Lost) if Instant::now() < deadline => continue,
                    Err(NoStream::Lost | NoStream::Unavailable) => {
                        return Err(TransferError::Unavailable(self.shared.absence()));
                    }
                    Err(NoStream::Stopped) => return Err(TransferError::Stopped),
                    Err(NoStream::NoSegment) => return Err(TransferError::NoSegment(wait)),
                }
            }
            match self.step(deadline) {
                Step::Chunk(chunk) => {
                    self.ready = Some(chunk);
                    self.share();
                    if self.has_bytes() {
                        break;
                    }
                    // The stream ended without data.
                    self.leave();
                }
                Step::Refused(Kind::NotFound | Kind::Changed) => return Err(TransferError::Changed),
                Step::Refused(_) => return Err(TransferError::Failed),
                Step::Lost => self.leave(),
                Step::TimedOut => return Err(TransferError::Unavailable(self.shared.absence())),
            }
            if Instant::now() >= deadline {
                return Err(TransferError::Unavailable(self.shared.absence()));
            }
        }
        Ok(())
    }

    /// Whether the next bytes are ready, or in a segment that this transfer reads.
    fn has_bytes(&self) -> bool {
        self.guard.is_some() || self.ready.is_some_and(|chunk| chunk.len > 0)
    }

    /// Waits for the next chunk of the stream.
    fn step(&mut self, deadline: Instant) -> Step {
        let stream = self.stream.as_mut().expect("step is called with a stream");
        let session = Arc::clone(&stream.session);
        let control = session.arena.control(stream.consumer.head());
        let chunk = loop {
            if session.is_lost() {
                return Step::Lost;
            }
            match stream.consumer.poll(control, session.arena.segment_size()) {
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
            stream.consumer.wait(control, stream.yields(), left.min(LOST_CHECK_INTERVAL));
            // A file that the daemon cannot read on must not keep the others waiting.
            if stream.turn_is_over(&self.shared.semaphore) {
                (stream.permit, stream.waived) = (None, true);
            }
        };
        stream.ended = chunk.kind.ends_stream();
        if !matches!(chunk.kind, Kind::Data | Kind::End | Kind::Paused) {
            return Step::Refused(chunk.kind);
        }
        if !std::mem::replace(&mut stream.answered, true) {
            let file = stream.consumer.file(control);
            if self.file.is_some_and(|known| known != file) {
                return Step::Refused(Kind::Changed);
            }
            if i64::try_from(file.len).is_err() {
                session.lose(Some(&Violation("file_len").to_string()));
                return Step::Lost;
            }
            if self.file.is_none() {
                let is_shareable = self.may_hold(file);
                self.stream.as_mut().expect("as above").is_shareable = is_shareable;
            }
            self.file = Some(file);
        }
        match self.take_in(self.at, chunk) {
            Ok(()) => Step::Chunk(chunk),
            Err(violation) => {
                session.lose(Some(&violation.to_string()));
                Step::Lost
            }
        }
    }

    /// Checks a chunk that begins `at`, and takes note of what its segment holds.
    fn take_in(&mut self, at: u64, chunk: Published) -> Result<(), Violation> {
        if !self.fits(at, chunk) {
            return Err(MISFIT);
        }
        match (&mut self.stream, self.file) {
            (Some(stream), Some(file)) => stream.note(self.key, file, at, chunk),
            _ => Ok(()),
        }
    }

    /// Takes in all the rest of a stream that keeps what it brings, once the daemon is done with it.
    fn finish(&mut self) {
        if self.ready.is_some() {
            return;
        }
        let mut at = self.at;
        let goes_on =
            |stream: &&mut RecvStream<'_>| stream.retains && stream.is_shareable && stream.answered && !stream.ended;
        while let Some(stream) = self.stream.as_mut().filter(goes_on) {
            let session = Arc::clone(&stream.session);
            let control = session.arena.control(stream.consumer.head());
            let chunk = match stream.consumer.poll_ended(control, session.arena.segment_size()) {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return,
                Err(violation) => return session.lose(Some(&violation.to_string())),
            };
            stream.ended = chunk.kind.ends_stream();
            if let Err(violation) = self.take_in(at, chunk) {
                return session.lose(Some(&violation.to_string()));
            }
            at += u64::from(chunk.len);
        }
        self.share();
    }

    /// Once the daemon is done with a stream, what it brought is for all, and this transfer reads on as one of them.
    fn share(&mut self) {
        if let Some(stream) = self.stream.take_if(|stream| stream.ended && stream.is_shareable) {
            self.ready = None;
            let lookup = self.lookup(stream.asked);
            self.guard = stream.share(&lookup);
        }
    }

    /// Grants idle segments to a stream that has more to bring than fits its own. One that keeps them has got its own.
    fn grant(&mut self) {
        let left = self.len() - self.at;
        let takes_turns = self.takes_turns();
        let Some(stream) = self.stream.as_mut().filter(|stream| !stream.retains) else { return };
        if takes_turns && stream.permit.is_none() {
            stream.permit = self.shared.semaphore.try_permit();
            if stream.permit.is_none() {
                return;
            }
        }
        stream.grant(left);
    }

    /// Gives the segments of a run to the producer again, or to somebody who waits for one.
    fn release(&mut self, run: Run) {
        if self.guard.take().is_some() {
            return;
        }
        let takes_turns = self.takes_turns();
        let Some(stream) = &mut self.stream else { return };
        if stream.ended {
            return self.leave();
        }
        if stream.turn_is_over(&self.shared.semaphore) || takes_turns && stream.permit.is_none() && !stream.waived {
            return self.leave();
        }
        if stream.release(run) {
            self.leave();
        }
    }

    /// Gives the stream's segments back; those of a stream that has not ended only once it has.
    fn leave(&mut self) {
        self.ready = None;
        if let Some(stream) = self.stream.take() {
            stream.leave();
        }
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        if self.is_inherited() {
            // What it has is the parent's.
            forget((self.stream.take(), self.guard.take()));
            return;
        }
        self.leave();
    }
}
