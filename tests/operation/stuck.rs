//! Standard error that nobody reads keeps nobody waiting.

use std::fs;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::pair::Pair;
use crate::programs::{NOT_FOUND, ok, program};

/// A FIFO that takes no byte more.
struct Stuck {
    path: PathBuf,
    /// Open for both, so that neither side waits for the other.
    ends: File,
}

impl Stuck {
    fn new(directory: &Path) -> Self {
        let path = directory.join("stderr");
        mkfifo(&path, Mode::S_IRWXU).expect("a FIFO");
        let flags = nix::libc::O_NONBLOCK;
        let mut ends = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path).expect("a FIFO");
        loop {
            match ends.write(&[b'\n'; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Self { path, ends },
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// `name` with this as its standard error.
    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "fifo=$1; shift; exec \"$@\" 2>\"$fifo\"", "sh"]).arg(&self.path);
        command.arg(program(name)).args(arguments);
        command
    }

    /// The lines that come from now on, without the empty ones that it was filled with.
    fn read(self) -> impl Iterator<Item = String> {
        let reader = File::open(&self.path).expect("a FIFO");
        drop(self.ends);
        BufReader::new(reader).lines().map(|line| line.expect("UTF-8")).filter(|line| !line.is_empty())
    }
}

fn noasan(name: &str) -> Command {
    Command::new(program(name))
}

#[test]
fn requests_are_served_and_lines_are_dropped_and_counted() {
    const REQUESTS: usize = 1500;
    let directory = tempfile::tempdir().expect("a directory");
    let stuck = Stuck::new(directory.path());
    let mut webproxy = stuck.command("webproxy_noasan", &["-v"]);
    webproxy.env("GFPROXY_LOG_FORMAT", "json");
    let pair = Pair::start_with(directory, "", noasan("simplecached_noasan"), webproxy);
    // Each byte of it is five in the line, twice.
    let path = format!("/{}", "\u{e9}".repeat(55));
    for _ in 0..REQUESTS {
        assert_eq!(pair.fetch(&path), NOT_FOUND);
    }
    let mut logged = 0;
    let dropped = stuck.read().find_map(|line| {
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        logged += usize::from(line["target"] == "gfproxy::request");
        line["dropped"].as_u64()
    });
    let dropped = dropped.expect("the log tells of what was dropped") as usize;
    assert!(dropped > 0 && logged > 0);
    assert_eq!(logged + dropped, REQUESTS);
}

/// A full disk, and a pipe whose reader has left.
#[test]
fn lines_that_standard_error_refuses_are_counted() {
    const REQUESTS: usize = 20;
    for (file, is_pipe) in [("/dev/full", false), ("stderr", true)] {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join(file);
        if is_pipe {
            mkfifo(&file, Mode::S_IRWXU).expect("a FIFO");
        }
        let mut sh = Command::new("sh");
        // A FIFO that is open for both lets itself be opened; then its reader leaves.
        sh.args(["-c", r#"exec 3<>"$0" 2>"$0" 3<&-; exec "$@""#]).arg(&file).arg(program("webproxy_noasan"));
        sh.args(["-v", "--metrics", "127.0.0.1:0"]);
        let mut pair = Pair::start_with(directory, "", noasan("simplecached_noasan"), sh);
        let metrics = format!("127.0.0.1:{}", pair.proxy.port_at_one_address());
        for _ in 0..REQUESTS {
            assert_eq!(pair.fetch("/none"), NOT_FOUND);
        }
        pair.proxy.until("counts all lines", |_| {
            crate::scrape::series(&metrics)["gfproxy_log_lines_dropped_total"] >= REQUESTS as f64
        });
        assert_eq!(pair.proxy.stop().status.code(), Some(0));
    }
}

#[test]
fn the_programs_end_on_sigterm() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("a"), "content").expect("a");
    let stuck = Stuck::new(directory.path());
    let daemon = stuck.command("simplecached_noasan", &["-vvv"]);
    let pair = Pair::start_with(directory, "/a a\n", daemon, stuck.command("webproxy_noasan", &["-vvv"]));
    assert_eq!(pair.fetch("/a"), ok(b"content"));
    // A reload that is refused has something to say, too.
    pair.reload("/broken\n");
    pair.reload("/a a\n");
    assert_eq!(pair.fetch("/a"), ok(b"content"));
    pair.daemon.signal(Signal::SIGTERM);
    assert_eq!(pair.proxy.stop().status.code(), Some(0));
    assert_eq!(pair.daemon.wait().status.code(), Some(0));
}

#[test]
fn the_last_lines_are_written_before_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let bad: String = (0..20).map(|i| format!("/bad-{i}\n")).collect();
    let pair = Pair::start_with(directory, bad, noasan("simplecached_noasan"), noasan("webproxy_noasan"));
    assert_eq!(pair.fetch("/bad-0"), NOT_FOUND);
    let told = pair.daemon.stop().stderr;
    assert_eq!(told.matches("a key without a path: line skipped\n").count(), 20, "{told}");
}
