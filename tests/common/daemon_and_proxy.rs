//! A simplecached and a webproxy in front of it.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::fixture::daemon_command;
use crate::programs::{NOT_FOUND, Program, fetch, program, request};

/// More than the sockets between webproxy and a client that does not read can hold.
pub const LARGE: usize = 12 << 20;

pub struct Pair {
    pub daemon: Program,
    pub proxy: Program,
    pub port: u16,
    directory: TempDir,
}

impl Pair {
    /// A daemon with this locals file, one worker and no other options.
    pub fn start(directory: TempDir, locals: impl AsRef<[u8]>) -> Self {
        let mut daemon = Command::new(program("simplecached_noasan"));
        daemon.args(["-t", "1"]);
        Self::start_with(directory, locals, daemon, Command::new(program("webproxy_noasan")))
    }

    /// A daemon whose command line begins like that, and a proxy whose does.
    pub fn start_with(directory: TempDir, locals: impl AsRef<[u8]>, daemon: Command, mut proxy: Command) -> Self {
        fs::write(directory.path().join("locals.txt"), locals).expect("locals.txt");
        let daemon = Program::start(&mut daemon_command(daemon, directory.path()));
        let socket = directory.path().join("socket");
        let mut proxy = Program::start(proxy.args(["-p", "0", "-S"]).arg(socket));
        let port = proxy.port_at_all_addresses();
        Self { daemon, proxy, port, directory }
    }

    pub fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.directory.path().join(name.as_ref())
    }

    pub fn fetch(&self, path: &str) -> Vec<u8> {
        fetch(self.port, path)
    }

    #[track_caller]
    pub fn assert_serves(&self, path: &str, file: &[u8]) {
        assert!(crate::programs::serves(self.port, path, file), "{path} differs:\n{}", self.daemon.stderr_so_far());
    }

    /// A request whose answer is not read for now. Returns when its transfer holds no worker of a daemon that has one:
    /// `other` is served meanwhile.
    pub fn stall(&self, path: &str, other: &str) -> Stalled {
        let mut stream = request(self.port, path);
        let mut begun = [0; 11];
        stream.read_exact(&mut begun).expect("the header");
        assert_eq!(&begun, b"GETFILE OK ", "{path}");
        assert_ne!(self.fetch(other), NOT_FOUND);
        Stalled { stream }
    }

    /// Kills the daemon and starts one whose command line begins like that.
    pub fn replace_daemon(&mut self, command: Command) {
        self.daemon.signal(Signal::SIGKILL);
        self.daemon = Program::start(&mut daemon_command(command, self.directory.path()));
    }

    /// Puts this in the place of the locals file, by rename, and lets the daemon load it.
    pub fn reload(&self, locals: impl AsRef<[u8]>) {
        replace(&self.path("locals.txt"), locals);
        self.daemon.signal(Signal::SIGHUP);
    }

    /// Waits until a request for `path` is answered with `file`.
    pub fn until_served(&mut self, path: &str, file: &[u8]) {
        let port = self.port;
        self.daemon.until(&format!("serves the new {path}"), |_| crate::programs::serves(port, path, file));
    }

    /// Waits until the daemon has written `text` to standard error.
    pub fn until_told(&mut self, text: &str) {
        self.daemon.until(&format!("says '{text}'"), |daemon| daemon.stderr_so_far().contains(text));
    }
}

/// Writes a file elsewhere and renames it to `path`.
pub fn replace(path: &Path, content: impl AsRef<[u8]>) {
    let new = path.with_extension("new");
    fs::write(&new, content).expect("write");
    fs::rename(&new, path).expect("rename");
}

/// An answer that its client has not read, but for the first words.
pub struct Stalled {
    stream: TcpStream,
}

impl Stalled {
    /// The rest of the answer's body, up to its end or to where it was cut.
    pub fn finish(mut self, len: usize) -> Vec<u8> {
        let mut head = Vec::new();
        let mut byte = [0];
        while byte != *b" " {
            self.stream.read_exact(&mut byte).expect("the length");
            head.push(byte[0]);
        }
        assert_eq!(head, format!("{len} ").as_bytes());
        let mut body = vec![0; len];
        let (mut at, deadline) = (0, Instant::now() + Duration::from_secs(60));
        while at < len {
            assert!(Instant::now() < deadline, "stuck at {at} of {len}");
            match self.stream.read(&mut body[at..]) {
                // A cut connection ends, or was reset.
                Ok(0) | Err(_) => break,
                Ok(got) => at += got,
            }
        }
        body.truncate(at);
        body
    }
}
