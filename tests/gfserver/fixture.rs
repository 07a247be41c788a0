//! Builds `server.c` once, runs it, and talks to it.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Nothing here takes that long: whatever does, hangs.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// The program, compiled as strictly as the project's own C.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("gfserver-{}", std::process::id()));
        let libraries = Command::new("pkg-config").args(["--libs", "libcurl"]).output().expect("pkg-config");
        let libraries = String::from_utf8(libraries.stdout).expect("UTF-8");
        let status = Command::new("gcc")
            .args(["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-I"])
            .arg(root.join("include"))
            .arg("-o")
            .arg(&program)
            .arg(root.join("tests/gfserver/server.c"))
            .arg(archive())
            .args(libraries.split_whitespace())
            .args(["-lpthread", "-ldl", "-lm", "-lrt"])
            .status();
        assert!(status.expect("gcc").success());
        program
    })
}

/// The static library that cargo has built for this run: the newest, where an older build left one too.
fn archive() -> PathBuf {
    let tests = std::env::current_exe().expect("the test's path");
    let entries = fs::read_dir(tests.parent().expect("a directory")).expect("the build directory");
    let archives = entries.map(|entry| entry.expect("an entry").path()).filter(|path| {
        path.extension() == Some(OsStr::new("a"))
            && path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"libgfproxy"))
    });
    archives.max_by_key(|path| path.metadata().and_then(|data| data.modified()).expect("a time")).expect("libgfproxy.a")
}

/// A command that runs the program.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Runs a command that must end by itself.
pub fn run(command: &mut Command) -> Output {
    let child = command.stderr(Stdio::piped()).spawn().expect("the server program");
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    receiver.recv_timeout(WATCHDOG).unwrap_or_else(|_| panic!("process {pid} hangs")).expect("its output")
}

/// A running server. Killed on drop if it has not ended.
pub struct Server {
    child: Child,
    stdin: Option<Mutex<ChildStdin>>,
    lines: Mutex<(Receiver<String>, VecDeque<String>)>,
    pub port: u16,
}

impl Server {
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(&mut command(arguments))
    }

    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the server program");
        let stdin = child.stdin.take().map(Mutex::new);
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut server = Self { child, stdin, lines: Mutex::new((receiver, VecDeque::new())), port: 0 };
        server.port = u16::try_from(server.told("port")).expect("a port");
        server
    }

    /// The number in the next line of the server's that begins with `what`. Other lines are kept for others who wait.
    pub fn told(&self, what: &str) -> i64 {
        let deadline = Instant::now() + WATCHDOG;
        let mut lines = self.lines.lock().expect("no panic");
        let number = |line: &String| line.strip_prefix(what)?.strip_prefix(' ')?.parse().ok();
        if let Some(at) = lines.1.iter().position(|line| number(line).is_some()) {
            return number(&lines.1.remove(at).expect("just found")).expect("just found");
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line =
                lines.0.recv_timeout(left).unwrap_or_else(|e| panic!("no line {what:?}: {e}, but {:?}", lines.1));
            match number(&line) {
                Some(number) => return number,
                None => lines.1.push_back(line),
            }
        }
    }

    /// Lets one held handler go on.
    pub fn let_go(&self) {
        let mut stdin = self.stdin.as_ref().expect("piped").lock().expect("no panic");
        writeln!(stdin, "go").expect("the server reads");
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
        stream
    }

    /// A connection with a request for `path` sent.
    pub fn ask(&self, path: &str) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(format!("GETFILE GET {path}\r\n\r\n").as_bytes()).expect("a request");
        stream
    }

    /// The whole answer to a request for `path`.
    pub fn get(&self, path: &str) -> Vec<u8> {
        read_all(self.ask(path))
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("kill");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    /// The number of entries in a directory of /proc/PID.
    pub fn count(&self, directory: &str) -> usize {
        fs::read_dir(format!("/proc/{}/{directory}", self.pid())).expect("a running server").count()
    }

    /// How many connections it has accepted and not closed.
    pub fn connections(&self) -> usize {
        self.descriptors().values().filter(|is_socket| **is_socket).count() - 1
    }

    /// The limit of descriptors with which a server has room for so many connections; this one has served already.
    pub fn limit_for(&self, connections: usize) -> String {
        let descriptors = self.descriptors();
        let listener = descriptors.iter().find(|(_, is_socket)| **is_socket).map(|(number, _)| *number);
        let own = |number: &usize| descriptors.get(number) == Some(&false) || Some(*number) == listener;
        // The limit is one of numbers: what was inherited above the gap does not count.
        ((0..).take_while(own).count() + connections).to_string()
    }

    /// The numbers of its descriptors, and whether each is a socket.
    fn descriptors(&self) -> BTreeMap<usize, bool> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a running server");
        let descriptor = |entry: fs::DirEntry| {
            // None where it was closed meanwhile.
            let target = fs::read_link(entry.path()).ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, target.to_string_lossy().starts_with("socket:")))
        };
        entries.flatten().filter_map(descriptor).collect()
    }

    /// The descriptors of a server that serves and has no connection.
    pub fn idle_descriptors(&self) -> usize {
        assert_same(&self.get("/size/1"), &ok(1, 1));
        let (mut count, mut unchanged) = (0, 0);
        until("the last connection is closed", || {
            let now = self.count("fd");
            unchanged = if now == count { unchanged + 1 } else { 0 };
            count = now;
            // An answered connection is closed or parked after 2 ms.
            (unchanged == 100).then_some(count)
        })
    }

    /// The processor time that the server has used.
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("a running server");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
        // USER_HZ, the unit of /proc, is 100 on every Linux.
        Duration::from_millis(ticks * 10)
    }

    /// Waits for the server to end by itself.
    pub fn wait(mut self) -> ExitStatus {
        until("the server ends", || self.child.try_wait().expect("wait")).to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything until the server closes; a reset ends it too.
pub fn read_all(mut stream: TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => answer,
        Err(e) if e.kind() == ErrorKind::ConnectionReset => answer,
        Err(e) => panic!("{e} after {} bytes", answer.len()),
    }
}

/// Bytes `range` of a file of the server's.
pub fn file(range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(|offset| (offset % 251) as u8).collect()
}

/// The answer with a file of `size` bytes, of which `sent` arrive.
pub fn ok(size: usize, sent: usize) -> Vec<u8> {
    [format!("GETFILE OK {size} ").into_bytes(), file(0..sent)].concat()
}

pub const ERROR: &[u8] = b"GETFILE ERROR 0\n";
pub const NOT_FOUND: &[u8] = b"GETFILE FILE_NOT_FOUND 0\n";

/// Compares answers without printing megabytes.
#[track_caller]
pub fn assert_same(answer: &[u8], expected: &[u8]) {
    if answer != expected {
        let same = answer.iter().zip(expected).take_while(|(a, b)| a == b).count();
        let near = &answer[same..answer.len().min(same + 40)];
        panic!("{} bytes, not {}; from {same} on: {}", answer.len(), expected.len(), near.escape_ascii());
    }
}

/// Waits for a condition.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
