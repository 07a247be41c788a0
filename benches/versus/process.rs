//! Processes that end with their value, and ports for them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a server may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is asked to end, and made to if it does not, when this goes out of scope.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `command`. What it prints goes to `NAME.log` in `directory`.
    pub fn spawn(name: &str, command: &mut Command, directory: &Path) -> Result<Self, String> {
        let failed = |e: std::io::Error| format!("{name}: {e}");
        let log = File::create(directory.join(format!("{name}.log"))).map_err(failed)?;
        let errors = log.try_clone().map_err(failed)?;
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().map_err(failed)?;
        Ok(Self { child, name: name.to_owned() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until something listens on `port`. It does not connect: some servers take a probe amiss.
    pub fn wait_for_port(&mut self, port: u16) -> Result<(), String> {
        self.wait_for(&format!("listen on port {port}"), || listens(port))
    }

    /// Waits until `path` exists.
    pub fn wait_for_file(&mut self, path: &Path) -> Result<(), String> {
        self.wait_for(&format!("create {}", path.display()), || path.exists())
    }

    fn wait_for(&mut self, what: &str, done: impl Fn() -> bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended with {status} instead of starting to {what}", self.name));
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not {what}", self.name));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let process = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        // Whatever fails here, there is nothing more that could be done about the process.
        let _ = kill(process, Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE.min(Duration::from_secs(10));
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                drop(self.child.kill());
                drop(self.child.wait());
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A port that nothing listens on and that was not given out before.
pub fn free_port() -> Result<u16, String> {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
        let port = listener.local_addr().map_err(|e| e.to_string())?.port();
        if given.get_or_insert_default().insert(port) {
            return Ok(port);
        }
    }
}

/// Whether a socket listens on `port`, in either family.
fn listens(port: u16) -> bool {
    const LISTEN: &str = "0A";
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|table| fs::read_to_string(table).ok()).any(|table| {
        table.lines().skip(1).any(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let local = fields.next().and_then(|address| address.rsplit_once(':'));
            local.is_some_and(|(_, hex)| hex == format!("{port:04X}")) && fields.nth(1) == Some(LISTEN)
        })
    })
}
