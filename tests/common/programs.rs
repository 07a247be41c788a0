//! The programs that `make` builds, run as children under a watchdog, and the simplest GETFILE client.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{sleep, yield_now};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// No test waits for a child for that long; one that hangs fails its test.
const WATCHDOG: Duration = Duration::from_secs(180);

/// A program in the directory where `make` put them.
pub fn program(name: &str) -> PathBuf {
    made("GFPROXY_BIN", "bin", name)
}

/// An object or the archive in the directory where `make` put them.
pub fn built(name: &str) -> PathBuf {
    made("GFPROXY_BUILD", "build", name)
}

/// A C program of the tests, linked with the archive as `make` does.
pub fn compile(source: &str, to: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = to.join(Path::new(source).file_stem().expect("a name"));
    let curl = Command::new("pkg-config").args(["--libs", "libcurl"]).output().expect("pkg-config");
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-I"]).arg(root.join("include"));
    gcc.arg("-o").arg(&program).arg(root.join(source)).arg(built("libgfproxy.a"));
    gcc.args(["-lpthread", "-ldl", "-lm", "-lrt"]);
    let ended = Program::run(gcc.args(String::from_utf8(curl.stdout).expect("UTF-8").split_whitespace()));
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    program
}

/// Whether the programs are linked with our gfserver, not with a provided one.
pub fn has_own_gfserver() -> bool {
    let linked_with = fs::read_to_string(built("linked-with")).expect("what make wrote");
    linked_with.starts_with(built("gfserver.o").to_str().expect("UTF-8"))
}

fn made(variable: &str, default: &str, name: &str) -> PathBuf {
    let directory =
        std::env::var_os(variable).map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(default), PathBuf::from);
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing: run the tests with `make test`", path.display());
    path
}

/// Says that the running test could not do what it wants, and why; also where the output of tests is captured.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "{}: SKIPPED: {why}", thread.name().unwrap_or("a test"));
}

/// How a program ended, and what it wrote.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A running program. Killed when dropped.
pub struct Program {
    child: Child,
    stdout: File,
    stderr: File,
    command: String,
}

impl Program {
    /// Starts `command` with its output to files, so that it never waits for a reader.
    pub fn start(command: &mut Command) -> Self {
        Self::start_with_input(command, Stdio::null())
    }

    /// The same with this standard input.
    pub fn start_with_input(command: &mut Command, input: impl Into<Stdio>) -> Self {
        let (stdout, stderr) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        command.stdin(input).stdout(stdout.try_clone().expect("dup")).stderr(stderr.try_clone().expect("dup"));
        let watchdog = Instant::now() + WATCHDOG;
        let child = loop {
            match command.spawn() {
                // Of a program that was just copied, the child of another test's fork may have the descriptor until its
                // exec.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < watchdog => {
                    yield_now();
                }
                spawned => break spawned.unwrap_or_else(|e| panic!("{command:?}: {e}")),
            }
        };
        Self { child, stdout, stderr, command: format!("{command:?}") }
    }

    /// Runs `command` to its end.
    pub fn run(command: &mut Command) -> Ended {
        Self::start(command).wait()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("kill");
    }

    /// Stops the program and waits until it is stopped: all of its threads.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let stopped = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).expect("waitpid");
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    }

    /// Waits for the program to end by itself.
    pub fn wait(mut self) -> Ended {
        let mut status = None;
        self.until("ends", |program| {
            status = program.child.try_wait().expect("wait");
            status.is_some()
        });
        self.ended(status.expect("it ended"))
    }

    /// Waits for the program to end by itself. Kills one that has not after `limit`, and returns None.
    pub fn wait_for(mut self, limit: Duration) -> Option<Ended> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return Some(self.ended(status));
            }
            sleep(Duration::from_millis(5));
        }
        None
    }

    fn ended(&self, status: ExitStatus) -> Ended {
        // A provided gfserver.o says such things of its own when a webproxy refuses clients at its end.
        let provided = |line: &&str| line.contains("accept failed") || line.contains("_close::");
        let stderr = text(&self.stderr).split_inclusive('\n').filter(|line| !provided(line)).collect();
        Ended { status, stdout: text(&self.stdout), stderr }
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(self) -> Ended {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// What the program has written to standard output.
    pub fn stdout_so_far(&self) -> String {
        text(&self.stdout)
    }

    /// What the program has written to standard error.
    pub fn stderr_so_far(&self) -> String {
        text(&self.stderr)
    }

    /// The port that the program listens on, as soon as it does. Read from /proc, since a connection to try it would
    /// be a request of its own.
    pub fn port(&mut self) -> u16 {
        let mut port = None;
        self.until("listens", |program| {
            port = listening_ports(program.child.id()).first().map(|&(_, port)| port);
            port.is_some()
        });
        port.expect("it listens")
    }

    /// Whether the program listens on any port.
    pub fn listens(&self) -> bool {
        !listening_ports(self.child.id()).is_empty()
    }

    /// The port that the program listens on at all addresses, as webproxy does; its metrics are elsewhere.
    pub fn port_at_all_addresses(&mut self) -> u16 {
        self.port_where("listens at all addresses", |address| address.bytes().all(|digit| digit == b'0'))
    }

    /// The port that the program listens on at one address, as those do that serve metrics.
    pub fn port_at_one_address(&mut self) -> u16 {
        self.port_where("listens at one address", |address| address.bytes().any(|digit| digit != b'0'))
    }

    fn port_where(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> u16 {
        let mut port = None;
        self.until(what, |program| {
            let mut ports = listening_ports(program.child.id()).into_iter();
            port = ports.find(|(address, _)| fits(address)).map(|(_, port)| port);
            port.is_some()
        });
        port.expect("it listens")
    }

    /// Polls `condition`; panics with the program's output if the program ends before, or after the watchdog's time.
    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + WATCHDOG;
        while !condition(self) {
            let ended = self.child.try_wait().expect("wait");
            // It may have come true with the end.
            if ended.is_some() && condition(self) {
                return;
            }
            if ended.is_some() || Instant::now() > deadline {
                let output = [text(&self.stdout), text(&self.stderr)].concat();
                panic!("{} never {what} (status {ended:?}):\n{output}", self.command);
            }
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was written to `file` so far. Read by position: the child writes at the offset that the descriptors share.
fn text(file: &File) -> String {
    let len = usize::try_from(file.metadata().expect("stat").len()).expect("it fits");
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).expect("read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Addresses, in hexadecimal digits, and ports.
pub fn listening_ports(pid: u32) -> Vec<(String, u16)> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
    let sockets: Vec<String> = descriptors
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let tables =
        ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    // On a busy machine there are thousands of connections that are over: only the rows that may matter are split.
    let rows = tables.iter().flat_map(|table| table.lines().skip(1)).filter(|row| row.contains(" 0A "));
    let rows = rows.map(|row| row.split_whitespace().collect::<Vec<_>>());
    // Column 1 is the local address and port, 3 the state (0A is LISTEN), 9 the inode of the socket.
    rows.filter(|row| row.len() > 9 && row[3] == "0A" && sockets.iter().any(|inode| inode == row[9]))
        .filter_map(|row| {
            let (address, port) = row[1].rsplit_once(':')?;
            Some((address.to_owned(), u16::from_str_radix(port, 16).ok()?))
        })
        .collect()
}

/// Sends a request for `path` and returns the connection, its answer unread.
pub fn request(port: u16, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.set_read_timeout(Some(WATCHDOG)).expect("timeout");
    stream.write_all(format!("GETFILE GET {path}\r\n\r\n").as_bytes()).expect("request");
    stream
}

/// The whole answer to a request for `path`, byte for byte. The server waits for the client to close, so this reads
/// to the announced length and then to the end.
pub fn fetch(port: u16, path: &str) -> Vec<u8> {
    read_answer(request(port, path))
}

/// Whether the answer to a request for `path` is this file; holds no second copy of it.
pub fn serves(port: u16, path: &str, file: &[u8]) -> bool {
    let expected = format!("GETFILE OK {} ", file.len()).into_bytes();
    let mut stream = request(port, path);
    let mut head = vec![0; expected.len()];
    if stream.read_exact(&mut head).is_err() || head != expected {
        return false;
    }
    let mut buffer = vec![0; 65536];
    let mut rest = file;
    while !rest.is_empty() {
        let len = stream.read(&mut buffer).unwrap_or(0);
        if len == 0 || !rest.starts_with(&buffer[..len]) {
            return false;
        }
        rest = &rest[len..];
    }
    true
}

/// The rest of an answer.
pub fn read_answer(mut stream: TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut buffer = [0; 65536];
    while !is_whole(&answer) {
        match stream.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(e) => panic!("after {} bytes: {e}", answer.len()),
        }
    }
    // From here on the server's end is its own affair; a reset after the last byte loses nothing.
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn is_whole(answer: &[u8]) -> bool {
    if answer.starts_with(b"GETFILE OK ") {
        let rest = &answer[11..];
        let Some(end) = rest.iter().position(|&b| b == b' ') else { return false };
        let len: usize = str::from_utf8(&rest[..end]).expect("ASCII").parse().expect("a length");
        return rest.len() >= end + 1 + len;
    }
    answer.ends_with(b"\n")
}

/// The answer that carries `body`.
pub fn ok(body: &[u8]) -> Vec<u8> {
    [format!("GETFILE OK {} ", body.len()).as_bytes(), body].concat()
}

pub const NOT_FOUND: &[u8] = b"GETFILE FILE_NOT_FOUND 0\n";
pub const ERROR: &[u8] = b"GETFILE ERROR 0\n";

/// `len` bytes that differ from each other's neighbours, and from those of another seed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}
