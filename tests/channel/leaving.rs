//! Stores and clients that do what they should not, or leave early, at no cost to others.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_channel::{Client, ClientConfig, OpenError, OpenFile, Server, ServerConfig, Store, StoreError};

use crate::second_client::SecondClient;

/// Panics where it is asked to.
struct Panicking;

impl Store for Panicking {
    fn open(&self, key: &[u8]) -> Result<Arc<OpenFile>, StoreError> {
        assert!(key != b"panic", "as it was asked to");
        let file = File::open("/proc/self/exe").map_err(|_| StoreError::NotFound)?;
        OpenFile::new(file).map(Arc::new).map_err(|error| StoreError::Failed(error.to_string()))
    }
}

fn start(directory: &Path) -> Server {
    let config = ServerConfig { socket: directory.join("socket"), threads: 2, ..ServerConfig::default() };
    Server::start(&config, Arc::new(Panicking)).expect("a server")
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_store_that_panics_costs_the_request_and_not_the_session() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = start(directory.path());
    let client = Client::start(ClientConfig { socket: directory.path().join("socket"), ..ClientConfig::default() });
    let client = client.expect("a client");
    for _ in 0..10 {
        assert_eq!(client.open(b"panic").err(), Some(OpenError::Failed));
        assert!(client.open(b"other").is_ok());
    }
    assert_eq!(client.stats().sessions, 1);
    assert_eq!((server.stats().dropped, server.stats().failed), (0, 10));
}

#[test]
fn a_client_that_leaves_with_a_datagram_unread_is_no_breach() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = start(directory.path());
    for count in 1..=20 {
        let client = SecondClient::say_hello(&directory.path().join("socket"), 1, 4096, 1);
        // It was sent its WELCOME before, and leaves it unread.
        until("a session", || server.stats().sessions == count);
        drop(client);
        until("its end", || server.stats().peers == 0);
    }
    assert_eq!(server.stats().dropped, 0);
}
