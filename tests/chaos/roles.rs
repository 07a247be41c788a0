//! Small processes to be killed: this test binary, executed again with a role in its environment. They speak the
//! protocol through the library and start in milliseconds.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use gfproxy::daemon::{Config, Daemon};
use shm_channel::ServerConfig;

use crate::channel::{client, fetch};
use crate::library::Library;
use crate::programs::Program;

const ROLE: &str = "GFPROXY_TEST_ROLE";
const DIRECTORY: &str = "GFPROXY_TEST_DIRECTORY";
const PROGRESS: &str = "GFPROXY_TEST_PROGRESS";

const SEGMENTS: u32 = 3;
const SEGMENT_SIZE: u32 = 16 << 10;
/// More threads than segments.
const THREADS: usize = 4;

/// Not a test: the entry of the processes with a role. Without one there is nothing to do.
#[test]
fn role() {
    let Ok(role) = env::var(ROLE) else { return };
    let directory = PathBuf::from(env::var_os(DIRECTORY).expect("a directory"));
    match role.as_str() {
        "daemon" => serve(&directory),
        "proxy" => ask(&directory),
        other => panic!("no such role: {other}"),
    }
}

fn start(role: &str, library: &Library, progress: &Path) -> Program {
    let mut command = Command::new(env::current_exe().expect("this binary"));
    command.args(["--exact", "roles::role", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(DIRECTORY, library.directory()).env(PROGRESS, progress);
    Program::start(&mut command)
}

/// A daemon for a library's files, ready to serve.
pub fn start_daemon(library: &Library) -> Program {
    let mut daemon = start("daemon", library, Path::new(""));
    daemon.until("serves", |daemon| daemon.stderr_so_far().contains("ready"));
    daemon
}

/// A proxy whose threads fetch a library's files for ever.
pub struct Proxy {
    pub program: Program,
    progress: PathBuf,
}

impl Proxy {
    /// `name` is its own among the proxies of a library.
    pub fn start(library: &Library, name: &str) -> Self {
        let progress = library.directory().join(format!("progress-{name}"));
        fs::write(&progress, "").expect("the progress file");
        Self { program: start("proxy", library, &progress), progress }
    }

    /// How many files it has fetched, each byte for byte.
    pub fn fetched(&self) -> u64 {
        fs::metadata(&self.progress).expect("the progress file").len()
    }

    /// Waits until it has fetched `more`. A proxy that met a failure has ended and says what it was.
    pub fn fetches(&mut self, more: u64) {
        let (progress, target) = (self.progress.clone(), self.fetched() + more);
        self.program.until("fetches", |_| fs::metadata(&progress).expect("the progress file").len() >= target);
    }
}

/// A daemon in this process for the files of a library's directory.
pub fn daemon(directory: &Path) -> Daemon {
    let server = ServerConfig { socket: directory.join("socket"), threads: 3, ..ServerConfig::default() };
    let config = Config { locals: directory.join("locals.txt"), delay: Duration::ZERO, server };
    Daemon::start(config).expect("a daemon")
}

fn serve(directory: &Path) {
    let _daemon = daemon(directory);
    eprintln!("ready");
    loop {
        thread::park();
    }
}

fn ask(directory: &Path) {
    let path = env::var_os(PROGRESS).expect("a progress file");
    let progress = Arc::new(OpenOptions::new().append(true).open(path).expect("the progress file"));
    let locals = fs::read_to_string(directory.join("locals.txt")).expect("locals.txt");
    let read = |i| fs::read(directory.join(format!("{i}"))).expect("a file");
    let files: Arc<Vec<Vec<u8>>> = Arc::new((0..locals.lines().count()).map(read).collect());
    let client = Arc::new(client(&directory.join("socket"), SEGMENTS, SEGMENT_SIZE));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (progress, files, client) = (Arc::clone(&progress), Arc::clone(&files), Arc::clone(&client));
            thread::spawn(move || {
                for file in (thread..).map(|i| i % files.len()) {
                    if let Err(error) = fetch(&client, &format!("/{file}"), &files[file]) {
                        eprintln!("failed: {error}");
                        process::exit(1);
                    }
                    (&*progress).write_all(b".").expect("the progress file");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
}
