//! What was true when: which state each file had, which faults may excuse an answer, and the log of all events.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::acts::is_named;
use crate::client::{End, Outcome};
use crate::house::{Process, Route};

pub const FILES: usize = 20;
/// The files below this number are on the disk, the others on the origin.
pub const ON_DISK: usize = 12;
/// A request that takes longer may have met a time limit of a program, or a machine that is busy with other things.
const SLOW: Duration = Duration::from_secs(2);
/// Readers may get what was read so long before: docs/reference/locals.md, on files that are written in place.
const HELD: Duration = Duration::from_millis(100);
/// Readers wait until a write was so long ago: one that takes no longer is never seen half done.
const BRISK: Duration = Duration::from_millis(5);
/// Requests for a file that was written without a pause do not wait for one within this time.
const RESTLESS: Duration = Duration::from_millis(1500);
/// How often the proxies ask again.
const ATTEMPTS: usize = 3;
/// How many events are kept for a report, and how many states of a file.
const KEPT: usize = 20_000;

/// Content and length of a file; None if there is none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub version: u32,
    pub len: Option<u64>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.len {
            Some(len) => write!(f, "{len} bytes of version {}", self.version),
            None => write!(f, "nothing"),
        }
    }
}

/// What an origin's failure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The proxy asks again.
    Passing,
    Lasting,
}

/// From the beginning of a request to the end of its answer.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub start: Instant,
    pub end: Instant,
}

impl Window {
    fn meets(&self, from: Instant, until: Option<Instant>) -> bool {
        from <= self.end && until.is_none_or(|until| until >= self.start)
    }

    fn since(self, earlier: Duration) -> Self {
        Self { start: self.start.checked_sub(earlier).unwrap_or(self.start), ..self }
    }
}

/// When something was so; no end: it still is.
struct Period<T> {
    what: T,
    from: Instant,
    until: Option<Instant>,
}

struct History {
    states: VecDeque<Period<State>>,
    /// Writes in place, and what else running transfers see of the file; whether they may be seen half done.
    writes: VecDeque<Period<bool>>,
    /// Ends of writes in place after which the time was set back.
    backdated: VecDeque<Instant>,
    faults: VecDeque<(Instant, Fault)>,
}

pub struct Ledger {
    start: Instant,
    files: Vec<Mutex<History>>,
    outages: Mutex<Vec<Period<Process>>>,
    log: Mutex<VecDeque<(Instant, String)>>,
    failure: Mutex<Option<String>>,
    failed: AtomicBool,
}

impl Ledger {
    /// No file exists yet.
    pub fn new() -> Self {
        let start = Instant::now();
        let absent = || {
            let states = VecDeque::from([Period { what: State { version: 0, len: None }, from: start, until: None }]);
            Mutex::new(History { states, writes: VecDeque::new(), backdated: VecDeque::new(), faults: VecDeque::new() })
        };
        Self {
            start,
            files: (0..FILES).map(|_| absent()).collect(),
            outages: Mutex::default(),
            log: Mutex::default(),
            failure: Mutex::default(),
            failed: AtomicBool::new(false),
        }
    }

    fn file(&self, file: usize) -> MutexGuard<'_, History> {
        self.files[file].lock().expect("not poisoned")
    }

    pub fn state(&self, file: usize) -> State {
        self.file(file).states.back().expect("never empty").what
    }

    /// Lets `action` give a file another state. The former may be served until so long after the action.
    pub fn change(&self, file: usize, state: State, longer: Duration, action: impl FnOnce()) {
        let mut history = self.file(file);
        push(&mut history.states, Period { what: state, from: Instant::now(), until: None });
        drop(history);
        action();
        let mut history = self.file(file);
        let former = history.states.len() - 2;
        history.states[former].until = Some(Instant::now() + longer);
    }

    /// The same for a change that is not one step, and that running transfers notice.
    pub fn write(&self, file: usize, state: State, action: impl FnOnce()) {
        let from = Instant::now();
        push(&mut self.file(file).writes, Period { what: true, from, until: None });
        self.change(file, state, HELD, action);
        let mut history = self.file(file);
        let write = history.writes.back_mut().expect("pushed above");
        (write.what, write.until) = (from.elapsed() > BRISK, Some(Instant::now() + HELD));
    }

    /// Notes that a write in place has set the time of the file back.
    pub fn backdate(&self, file: usize) {
        push(&mut self.file(file).backdated, Instant::now());
    }

    /// From now on answers for this file may fail, if their requests have come before.
    pub fn fault(&self, file: usize, fault: Fault) {
        push(&mut self.file(file).faults, (Instant::now(), fault));
    }

    /// Notes that a process serves no longer, until `action` has ended.
    pub fn outage(&self, process: Process, action: impl FnOnce()) {
        let outages = || self.outages.lock().expect("not poisoned");
        outages().push(Period { what: process, from: Instant::now(), until: None });
        action();
        outages().last_mut().expect("pushed above").until = Some(Instant::now());
    }

    fn down(&self, process: Process, window: Window) -> bool {
        let outages = self.outages.lock().expect("not poisoned");
        outages.iter().rev().any(|outage| outage.what == process && window.meets(outage.from, outage.until))
    }

    /// Says what is wrong with an answer. Nothing is, where it was right at some time in its window.
    pub fn judge(&self, route: Route, file: usize, outcome: &Outcome) -> Result<(), String> {
        let Outcome { window, end, announced, len, seen } = outcome;
        let history = self.file(file);
        // A request may join another's that the origin answers already.
        let joins = route == Route::Both && file >= ON_DISK;
        let asked = if joins { Window { start: self.start, ..*window } } else { *window };
        let mut states = history.states.iter().filter(|period| asked.meets(period.from, period.until));
        let writes = |window: Window| history.writes.iter().filter(move |write| window.meets(write.from, write.until));
        let written = |window| writes(window).next().is_some();
        let slow = window.end - window.start > SLOW;

        let is_one = |state: &State| state.len == Some(*len) && seen.is_of(file, state.version);
        let torn = writes(*window).any(|write| write.what) || history.was_hidden(*window);
        if *announced && !torn && !states.clone().any(|period| is_one(&period.what)) {
            let states: Vec<_> = states.map(|period| period.what).collect();
            return Err(format!("{end:?} with {seen} of {len}, but it was {states:?}"));
        }
        let changed = states.clone().nth(1).is_some();
        let repeatable = !joins && !changed && states.clone().all(|period| is_named(period.what.version));
        let origin_failed = self.down(Process::Origin, *window) || history.failed(asked, repeatable);
        let proxy_failed = slow || self.down(route.proxy(), *window);
        let excused = match end {
            End::Whole | End::Left => true,
            End::NotFound => states.any(|period| period.what.len.is_none()),
            End::NoAnswer => proxy_failed,
            End::Error if file < ON_DISK => {
                let missing = states.any(|period| period.what.len.is_none());
                proxy_failed || written(window.since(RESTLESS)) || route == Route::Both && missing && origin_failed
            }
            End::Cut if file < ON_DISK => {
                proxy_failed || written(*window) || changed && self.down(Process::Daemon, *window)
            }
            // One that is joined may have waited for long already.
            End::Error | End::Cut => proxy_failed || origin_failed || joins,
            End::Hangs => false,
        };
        if excused { Ok(()) } else { Err(format!("{end:?} after {:?}, for no reason", window.end - window.start)) }
    }

    pub fn note(&self, event: impl Into<String>) {
        push(&mut self.log.lock().expect("not poisoned"), (Instant::now(), event.into()));
    }

    /// The first failure is the one that is reported.
    pub fn fail(&self, failure: String) {
        self.note(format!("FAILED: {failure}"));
        self.failure.lock().expect("not poisoned").get_or_insert(failure);
        self.failed.store(true, Ordering::SeqCst);
    }

    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// The first failure, behind what happened to its file and to the processes in the time that led to it.
    pub fn report(&self, before: Duration) -> Option<String> {
        let failure = self.failure.lock().expect("not poisoned").clone()?;
        let log = self.log.lock().expect("not poisoned");
        let at = log.iter().find(|(_, event)| event.contains(&failure)).map_or(self.start, |&(time, _)| time);
        let file = failure.split(' ').find(|word| word.starts_with("/f/")).unwrap_or_default();
        let concerns = |event: &str| event.split(' ').all(|word| word == file || !word.starts_with("/f/"));
        let around = log.iter().filter(|(time, event)| *time + before >= at && concerns(event));
        let line = |(time, event): &(Instant, String)| format!("{:9.3} {event}\n", (*time - self.start).as_secs_f64());
        Some(around.map(line).chain([failure.clone()]).collect())
    }
}

impl History {
    /// Whether a write in place may have been hidden from a running transfer: its time was set back, and another change
    /// followed, which a new name looks like. docs/reference/locals.md, on what is not seen.
    fn was_hidden(&self, window: Window) -> bool {
        let within = |at: Instant| window.meets(at, Some(at));
        self.backdated
            .iter()
            .filter(|&&at| within(at))
            .any(|&at| self.states.iter().any(|change| change.from > at && within(change.from)))
    }

    /// Whether what the origin did may have ended a request: `repeatable`, if the proxy can ask for the same once more.
    fn failed(&self, window: Window, repeatable: bool) -> bool {
        let met = |wanted| move |&&(at, fault): &&(Instant, Fault)| fault == wanted && window.meets(at, Some(at));
        let passing = self.faults.iter().filter(met(Fault::Passing)).count();
        self.faults.iter().any(|fault| met(Fault::Lasting)(&fault)) || passing > if repeatable { ATTEMPTS } else { 0 }
    }
}

/// Keeps the last ones.
fn push<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == KEPT {
        queue.pop_front();
    }
    queue.push_back(item);
}
