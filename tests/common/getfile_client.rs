//! Runs the real client binaries in a directory of their own, under a watchdog.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub const DOWNLOAD: &str = "gfclient_download";
pub const MEASURE: &str = "gfclient_measure";

/// No test here has work for that long; a client that hangs fails its test.
const WATCHDOG: Duration = Duration::from_secs(300);

/// How a client ended.
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Standard error, which must be one line.
    pub fn one_line(&self) -> &str {
        let lines: Vec<_> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        lines[0]
    }
}

/// Runs `program` in `directory` to its end.
pub fn run(program: &str, directory: &Path, arguments: &[&str]) -> Ended {
    let child = Command::new(if program == "sh" { program.into() } else { crate::programs::program(program) })
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(program);
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    let (sender, receiver) = mpsc::channel();
    let waiter = thread::spawn(move || sender.send(child.wait_with_output()));
    let output = match receiver.recv_timeout(WATCHDOG) {
        Ok(output) => output.expect("its output"),
        Err(_) => {
            kill(pid, Signal::SIGKILL).expect("kill");
            panic!("{program} {arguments:?} hangs");
        }
    };
    waiter.join().expect("the waiter").expect("its receiver is still there");
    Ended {
        status: output.status.code().unwrap_or_else(|| panic!("{program} died: {}", output.status)),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// An empty directory with a workload file of these paths.
pub fn directory(paths: &[&[u8]]) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("workload.txt"), [&paths.join(&b'\n')[..], b"\n"].concat()).expect("workload.txt");
    directory
}

/// The names in `directory`, sorted, without the workload file.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| name != "workload.txt");
    names.sort();
    names
}
