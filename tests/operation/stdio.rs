//! Descriptors 0 to 2 of programs that lack them: none becomes anything of the library's, and no line of it goes where
//! it is not meant to.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::Pid;
use tempfile::TempDir;

use crate::fixture::files;
use crate::pair::Pair;
use crate::programs::{Program, built, fetch, ok, program};
use crate::static_origin::StaticOrigin;

const FORMS: [&str; 4] = ["<&- >&- 2>&-", "<&- 2>&-", ">&- 2>&-", "2>&-"];

/// A command that starts `program` with descriptors closed.
fn without(form: &str, program: PathBuf) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec \"$0\" \"$@\" {form}")]).arg(program);
    shell
}

/// What descriptors 0 to 2 of a process are.
fn standard_descriptors(pid: Pid) -> [Option<String>; 3] {
    [0, 1, 2].map(|number| {
        fs::read_link(format!("/proc/{pid}/fd/{number}")).ok().map(|path| path.to_string_lossy().into_owned())
    })
}

#[track_caller]
fn assert_harmless(pid: Pid, form: &str) {
    for is in standard_descriptors(pid).into_iter().flatten() {
        let foreign = ["socket:", "anon_inode:", "pipe:", "memfd:", ".lock", "locals", "served"];
        assert!(!foreign.iter().any(|what| is.contains(what)), "with {form}, one of 0 to 2 is {is}");
    }
}

#[test]
fn programs_that_are_started_without_standard_descriptors_have_dev_null_there() {
    for form in FORMS {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("served"), "content").expect("a file");
        let command = |name| without(form, program(name));
        let pair =
            Pair::start_with(directory, "/a served\n", command("simplecached_noasan"), command("webproxy_noasan"));
        for _ in 0..3 {
            assert_eq!(pair.fetch("/a"), ok(b"content"));
        }
        for program in [&pair.daemon, &pair.proxy] {
            assert_harmless(program.pid(), form);
            assert_eq!(standard_descriptors(program.pid())[2].as_deref(), Some("/dev/null"), "{form}");
        }
    }
}

/// `tests/c/stdio.c`, in front of an origin.
struct Daemon {
    origin: StaticOrigin,
    directory: TempDir,
    program: PathBuf,
}

impl Daemon {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("stdio");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let curl = Command::new("pkg-config").args(["--libs", "libcurl"]).output().expect("pkg-config");
        let mut gcc = Command::new("gcc");
        gcc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I"]).arg(root.join("include")).arg("-o").arg(&program);
        gcc.arg(root.join("tests/c/stdio.c")).arg(built("gfserver_noasan.o")).arg(built("libgfproxy.a"));
        gcc.args(["-lpthread", "-ldl", "-lm", "-lrt"]);
        let ended = Program::run(gcc.args(String::from_utf8(curl.stdout).expect("UTF-8").split_whitespace()));
        assert!(ended.status.success(), "{}", ended.stderr);
        Self { origin: StaticOrigin::start(files(&[1000])), directory, program }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("file")
    }

    /// Runs it and gets a file five times, which is told of in at least as many lines.
    fn run(&self, mut command: Command, what: &str) -> Program {
        let mut running = Program::start(command.arg(what).arg(self.file()).env("ORIGIN", self.origin.url()));
        let port = running.port();
        for _ in 0..5 {
            for (path, file) in files(&[1000]) {
                assert!(fetch(port, &path) == ok(&file), "{what}: {path} differs");
            }
        }
        running
    }
}

#[test]
fn a_daemon_that_closes_its_standard_descriptors_gets_no_line_into_what_takes_their_place() {
    let daemon = Daemon::new();
    let running = daemon.run(Command::new(&daemon.program), "close");
    assert_harmless(running.pid(), "close(2)");
    drop(running);
    for form in FORMS {
        let running = daemon.run(without(form, daemon.program.clone()), "close");
        assert_harmless(running.pid(), form);
    }
}

#[test]
fn a_file_or_socket_that_has_the_number_of_standard_error_by_chance_gets_no_line() {
    let daemon = Daemon::new();
    drop(daemon.run(Command::new(&daemon.program), "data"));
    assert_eq!(fs::read_to_string(daemon.file()).expect("the file"), "");
    let running = daemon.run(Command::new(&daemon.program), "socket");
    assert!(standard_descriptors(running.pid())[2].as_ref().is_some_and(|is| is.starts_with("socket:")));
}

#[test]
fn a_log_file_that_takes_the_place_of_standard_error_gets_the_lines() {
    let daemon = Daemon::new();
    for what in ["append", "rotate"] {
        let mut running = daemon.run(Command::new(&daemon.program), what);
        let lines = || fs::read_to_string(daemon.file()).expect("the file");
        running.until("logs to the file", |_| lines().matches("/files/1000.bin").count() >= 5);
        drop(running);
        fs::remove_file(daemon.file()).expect("remove");
    }
}

#[test]
fn a_socket_that_is_standard_error_from_the_start_gets_the_lines() {
    // As under journald.
    let (ours, theirs) = UnixStream::pair().expect("a socket");
    ours.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    let mut webproxy = Command::new(program("webproxy_noasan"));
    webproxy.args(["-v", "-p", "0", "-S", "/nonexistent/socket"]).stdin(Stdio::null());
    let mut webproxy = webproxy.stderr(OwnedFd::from(theirs)).spawn().expect("webproxy");
    let mut line = String::new();
    BufReader::new(&ours).read_line(&mut line).expect("a line");
    webproxy.kill().expect("kill");
    webproxy.wait().expect("its end");
    assert!(line.contains(" INFO ") || line.contains(" WARN "), "{line}");
}
