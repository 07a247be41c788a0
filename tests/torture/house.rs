//! The processes: a daemon, three proxies and the origin, which are killed, stopped and watched.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::Duration;

use fastrand::Rng;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::fixture::daemon_command;
use crate::ledger::{FILES, Ledger, ON_DISK};
use crate::origin::Origin;
use crate::pair::until;
use crate::procfs::{Holdings, anonymous_memory};
use crate::programs::{Program, program};

/// What a process may hold at the end beyond what it held at first: connections that are kept, descriptors for later.
const MORE_DESCRIPTORS: usize = 40;
const MORE_THREADS: usize = 4;
const MORE_MEMORY: usize = 24 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Plain,
    Cached,
    Both,
    Daemon,
    Origin,
}

pub const PROCESSES: [Process; 5] = [Process::Plain, Process::Cached, Process::Both, Process::Daemon, Process::Origin];

/// Which proxy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Plain,
    Cached,
    Both,
}

pub const ROUTES: [Route; 3] = [Route::Plain, Route::Cached, Route::Both];

impl Route {
    /// The files that it leads to.
    pub fn files(self) -> Range<usize> {
        match self {
            Self::Plain => ON_DISK..FILES,
            Self::Cached => 0..ON_DISK,
            Self::Both => 0..FILES,
        }
    }

    pub fn proxy(self) -> Process {
        PROCESSES[self as usize]
    }
}

/// A program and what it held when it was young.
struct Tenant {
    program: Program,
    baseline: Option<(Holdings, usize)>,
}

pub struct House {
    directory: PathBuf,
    ledger: Arc<Ledger>,
    pub origin: Origin,
    /// The proxies and the daemon.
    tenants: Vec<Tenant>,
    ports: Arc<[AtomicU16; 3]>,
}

impl House {
    /// `directory` has a locals file.
    pub fn start(directory: &Path, seed: u64, ledger: &Arc<Ledger>) -> Self {
        let origin = Origin::start(seed, Arc::clone(ledger));
        let mut house = Self {
            directory: directory.to_owned(),
            ledger: Arc::clone(ledger),
            origin,
            tenants: Vec::new(),
            ports: Arc::default(),
        };
        for process in [Process::Plain, Process::Cached, Process::Both, Process::Daemon] {
            let program = house.launch(process);
            house.tenants.push(Tenant { program, baseline: None });
        }
        house
    }

    /// Where the proxies listen now.
    pub fn ports(&self) -> Arc<[AtomicU16; 3]> {
        Arc::clone(&self.ports)
    }

    fn launch(&self, process: Process) -> Program {
        if process == Process::Daemon {
            let mut command = Command::new(program("simplecached_noasan"));
            command.args(["-v", "-t", "4"]);
            let mut daemon = Program::start(&mut daemon_command(command, &self.directory));
            daemon.until("serves", |daemon| daemon.stderr_so_far().contains("serving on"));
            return daemon;
        }
        let mut command = Command::new(program("webproxy_noasan"));
        command.args(["-p", "0", "-t", "12", "--drain-ms", "1000"]).env("TMPDIR", &self.directory);
        for limit in ["CONNECT", "FIRST_BYTE", "LOW_SPEED"] {
            command.env(format!("GFPROXY_ORIGIN_{limit}_MS"), "2000");
        }
        if process != Process::Cached {
            command.args(["-s", &self.origin.url()]);
        }
        match process {
            Process::Cached => drop(command.args(["-n", "8", "-z", "65536"])),
            Process::Both => drop(command.args(["-n", "16", "-z", "262144"])),
            _ => {}
        }
        if process != Process::Plain {
            command.arg("-S").arg(self.directory.join("socket"));
        }
        let mut proxy = Program::start(&mut command);
        self.ports[process as usize].store(proxy.port_at_all_addresses(), Ordering::SeqCst);
        proxy
    }

    /// Ends a process, by SIGKILL or SIGTERM, and starts it again a while later.
    pub fn restart(&mut self, process: Process, random: &mut Rng) {
        let (pause, kill) = (Duration::from_millis(random.u64(..300)), random.u32(..3) > 0);
        let ledger = Arc::clone(&self.ledger);
        ledger.outage(process, || match process {
            Process::Origin => {
                self.origin.kill();
                sleep(pause);
                until("the origin's address", || self.origin.restart());
            }
            _ => self.replace(process, kill, pause),
        });
    }

    fn replace(&mut self, process: Process, kill: bool, pause: Duration) {
        let tenant = self.tenants.remove(process as usize);
        if kill {
            tenant.program.signal(Signal::SIGKILL);
        } else {
            tenant.program.signal(Signal::SIGTERM);
        }
        let ended = tenant.program.wait();
        if !kill && !ended.status.success() {
            self.ledger.fail(format!("{process:?} ended by SIGTERM with {:?}", ended.status));
        }
        sleep(pause);
        let program = self.launch(process);
        self.tenants.insert(process as usize, Tenant { program, baseline: None });
    }

    /// Stops a process for a while, as a debugger or a busy machine does.
    pub fn freeze(&self, process: Process, time: Duration) {
        if let Some(tenant) = self.tenants.get(process as usize) {
            tenant.program.freeze();
            sleep(time);
            tenant.program.signal(Signal::SIGCONT);
        }
    }

    pub fn reload(&self) {
        self.tenants[Process::Daemon as usize].program.signal(Signal::SIGHUP);
    }

    /// Notes what the processes hold that have served for the first time.
    pub fn settle(&mut self) {
        for tenant in &mut self.tenants {
            tenant.baseline.get_or_insert_with(|| held(tenant.program.pid()));
        }
    }

    /// Waits until the processes hold about as much as at first.
    pub fn lose_nothing(&mut self) {
        for (process, tenant) in PROCESSES.iter().zip(&mut self.tenants) {
            let Some((holdings, memory)) = tenant.baseline else { continue };
            let most = Holdings {
                descriptors: holdings.descriptors + MORE_DESCRIPTORS,
                threads: holdings.threads + MORE_THREADS,
                ..holdings
            };
            let (now, resident) = held(tenant.program.pid());
            println!("{process:?}: {holdings:?} and {memory} bytes, then {now:?} and {resident} bytes");
            tenant.program.until(&format!("holds no more than {most:?} and {memory}"), |program| {
                let (holdings, now) = held(program.pid());
                holdings.no_more_than(&most) && now <= memory + MORE_MEMORY
            });
        }
    }

    /// The last lines of what each process has said.
    pub fn said(&self) -> String {
        let tail = |(process, tenant): (&Process, &Tenant)| {
            let said = tenant.program.stderr_so_far();
            let lines: Vec<_> = said.lines().rev().take(15).collect();
            lines.iter().rev().map(|line| format!("{process:?}: {line}\n")).collect::<String>()
        };
        PROCESSES.iter().zip(&self.tenants).map(tail).collect()
    }
}

fn held(pid: Pid) -> (Holdings, usize) {
    (Holdings::of(pid), anonymous_memory(pid))
}
