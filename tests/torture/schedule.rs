//! The schedule: rounds of events, each with a calm at its end in which every file must be there, and be the newest.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tempfile::TempDir;

use crate::client::{End, Manner, download};
use crate::disk::{Disk, draw_length};
use crate::house::{House, PROCESSES, Process, ROUTES, Route};
use crate::ledger::{FILES, Ledger, ON_DISK, State};
use crate::pair::until;

const CLIENTS: u64 = 8;
/// Events of a round.
const EVENTS: usize = 150;
/// After so many events other files are hot.
const COURSE: usize = 25;
/// How long the origin is silent before a calm begins. Requests whose clients have left are over by then, as are the
/// times in which a file may be an older one or an error.
const SILENCE: Duration = Duration::from_millis(1600);

/// How much of the log is a part of a report.
const REPORTED: Duration = Duration::from_secs(5);

pub struct Run {
    seed: u64,
    directory: TempDir,
    ledger: Arc<Ledger>,
    /// Clients hold it for reading, each for a request; who has it for writing is alone.
    gate: RwLock<()>,
    /// A file on the disk and one on the origin that are asked for and changed all the time.
    hot: [AtomicUsize; 2],
    stop: AtomicBool,
    ends: Mutex<BTreeMap<String, usize>>,
}

impl Run {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            directory: tempfile::tempdir().expect("a directory"),
            ledger: Arc::new(Ledger::new()),
            gate: RwLock::new(()),
            hot: [AtomicUsize::new(0), AtomicUsize::new(ON_DISK)],
            stop: AtomicBool::new(false),
            ends: Mutex::default(),
        }
    }

    /// Runs for about this time; what has failed, and what led to it.
    pub fn go(&self, time: Duration) -> Option<String> {
        let mut random = Rng::with_seed(self.seed);
        let mut disk = Disk::start(self.directory.path(), &self.ledger, &mut random);
        (ON_DISK..FILES).for_each(|file| self.publish(file, &mut random));
        let mut house = House::start(self.directory.path(), self.seed, &self.ledger);
        let ports = house.ports();
        thread::scope(|scope| {
            let _stop = StopOnDrop(&self.stop);
            for number in 0..CLIENTS {
                let ports = Arc::clone(&ports);
                scope.spawn(move || self.client(number, &ports));
            }
            let deadline = Instant::now() + time;
            while Instant::now() < deadline && !self.ledger.failed() {
                self.round(&mut house, &mut disk, &mut random);
            }
        });
        if !self.ledger.failed() {
            house.lose_nothing();
        }
        println!("{:?}", self.ends.lock().expect("not poisoned"));
        self.ledger.report(REPORTED).map(|report| format!("{}{report}", house.said()))
    }

    fn round(&self, house: &mut House, disk: &mut Disk<'_>, random: &mut Rng) {
        // One process may die in a round; the others grow old.
        let victim = PROCESSES[random.usize(..PROCESSES.len())];
        self.ledger.note(format!("a round begins; {victim:?} may die"));
        for event in 0..EVENTS {
            if event % COURSE == 0 {
                self.hot[0].store(random.usize(..ON_DISK), Ordering::SeqCst);
                self.hot[1].store(random.usize(ON_DISK..FILES), Ordering::SeqCst);
            }
            match random.u32(..100) {
                0..2 => self.restart(house, victim, random),
                2..4 => self.freeze(house, random),
                4 => house.reload(),
                5..65 => disk.step(self.draw_file(0..ON_DISK, random), random),
                _ => self.publish(self.draw_file(ON_DISK..FILES, random), random),
            }
            sleep(Duration::from_millis(random.u64(..40)));
            if self.ledger.failed() {
                return;
            }
        }
        self.calm(house, random);
    }

    /// Half of what happens, happens to one file for a while.
    fn draw_file(&self, files: Range<usize>, random: &mut Rng) -> usize {
        let hot = &self.hot[usize::from(files.start == ON_DISK || (files.end == FILES && random.bool()))];
        let other = random.usize(files);
        if random.bool() { hot.load(Ordering::SeqCst) } else { other }
    }

    fn restart(&self, house: &mut House, process: Process, random: &mut Rng) {
        self.ledger.note(format!("{process:?} dies"));
        house.restart(process, random);
        self.ledger.note(format!("{process:?} serves again"));
    }

    fn freeze(&self, house: &House, random: &mut Rng) {
        let process = PROCESSES[random.usize(..PROCESSES.len())];
        let time = Duration::from_millis(random.u64(..800));
        self.ledger.note(format!("{process:?} stops for {time:?}"));
        house.freeze(process, time);
    }

    /// Gives a file of the origin another version, or none.
    fn publish(&self, file: usize, random: &mut Rng) {
        let old = self.ledger.state(file);
        let (length, kind) = (draw_length(random), random.u32(..10));
        let len = match kind {
            0 => None,
            1..5 => old.len.or(Some(length)),
            _ => Some(length),
        };
        let state = State { version: old.version + 1, len };
        self.ledger.note(format!("origin has {state:?} as /f/{file}"));
        self.ledger.change(file, state, Duration::ZERO, || ());
    }

    fn calm(&self, house: &mut House, random: &mut Rng) {
        let _alone = self.gate.write().expect("not poisoned");
        self.ledger.note("a calm begins");
        house.origin.set_calm(true);
        let mut idle_since = Instant::now();
        until("silence at the origin", || {
            if !house.origin.is_idle() {
                idle_since = Instant::now();
            }
            (idle_since.elapsed() > SILENCE).then_some(())
        });
        house.origin.send_strays(random);
        let ports = house.ports();
        for route in ROUTES {
            for file in route.files() {
                self.is_newest(route, file, &ports, random);
            }
        }
        house.settle();
        house.origin.set_calm(false);
    }

    /// In a calm only a busy machine is a reason to ask again.
    fn is_newest(&self, route: Route, file: usize, ports: &[AtomicU16; 3], random: &mut Rng) {
        until(&format!("/f/{file} by {route:?}"), || {
            let end = self.ask(route, file, Manner::Plain, ports, random);
            let right = if self.ledger.state(file).len.is_some() { End::Whole } else { End::NotFound };
            (self.ledger.failed() || end == Some(right)).then_some(())
        });
    }

    fn client(&self, number: u64, ports: &[AtomicU16; 3]) {
        let mut random = Rng::with_seed(self.seed.wrapping_add(number + 1));
        while !self.stop.load(Ordering::SeqCst) && !self.ledger.failed() {
            let route = ROUTES[random.usize(..ROUTES.len())];
            let (file, manner) = (self.draw_file(route.files(), &mut random), draw_manner(&mut random));
            let request = self.gate.read().expect("not poisoned");
            let end = self.ask(route, file, manner, ports, &mut random);
            drop(request);
            if end == Some(End::NoAnswer) {
                // A proxy that is gone is not asked without a pause.
                sleep(Duration::from_millis(10));
            }
        }
    }

    /// One request; its end, if nothing was wrong with it.
    fn ask(&self, route: Route, file: usize, manner: Manner, ports: &[AtomicU16; 3], random: &mut Rng) -> Option<End> {
        let port = ports[route as usize].load(Ordering::SeqCst);
        let asked = Instant::now();
        let judged = download(port, file, manner, random).and_then(|outcome| {
            let what = format!("{manner:?} /f/{file} by {route:?}: {:?}", outcome.end);
            self.ledger.note(format!("{what}, {} of {} in {:?}", outcome.seen, outcome.len, asked.elapsed()));
            self.ledger.judge(route, file, &outcome).map(|()| outcome.end)
        });
        match judged {
            Ok(end) => {
                *self.ends.lock().expect("not poisoned").entry(format!("{route:?} {end:?}")).or_default() += 1;
                Some(end)
            }
            Err(wrong) => {
                self.ledger
                    .fail(format!("{manner:?} /f/{file} by {route:?}, asked {:?} ago: {wrong}", asked.elapsed()));
                None
            }
        }
    }
}

fn draw_manner(random: &mut Rng) -> Manner {
    match random.u32(..100) {
        0..6 => Manner::Slow,
        6..20 => Manner::Leaver,
        20..25 => Manner::Fickle,
        25..30 => Manner::Knocker,
        30..40 => Manner::Halting,
        _ => Manner::Plain,
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if thread::panicking() {
            self.ledger.fail("the schedule panicked".to_owned());
            println!("{}", self.ledger.report(REPORTED).expect("it failed"));
        }
    }
}

/// Ends the clients also where the schedule panics.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
