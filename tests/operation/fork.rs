//! Processes that fork after they have started what the library gives.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fixture::{Cache, files};
use crate::programs::{Program, built, compile, listening_ports, serves};

/// A process that is not ours to wait for.
struct Orphan(Pid);

impl Drop for Orphan {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

/// Starts `daemonize`, and reads the process that it names.
fn daemonize(program: &Path, arguments: &[&Path], stderr: impl Into<Stdio>) -> (Orphan, std::process::Child) {
    let mut parent =
        Command::new(program).args(arguments).stdout(Stdio::piped()).stderr(stderr).spawn().expect("it runs");
    let mut line = String::new();
    BufReader::<ChildStdout>::new(parent.stdout.take().expect("a pipe")).read_line(&mut line).expect("a pid");
    (Orphan(Pid::from_raw(line.trim().parse().expect("a pid"))), parent)
}

#[test]
fn a_proxy_goes_on_in_the_background_with_its_log_and_its_metrics() {
    let files = files(&[1, 65_536, 3_000_000]);
    let cache = Cache::start("simplecached_noasan", &files);
    let here = tempfile::tempdir().expect("a directory");
    let log = here.path().join("log");
    let socket = cache.socket();
    let arguments = [Path::new("proxy"), &socket, Path::new("127.0.0.1:0")];
    let program = compile("tests/c/daemonize.c", here.path());
    let (daemon, mut parent) = daemonize(&program, &arguments, File::create(&log).expect("a log"));
    assert!(parent.wait().expect("it has left").success());

    let pid = daemon.0.as_raw();
    let deadline = Instant::now() + Duration::from_secs(60);
    let until = |what: &str, condition: &dyn Fn() -> bool| {
        while !condition() {
            assert!(Instant::now() < deadline, "never {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let ports = || listening_ports(pid.unsigned_abs());
    until("listens", &|| !ports().is_empty());
    let port = ports()[0].1;
    for (path, file) in &files {
        assert!(serves(port, path, file), "{path} differs");
    }
    until("serves metrics", &|| ports().len() == 2);
    let of_child = format!("[{pid}]");
    let lines = || fs::read_to_string(&log).expect("the log");
    until("logs", &|| lines().lines().filter(|line| line.contains(&of_child) && line.contains(" OK ")).count() == 3);
}

#[test]
fn a_child_keeps_nobody_from_a_socket_whose_server_is_dead() {
    let here = tempfile::tempdir().expect("a directory");
    let socket = here.path().join("socket");
    let program = compile("tests/c/daemonize.c", here.path());
    let (child, mut server) = daemonize(&program, &[Path::new("server"), &socket], Stdio::null());
    assert!(socket.exists(), "the child has left it alone");
    server.kill().expect("kill");
    server.wait().expect("it is dead");
    let mut second = Program::start(Command::new(built("producer")).arg(&socket).arg(here.path()));
    second.until("serves", |second| second.stdout_so_far() == "ready\n");
    assert!(kill(child.0, None).is_ok(), "the child of the first lives");
}
