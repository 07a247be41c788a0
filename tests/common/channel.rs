//! The channel's own client, with every byte checked.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use shm_channel::{Client, ClientConfig, Transfer};

use crate::library::Library;
use crate::pair::until;

pub fn config(socket: &Path, segments: u32, segment_size: u32) -> ClientConfig {
    ClientConfig { socket: socket.to_owned(), segments, segment_size, wait: Duration::from_secs(30) }
}

pub fn client(socket: &Path, segments: u32, segment_size: u32) -> Client {
    Client::start(config(socket, segments, segment_size)).expect("a client")
}

/// Fetches `key` and compares it with `expected`.
pub fn fetch(client: &Client, key: &str, expected: &[u8]) -> Result<(), String> {
    let transfer = client.open(key.as_bytes()).map_err(|e| format!("{key}: {e}"))?;
    read_all(transfer, key, expected)
}

/// Reads what is left of a transfer of `key` and compares it with `expected`.
pub fn read_all(mut transfer: Transfer<'_>, key: &str, expected: &[u8]) -> Result<(), String> {
    if transfer.len() != expected.len() as u64 {
        return Err(format!("{key}: {} bytes announced", transfer.len()));
    }
    let mut at = 0;
    while let Some(chunk) = transfer.next_chunk().map_err(|e| format!("{key} at {at}: {e}"))? {
        let wanted = expected.get(at..at + chunk.len()).ok_or_else(|| format!("{key} is too long"))?;
        if !equal(chunk, wanted) {
            return Err(format!("{key}: wrong bytes from {at} on"));
        }
        at += chunk.len();
    }
    if at == expected.len() { Ok(()) } else { Err(format!("{key}: {at} bytes")) }
}

#[allow(unsafe_code)]
fn equal(chunk: base::Chunk<'_>, wanted: &[u8]) -> bool {
    // SAFETY: the chunk is mapped while it lives, and its daemon writes it no more until it is released.
    unsafe { std::slice::from_raw_parts(chunk.as_ptr(), chunk.len()) == wanted }
}

/// An honest proxy that asks for one file after another while others misbehave.
pub struct Honest {
    served: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Honest {
    /// Asks for the first three files of a library in turn.
    pub fn start(library: Arc<Library>) -> Self {
        let (served, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let client = client(&library.socket(), 2, 16 << 10);
        let thread = thread::spawn({
            let (served, stop) = (Arc::clone(&served), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let file = served.fetch_add(1, Ordering::Relaxed) % 3;
                    fetch(&client, &library.key(file), library.content(file)).expect("an honest proxy is served");
                }
            }
        });
        Self { served, stop, thread: Some(thread) }
    }

    /// Waits until it was served `times` more.
    pub fn served(&self, times: usize) {
        let before = self.served.load(Ordering::Relaxed);
        until("service for the honest proxy", || {
            let failed = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!failed, "the honest proxy failed");
            (self.served.load(Ordering::Relaxed) >= before + times).then_some(())
        });
    }

    pub fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("joined once").join().expect("an honest proxy is served");
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
