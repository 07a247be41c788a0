//! A server in a child process, and a client here.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, hint};

use shm_channel::{Client, ClientConfig, OpenFile, Server, ServerConfig, Store, StoreError};
use tempfile::TempDir;

use crate::bounds::PingPong;

/// Chunks of smaller segments come together up to this size.
const SMALL_RUN: usize = 32 << 10;

struct Directory(PathBuf);

impl Store for Directory {
    fn open(&self, key: &[u8]) -> Result<Arc<OpenFile>, StoreError> {
        let name = str::from_utf8(key).map_err(|_| StoreError::NotFound)?;
        let file = File::open(self.0.join(name)).map_err(|_| StoreError::NotFound)?;
        OpenFile::new(file).map(Arc::new).map_err(|error| StoreError::Failed(error.to_string()))
    }
}

/// The child: serves until its standard input ends, which is when its parent does.
pub fn serve(socket: &Path, directory: &Path) {
    let config = ServerConfig { socket: socket.to_owned(), threads: 4, ..ServerConfig::default() };
    let _server = Server::start(&config, Arc::new(Directory(directory.to_owned()))).expect("a server");
    let _ = std::io::stdin().read(&mut [0]);
}

/// What the client does with a chunk.
#[derive(Clone, Copy, PartialEq)]
pub enum Use {
    PassOn,
    CopyOut,
}

/// A child that runs this program in another role. Ends when dropped.
pub struct Role(Child);

impl Role {
    pub fn start(arguments: &[&Path]) -> Self {
        let program = env::current_exe().expect("this program");
        Self(Command::new(program).args(arguments).stdin(Stdio::piped()).spawn().expect("a child"))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

pub struct Served {
    /// One segment, so that each chunk waits for the one before.
    single: Client,
    many: Client,
    ping_pong: PingPong,
    source: Vec<u8>,
    target: Vec<u8>,
    _server: Role,
    _directories: [TempDir; 2],
}

impl Served {
    pub fn start(size: u32, short: usize, large: usize) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let memory = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        let path = |name: &str| directory.path().join(name);
        let source: Vec<u8> = (0..large).map(|i| (i * 31) as u8).collect();
        fs::write(path("short"), &source[..short]).expect("a file");
        fs::write(path("large"), &source).expect("a file");
        let server = Role::start(&["serve".as_ref(), &path("socket"), directory.path()]);
        let client = |segments| {
            let wait = Duration::from_secs(10);
            Client::start(ClientConfig { socket: path("socket"), segments, segment_size: size, wait })
                .expect("a client")
        };
        Self {
            single: client(1),
            many: client(8),
            ping_pong: PingPong::start(&memory.path().join("area"), &path("short"), size as usize),
            source,
            target: vec![0; (size as usize).max(SMALL_RUN)],
            _server: server,
            _directories: [directory, memory],
        }
    }

    /// A file, chunk by chunk over one segment, from its first chunk on.
    pub fn turns(&self) -> Duration {
        let mut transfer = self.single.open(b"short").expect("short");
        let begun = Instant::now();
        while let Some(chunk) = transfer.next_chunk().expect("a chunk") {
            hint::black_box(chunk.as_ptr());
        }
        begun.elapsed()
    }

    pub fn futex_turns(&self, turns: usize) -> Duration {
        self.ping_pong.run(turns)
    }

    /// A file over 8 segments.
    pub fn stream(&self, to: Use) -> Duration {
        let mut target = self.target.clone();
        let begun = Instant::now();
        let mut transfer = self.many.open(b"large").expect("large");
        while let Some(chunk) = transfer.next_chunk().expect("a chunk") {
            if to == Use::CopyOut {
                assert!(chunk.len() <= target.len());
                // SAFETY: there is room by the assertion, and our own server leaves the chunk alone until the next
                // call.
                unsafe { target.as_mut_ptr().copy_from_nonoverlapping(chunk.as_ptr(), chunk.len()) };
            }
            hint::black_box(&target);
        }
        begun.elapsed()
    }

    /// The same bytes from memory to memory.
    pub fn memcpy(&self) -> Duration {
        let mut target = self.target.clone();
        let begun = Instant::now();
        for chunk in self.source.chunks(target.len()) {
            target[..chunk.len()].copy_from_slice(chunk);
            hint::black_box(&target);
        }
        begun.elapsed()
    }
}
