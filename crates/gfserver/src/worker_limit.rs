//! How many workers are on duty.
//!
//! A connection may wake every worker that waits in the epoll. Where all processors are busy, that is a context switch
//! for nothing: a worker that is awake takes the next connection after its own. With eight workers on two processors it
//! is a quarter of the processor time of a small file. So a few workers are on duty, and the others rest.
//!
//! Handlers may wait for a disk, an origin or a slow client. While many workers are in handlers, the maintenance loop
//! looks at them at intervals. A worker that sleeps in the same call at two looks goes off duty, and another one is
//! called in. For a while every call then counts as one that waits.
//!
//! A short sleep does not count: a handler that asks another process has one in every call. There is one exception.
//! Many workers may be in handlers all the time while a processor is idle. Then they wait for something else than each
//! other, however shortly, and more of them are called in.
use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicIsize, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::gettid;
use parking_lot::{Condvar, Mutex};

/// The time between two looks at the calls while many workers are in one. A call that waits is found within twice this
/// time.
const INTERVAL: Duration = Duration::from_millis(2);
/// How long every call is expected to wait after one was found waiting.
const EXPECTATION: Duration = Duration::from_millis(50);
/// How long the processors are watched.
const WINDOW: Duration = Duration::from_millis(100);
/// A processor that was idle for one in this many parts of the window is idle.
const IDLE: u32 = 5;
/// How long every call is expected to wait after that.
const LONG_EXPECTATION: Duration = Duration::from_secs(1);

pub(super) struct WorkerLimit {
    /// The most workers on duty. Those in calls that wait do not count.
    enough: isize,
    /// The number of workers in calls from which on the maintenance loop looks at them.
    many: isize,
    /// The workers that neither rest nor are in a call that waits. This is above `enough` only until one of them goes
    /// to rest.
    on_duty: AtomicIsize,
    /// The workers in calls that are not known to wait.
    in_calls: AtomicIsize,
    /// Each call counts as one that waits.
    calls_wait: AtomicBool,
    /// The maintenance loop looks at the calls, or has been rung for.
    watched: AtomicBool,
    rest: Mutex<Rest>,
    called_in: Condvar,
}

#[derive(Default)]
struct Rest {
    resting: usize,
    /// The resting workers that have been called in and have not left yet.
    called: usize,
    ending: bool,
}

/// One worker's calls.
#[derive(Default)]
pub(super) struct Calls {
    /// The number of the call, and in the lowest bits whether it goes on, and whether it counts as one that waits.
    state: AtomicU32,
    /// The worker's thread.
    thread: AtomicI32,
}

const STATE: u32 = 3;
const IN_CALL: u32 = 1;
const WAITS: u32 = 2;
const NEXT: u32 = 4;

impl Calls {
    /// The calling thread is the worker's.
    pub(super) fn adopt(&self) {
        self.thread.store(gettid().as_raw(), Ordering::Relaxed);
    }

    pub(super) fn is_of_this_thread(&self) -> bool {
        self.thread.load(Ordering::Relaxed) == gettid().as_raw()
    }

    /// Whether the worker sleeps: it neither runs nor waits for a processor. True where /proc cannot tell.
    fn sleeps(&self) -> bool {
        let mut buffer = [0; 64];
        let stat = format!("/proc/self/task/{}/stat", self.thread.load(Ordering::Relaxed));
        let length = File::open(stat).and_then(|mut stat| stat.read(&mut buffer)).unwrap_or(0);
        // "17 (name) S ...", see proc_pid_stat(5).
        let state = buffer[..length].iter().position(|byte| *byte == b')').and_then(|at| buffer.get(at + 2));
        state != Some(&b'R')
    }
}

/// The maintenance loop's memory between two looks.
#[derive(Default)]
pub(super) struct Watch {
    next_look: Option<Instant>,
    expectation_ends: Option<Instant>,
    /// The states of all calls at the last look.
    seen: Vec<u32>,
    /// When the processors began to be watched, and how long they had been idle by then.
    window: Option<(Instant, Duration)>,
}

impl Watch {
    /// Whether a processor had little to do for a whole window. `idle` tells how long all have been idle so far.
    fn is_idle(&mut self, idle: impl FnOnce() -> Option<Duration>, now: Instant) -> bool {
        if self.window.is_some_and(|(since, _)| now < since + WINDOW) {
            return false;
        }
        let Some(after) = idle() else { return false };
        let ended = self.window.replace((now, after));
        ended.is_some_and(|(since, before)| after.saturating_sub(before) * IDLE >= now - since)
    }
}

/// How long all processors together have been idle since the system began. None where /proc does not tell.
pub(super) fn idle_time() -> Option<Duration> {
    let mut buffer = [0; 256];
    let length = File::open("/proc/stat").and_then(|mut stat| stat.read(&mut buffer)).ok()?;
    // "cpu  user nice system idle iowait ...", in ticks of 10 ms: see proc_stat(5).
    let ticks = |field: &str| field.parse::<u64>().ok();
    let mut fields = str::from_utf8(&buffer[..length]).ok()?.split_ascii_whitespace().skip(4);
    let (idle, waiting) = (ticks(fields.next()?)?, ticks(fields.next()?)?);
    Some(Duration::from_millis((idle + waiting) * 10))
}

impl WorkerLimit {
    pub(super) fn new(workers: usize) -> Self {
        Self::for_processors(workers, thread::available_parallelism().map_or(1, usize::from))
    }

    fn for_processors(workers: usize, processors: usize) -> Self {
        let [workers, processors] = [workers, processors].map(|count| isize::try_from(count).unwrap_or(isize::MAX / 2));
        Self {
            // Two for each processor: some handlers wait a little, too short to be noticed.
            enough: 2 * processors,
            many: processors + 1,
            on_duty: AtomicIsize::new(workers),
            in_calls: AtomicIsize::new(0),
            calls_wait: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            rest: Mutex::default(),
            called_in: Condvar::new(),
        }
    }

    /// Whether the calling worker is one too many on duty: then it is off duty, and must [`Self::rest`].
    pub(super) fn goes_off_duty(&self) -> bool {
        self.on_duty
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |on_duty| (on_duty > self.enough).then(|| on_duty - 1))
            .is_ok()
    }

    /// Rests until the worker is called in, or until the end.
    pub(super) fn rest(&self) {
        let mut rest = self.rest.lock();
        rest.resting += 1;
        self.called_in.wait_while(&mut rest, |rest| rest.called == 0 && !rest.ending);
        rest.resting -= 1;
        rest.called = rest.called.saturating_sub(1);
    }

    /// One worker less is on duty: calls another one in, if one rests.
    fn replace_one(&self) {
        if self.on_duty.fetch_sub(1, Ordering::SeqCst) > self.enough {
            return;
        }
        let mut rest = self.rest.lock();
        if rest.called < rest.resting {
            rest.called += 1;
            self.on_duty.fetch_add(1, Ordering::SeqCst);
            self.called_in.notify_one();
        }
    }

    /// Ends the rest of all workers: the server ends.
    pub(super) fn end_rest(&self) {
        self.rest.lock().ending = true;
        self.called_in.notify_all();
    }

    /// The worker enters its handler. True where the maintenance loop must be rung for.
    pub(super) fn enter_call(&self, calls: &Calls) -> bool {
        let next = (calls.state.load(Ordering::Relaxed) & !STATE).wrapping_add(NEXT);
        if self.calls_wait.load(Ordering::Relaxed) {
            calls.state.store(next | WAITS, Ordering::Release);
            self.replace_one();
            return false;
        }
        calls.state.store(next | IN_CALL, Ordering::Release);
        // In this order: a watch that ends looks at the count after everybody can see the end.
        self.in_calls.fetch_add(1, Ordering::SeqCst) + 1 >= self.many
            && !self.watched.load(Ordering::SeqCst)
            && !self.watched.swap(true, Ordering::SeqCst)
    }

    /// The worker has left its handler.
    pub(super) fn leave_call(&self, calls: &Calls) {
        if calls.state.fetch_and(!STATE, Ordering::AcqRel) & STATE == WAITS {
            self.on_duty.fetch_add(1, Ordering::SeqCst);
        } else {
            self.in_calls.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The maintenance loop's look at the calls, where it is due. Returns when to look again, if that is needed.
    pub(super) fn watch<'a>(
        &self,
        watch: &mut Watch,
        calls: impl Iterator<Item = &'a Calls>,
        idle: impl FnOnce() -> Option<Duration>,
        now: Instant,
    ) -> Option<Instant> {
        if !self.watched.load(Ordering::SeqCst) {
            return None;
        }
        if now < *watch.next_look.get_or_insert(now + INTERVAL) {
            return watch.next_look;
        }
        watch.expectation_ends = watch.expectation_ends.filter(|end| now < *end);
        if self.replace_waiting(&mut watch.seen, calls) {
            watch.expectation_ends = Some(now + EXPECTATION);
        }
        if watch.expectation_ends.is_none() && watch.is_idle(idle, now) {
            watch.expectation_ends = Some(now + LONG_EXPECTATION);
        }
        self.calls_wait.store(watch.expectation_ends.is_some(), Ordering::Relaxed);
        self.watched.store(false, Ordering::SeqCst);
        let needed = self.in_calls.load(Ordering::SeqCst) >= self.many || watch.expectation_ends.is_some();
        if needed {
            self.watched.store(true, Ordering::SeqCst);
            watch.next_look = watch.expectation_ends.or(Some(now + INTERVAL));
        } else {
            *watch = Watch::default();
        }
        watch.next_look
    }

    /// Takes the workers off duty that sleep in the calls that were `seen` at the last look. Whether there were any.
    fn replace_waiting<'a>(&self, seen: &mut Vec<u32>, calls: impl Iterator<Item = &'a Calls>) -> bool {
        let mut any = false;
        let before = std::mem::take(seen);
        for (index, calls) in calls.enumerate() {
            let current = calls.state.load(Ordering::Acquire);
            seen.push(current);
            let lasts = current & STATE == IN_CALL && before.get(index) == Some(&current);
            if lasts && calls.sleeps() {
                let waits = current & !STATE | WAITS;
                // Fails where the call has ended meanwhile.
                if calls.state.compare_exchange(current, waits, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    self.in_calls.fetch_sub(1, Ordering::SeqCst);
                    self.replace_one();
                    any = true;
                }
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four workers on one processor, two of them on duty.
    fn worker_limit() -> (WorkerLimit, [Calls; 4]) {
        let worker_limit = WorkerLimit::for_processors(4, 1);
        assert!(worker_limit.goes_off_duty() && worker_limit.goes_off_duty() && !worker_limit.goes_off_duty());
        // As if two threads were in `rest`.
        worker_limit.rest.lock().resting = 2;
        (worker_limit, Default::default())
    }

    /// Processors that are never idle.
    fn busy() -> Option<Duration> {
        Some(Duration::ZERO)
    }

    fn called(worker_limit: &WorkerLimit) -> usize {
        worker_limit.rest.lock().called
    }

    #[test]
    fn a_worker_that_sleeps_in_its_call_is_replaced_and_comes_back() {
        let (worker_limit, calls) = worker_limit();
        let mut watch = Watch::default();
        // This thread runs, and no thread has the number 0.
        calls[0].adopt();
        assert!(!worker_limit.enter_call(&calls[1]));
        assert!(worker_limit.enter_call(&calls[0]), "all who are on duty are in calls");
        let start = Instant::now();
        let first = worker_limit.watch(&mut watch, calls.iter(), busy, start).expect("the first look is to come");
        assert_eq!((first, called(&worker_limit)), (start + INTERVAL, 0));
        let look = worker_limit.watch(&mut watch, calls.iter(), busy, first).expect("a call may wait");
        assert_eq!((look, called(&worker_limit)), (first + INTERVAL, 0), "a short sleep is no wait");
        let end = worker_limit.watch(&mut watch, calls.iter(), busy, look).expect("calls wait");
        assert_eq!((end, called(&worker_limit)), (look + EXPECTATION, 1));
        // One after another comes in, while calls wait.
        worker_limit.rest.lock().resting = 3;
        worker_limit.enter_call(&calls[2]);
        assert_eq!(called(&worker_limit), 2);
        calls[..3].iter().for_each(|calls| worker_limit.leave_call(calls));
        assert!(
            worker_limit.goes_off_duty() && worker_limit.goes_off_duty() && !worker_limit.goes_off_duty(),
            "two were called in"
        );
        assert_eq!(worker_limit.watch(&mut watch, calls.iter(), busy, end), None);
        worker_limit.enter_call(&calls[1]);
        assert_eq!(called(&worker_limit), 2, "calls are expected to be short again");
    }

    #[test]
    fn workers_that_run_or_sleep_for_a_moment_are_left_alone() {
        let (worker_limit, calls) = worker_limit();
        calls.iter().for_each(Calls::adopt);
        let (mut watch, mut now) = (Watch::default(), Instant::now());
        // The thread of this one sleeps, but never twice in the same call.
        calls[1].thread.store(0, Ordering::Relaxed);
        worker_limit.enter_call(&calls[0]);
        worker_limit.enter_call(&calls[1]);
        for _ in 0..6 {
            let next = worker_limit.watch(&mut watch, calls.iter(), busy, now).expect("still in their calls");
            assert!(next - now <= INTERVAL);
            now = next;
            worker_limit.leave_call(&calls[1]);
            worker_limit.enter_call(&calls[1]);
        }
        assert_eq!(called(&worker_limit), 0);
    }

    #[test]
    fn many_short_calls_beside_an_idle_processor_call_others_in() {
        for (idle, expected) in [(15, 0), (25, 1)] {
            let (worker_limit, calls) = worker_limit();
            calls.iter().for_each(Calls::adopt);
            worker_limit.enter_call(&calls[0]);
            worker_limit.enter_call(&calls[1]);
            let (start, mut now) = (Instant::now(), Instant::now());
            let mut watch = Watch::default();
            while now - start < 3 * WINDOW {
                // In percent of one processor.
                let idle = || Some((now - start) * idle / 100);
                now = worker_limit.watch(&mut watch, calls.iter(), idle, now).expect("still in their calls");
            }
            worker_limit.enter_call(&calls[2]);
            assert_eq!(called(&worker_limit), expected, "{idle} % idle");
        }
    }

    #[test]
    fn the_system_tells_how_long_it_was_idle() {
        let before = idle_time().expect("/proc/stat");
        assert!(idle_time().expect("/proc/stat") >= before);
    }
}
