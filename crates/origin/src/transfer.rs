//! One request on its way: what comes from libcurl, over one or more attempts, becomes one answer to the client.

use std::ffi::CString;
use std::mem;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use super::buffered_body::Body;
use super::config::Config;
use super::deadlines::{Deadlines, Late};
use super::response_head::{Encoding, Head, Length};
use super::sink::Sink;
use super::spool::{Budgets, DeliverError, Spool};
use super::status::{Meaning, is_transient, meaning};
use super::surplus::Surplus;
use crate::curl::{Ending, Error, Receiver};
use getfile::{ClientGone, Outcome};

/// The body of an error page is read up to here, so that its connection can be kept.
const DRAIN: usize = 64 << 10;
/// All heads of one attempt together.
const MAX_HEADS: usize = 256 << 10;
/// How often a wait looks whether it still has a purpose.
const LOOK: Duration = Duration::from_millis(100);

/// How an attempt, and with it perhaps the request, ended.
pub(super) enum End {
    Done(Outcome),
    Failure(Failure),
}

/// What is still to be fetched after an attempt that failed.
pub(super) enum Rest {
    /// The client has nothing yet.
    All,
    /// The client has the first `offset` of `length` bytes; the field makes the origin go on with the same version.
    From { offset: u64, length: u64, if_range: CString },
    /// The client has a part, and nothing tells whether the rest would be of the same version.
    Lost,
}

/// An attempt that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// What is to be waited at least before another attempt; `None` where none may fare better.
    pub(super) again: Option<Duration>,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<ClientGone> for End {
    fn from(gone: ClientGone) -> Self {
        Self::Done(Outcome::Cut(gone.to_string()))
    }
}

fn lasting(reason: impl ToString) -> End {
    Failure { reason: reason.to_string(), again: None }.into()
}

fn transient(reason: impl ToString) -> End {
    Failure { reason: reason.to_string(), again: Some(Duration::ZERO) }.into()
}

/// What the current attempt does with its body.
enum Mode {
    /// Not known yet: no body byte of a final response has come.
    Undecided,
    /// Bytes go to the client as they come, after `skip` of them that it has.
    Stream {
        skip: u64,
    },
    Keep(Body),
    /// An empty file.
    Empty,
    /// A page that is not the file: at most this many more bytes are read.
    Drain(usize),
}

pub(super) struct Transfer<'a> {
    config: &'a Config,
    budgets: &'a Budgets,
    surplus: &'a Surplus,
    sink: &'a mut dyn Sink,
    /// Whether a content encoding is the file's own.
    keeps_encoding: bool,
    deadlines: Deadlines,
    head: Head,
    heads_len: usize,
    mode: Mode,
    /// The bytes of the attempt's body so far.
    received: u64,
    /// Why the attempt was ended from our side.
    stop: Option<End>,
    /// The length in the header that the client has got.
    announced: Option<u64>,
    delivered: u64,
    /// The head that the file which the client is getting began with, once another attempt has begun.
    first: Option<Head>,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(
        config: &'a Config,
        budgets: &'a Budgets,
        surplus: &'a Surplus,
        sink: &'a mut dyn Sink,
        keeps_encoding: bool,
    ) -> Self {
        Self {
            config,
            budgets,
            surplus,
            sink,
            keeps_encoding,
            deadlines: Deadlines::new(config, Instant::now()),
            head: Head::default(),
            heads_len: 0,
            mode: Mode::Undecided,
            received: 0,
            stop: None,
            announced: None,
            delivered: 0,
            first: None,
        }
    }

    /// The number of bytes that the client has got.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// What another attempt would have to ask for.
    pub(super) fn rest(&self) -> Rest {
        let Some(length) = self.announced else { return Rest::All };
        let validator = self.first.as_ref().unwrap_or(&self.head).validator();
        let field = validator.and_then(|validator| CString::new([b"If-Range: ", validator].concat()).ok());
        field.map_or(Rest::Lost, |if_range| Rest::From { offset: self.delivered, length, if_range })
    }

    /// The outcome of a request that failed for good.
    pub(super) fn give_up(&self, reason: String) -> Outcome {
        if self.announced.is_some() { Outcome::Cut(reason) } else { Outcome::Failed(reason) }
    }

    /// Prepares for another attempt.
    pub(super) fn begin_attempt(&mut self) {
        let head = mem::take(&mut self.head);
        if self.announced.is_some() {
            self.first.get_or_insert(head);
            self.sink.resumed();
        }
        self.deadlines.attempt_begins(Instant::now());
        self.mode = Mode::Undecided;
        self.received = 0;
        self.stop = None;
    }

    /// Waits before another attempt; false if nobody waits for it any more, or no time is left.
    pub(super) fn wait(&mut self, wait: Duration) -> bool {
        let end = Instant::now() + wait;
        loop {
            let now = Instant::now();
            if self.sink.is_abandoned() || self.deadlines.is_over(now) {
                return false;
            }
            if now >= end {
                return true;
            }
            thread::sleep(LOOK.min(end - now));
        }
    }

    /// What became of the attempt that libcurl ended with `result`.
    pub(super) fn finish(&mut self, result: Result<Ending, Error>) -> End {
        if let Some(stop) = self.stop.take() {
            return stop;
        }
        match result {
            Ok(ending) => self.complete(ending).unwrap_or_else(|end| end),
            Err(error) if error.is_transient() => transient(error),
            Err(error) => lasting(error),
        }
    }

    /// The whole response is here.
    fn complete(&mut self, ending: Ending) -> Result<End, End> {
        if !self.head.is_whole() {
            return Err(transient("the origin closed the connection inside of a head"));
        }
        if matches!(self.mode, Mode::Undecided) {
            self.decide()?;
        }
        if matches!(self.mode, Mode::Keep(_)) && self.head.ends_by_close() && ending == Ending::Abrupt {
            return Err(transient("the origin's TLS connection broke off where only its close ends the body"));
        }
        match mem::replace(&mut self.mode, Mode::Undecided) {
            Mode::Undecided | Mode::Drain(_) => Err(self.no_file()),
            Mode::Empty => self.deliver_empty(),
            // Not even compressed: the empty file of an origin that labels all its answers.
            Mode::Keep(_) if self.received == 0 => self.deliver_empty(),
            Mode::Keep(body) => self.deliver_spool(&mut body.finish().map_err(lasting)?),
            Mode::Stream { .. } => match self.announced {
                Some(length) if self.delivered == length => Ok(End::Done(Outcome::Sent(length))),
                None if self.head.length() == Length::Known(0) => self.deliver_empty(),
                _ => Err(transient("the origin ended the body before its length")),
            },
        }
    }

    fn deliver_empty(&mut self) -> Result<End, End> {
        self.sink.header(0)?;
        Ok(End::Done(Outcome::Sent(0)))
    }

    fn deliver_spool(&mut self, spool: &mut Spool) -> Result<End, End> {
        self.sink.header(spool.len())?;
        self.announced = Some(spool.len());
        match spool.deliver(self.sink) {
            Ok(()) => Ok(End::Done(Outcome::Sent(spool.len()))),
            Err(DeliverError::Client(gone)) => Err(gone.into()),
            Err(error @ DeliverError::Io(_)) => Err(lasting(error)),
        }
    }

    /// The answer for a response that is not the file.
    fn no_file(&self) -> End {
        match meaning(self.head.status) {
            Meaning::NotFound if self.announced.is_none() => End::Done(Outcome::NotFound),
            _ if self.announced.is_some() => self.no_rest(),
            _ => lasting(format_args!("the origin answered {}", self.head.status)),
        }
    }

    /// The same where the rest of a file was asked for. Only a status that may pass is a reason to ask again.
    fn no_rest(&self) -> End {
        let status = self.head.status;
        let wait = self.head.retry_after().unwrap_or_default();
        let told = if wait.is_zero() { String::new() } else { format!(", and to come back in {wait:?},") };
        let reason = format!("the origin answered {status}{told} when asked for the rest");
        Failure { reason, again: is_transient(status).then_some(wait) }.into()
    }

    /// The head of the final response is here: what its body is for.
    fn decide(&mut self) -> Result<(), End> {
        self.deadlines.body_begins(Instant::now());
        self.mode = match self.announced {
            Some(length) => self.decide_on_rest(length)?,
            None => self.decide_on_file()?,
        };
        Ok(())
    }

    fn decide_on_file(&mut self) -> Result<Mode, End> {
        match meaning(self.head.status) {
            Meaning::NotFound | Meaning::Error => return Ok(Mode::Drain(DRAIN)),
            Meaning::Empty => return Ok(Mode::Empty),
            Meaning::File => {}
        }
        let spool = || Spool::new(self.config, self.budgets);
        let encoding = if self.keeps_encoding { Encoding::None } else { self.head.encoding };
        match (encoding, self.head.length()) {
            (_, Length::Malformed) => Err(lasting(
                "the origin sent a malformed length, an unknown transfer encoding, or a field that is folded",
            )),
            (Encoding::None, Length::Known(_)) => Ok(Mode::Stream { skip: 0 }),
            (Encoding::None, Length::Unknown) => Ok(Mode::Keep(Body::plain(spool()))),
            (Encoding::Gzip, _) => Ok(Mode::Keep(Body::gzip(spool()))),
            (Encoding::Other, _) => Err(lasting("the origin sent a content encoding that was not asked for")),
        }
    }

    /// An answer to a request for the rest of a file of `length` bytes. It must be of the same version: two versions
    /// are never mixed.
    fn decide_on_rest(&self, length: u64) -> Result<Mode, End> {
        let head = &self.head;
        let skip = match head.status {
            206 if self.is_rest(length) => 0,
            206 => return Err(lasting("the origin went on with another range")),
            // No ranges here: the same version once more, of which the client has the beginning.
            200 if head.length() == Length::Known(length) => self.delivered,
            200 => return Err(lasting("the file at the origin has changed")),
            _ => return Ok(Mode::Drain(DRAIN)),
        };
        if !self.first.as_ref().is_some_and(|first| head.is_version_of(first)) {
            return Err(lasting("the file at the origin has changed: it went on with another version"));
        }
        Ok(Mode::Stream { skip })
    }

    /// Whether the head announces all that is still wanted of `length` bytes, and nothing else.
    fn is_rest(&self, length: u64) -> bool {
        let wanted = length - self.delivered;
        let right_length = matches!(self.head.length(), Length::Unknown) || self.head.length() == Length::Known(wanted);
        right_length
            && self.head.content_range().is_some_and(|range| {
                range.first == self.delivered
                    && range.last == length - 1
                    && range.total.is_none_or(|total| total == length)
            })
    }

    fn take(&mut self, data: &[u8]) -> Result<(), End> {
        if matches!(self.mode, Mode::Undecided) {
            self.decide()?;
        }
        let unheeded = self.head.unheeded_length();
        let left = unheeded.map_or(u64::MAX, |length| length - self.received);
        let data = &data[..data.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.received += data.len() as u64;
        self.keep(data)?;
        if unheeded == Some(self.received) { Err(self.end_here()) } else { Ok(()) }
    }

    /// All of the body is here, though libcurl waits for more.
    fn end_here(&mut self) -> End {
        self.complete(Ending::Orderly).unwrap_or_else(|end| end)
    }

    fn keep(&mut self, data: &[u8]) -> Result<(), End> {
        match &mut self.mode {
            Mode::Keep(body) => body.push(data).map_err(lasting),
            Mode::Stream { skip } => {
                let (skipped, data) = data.split_at(data.len().min(usize::try_from(*skip).unwrap_or(usize::MAX)));
                *skip -= skipped.len() as u64;
                self.stream(data)
            }
            Mode::Drain(left) => {
                *left = left.saturating_sub(data.len());
                if *left == 0 { Err(self.no_file()) } else { Ok(()) }
            }
            Mode::Empty | Mode::Undecided => Ok(()),
        }
    }

    fn stream(&mut self, data: &[u8]) -> Result<(), End> {
        let length = match (self.announced, self.head.length()) {
            (Some(length), _) | (None, Length::Known(length)) => length,
            (None, _) => return Err(lasting("a body without a length")),
        };
        if data.len() as u64 > length - self.delivered {
            return Err(lasting("the origin sent more than the rest that it was asked for"));
        }
        if self.announced.is_none() {
            self.sink.header(length)?;
            self.announced = Some(length);
        }
        if !data.is_empty() {
            self.sink.body(data)?;
            self.delivered += data.len() as u64;
        }
        Ok(())
    }

    fn flow(&mut self, result: Result<(), End>) -> ControlFlow<()> {
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(end) => {
                self.stop = Some(end);
                ControlFlow::Break(())
            }
        }
    }
}

impl Receiver for Transfer<'_> {
    fn header(&mut self, line: &[u8]) -> ControlFlow<()> {
        self.heads_len += line.len();
        if self.heads_len > MAX_HEADS {
            return self.flow(Err(lasting("the origin's header fields are too large")));
        }
        if matches!(self.mode, Mode::Undecided) {
            self.head.line(line);
            if self.head.is_whole() && self.head.unheeded_length() == Some(0) && !self.head.is_redirect() {
                let end = self.end_here();
                return self.flow(Err(end));
            }
        }
        ControlFlow::Continue(())
    }

    fn body(&mut self, data: &[u8]) -> ControlFlow<()> {
        let before = Instant::now();
        let result = self.take(data);
        self.deadlines.received(data.len(), before, Instant::now());
        self.flow(result)
    }

    fn surplus(&mut self) {
        self.surplus.seen(Instant::now());
    }

    fn begin(&mut self) -> bool {
        (self.head, self.heads_len) = (Head::default(), 0);
        !self.surplus.is_recent(Instant::now())
    }

    fn tick(&mut self) -> ControlFlow<()> {
        if self.sink.is_abandoned() {
            return self.flow(Err(ClientGone.into()));
        }
        let result = self.deadlines.check(Instant::now()).map_err(|late| match late {
            // The rest may come faster over another connection.
            Late::LowSpeed(..) => transient(late),
            Late::FirstByte(_) | Late::Total => lasting(late),
        });
        self.flow(result)
    }
}
