//! The two programs as they are shipped, with the files of a library between them.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::library::Library;
use crate::programs::{Program, program};

/// How long anything may take before its test fails. No test relies on how long something took, only on its end.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// Asks again and again until `probe` has something; fails the test, naming `what`, after the watchdog's time.
#[track_caller]
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {WATCHDOG:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// simplecached with a library's files, ready to serve.
pub fn start_daemon(library: &Library, options: &[&str]) -> Program {
    let mut command = Command::new(program("simplecached_noasan"));
    command.arg("-v").arg("-c").arg(library.locals()).arg("-S").arg(library.socket()).args(options);
    let mut daemon = Program::start(&mut command);
    daemon.until("serves", |daemon| daemon.stderr_so_far().contains("serving on"));
    daemon
}

/// webproxy on a port of its own.
pub struct Webproxy {
    pub program: Program,
    pub port: u16,
}

impl Webproxy {
    /// Does not wait for the daemon.
    pub fn start(library: &Library, options: &[&str]) -> Self {
        let mut command = Command::new(program("webproxy_noasan"));
        command.args(["-v", "-p", "0"]).arg("-S").arg(library.socket()).args(options);
        let mut program = Program::start(&mut command);
        let port = program.port();
        Self { program, port }
    }

    /// Waits until it has found a daemon `times` times.
    pub fn connected(&mut self, times: usize) {
        let connections = |program: &Program| program.stderr_so_far().matches("connected to the cache daemon").count();
        self.program.until("connects", |program| connections(program) >= times);
    }
}
