//! A transfer whose bytes are all in segments, with a server in the same process.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Transfer;
use super::request::ASK_AGAIN_AFTER;
use crate::{Client, ClientConfig, OpenFile, Server, ServerConfig, Store, StoreError};

const SEGMENT: usize = 64 << 10;
const FILE: usize = 3 * SEGMENT;

struct OneFile(PathBuf);

impl Store for OneFile {
    fn open(&self, _: &[u8]) -> Result<Arc<OpenFile>, StoreError> {
        let open = || OpenFile::new(File::open(&self.0)?).map(Arc::new);
        open().map_err(|error| StoreError::Failed(error.to_string()))
    }
}

/// Reads the rest of a file.
fn read(transfer: &mut Transfer<'_>) -> u64 {
    let mut read = 0;
    while let Some(chunk) = transfer.next_chunk().expect("a chunk") {
        read += chunk.len() as u64;
    }
    read
}

/// The daemon lets go of the file of a transfer from which it hears nothing for a minute.
#[test]
fn a_transfer_that_reads_from_segments_for_long_asks_the_daemon_now_and_then() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, socket) = (directory.path().join("file"), directory.path().join("socket"));
    fs::write(&path, vec![7; FILE]).expect("a file");
    let server = ServerConfig { socket: socket.clone(), threads: 2, inherit: false };
    let server = Server::start(&server, Arc::new(OneFile(path))).expect("a server");
    let wait = Duration::from_secs(60);
    let config = ClientConfig { socket, segments: 8, segment_size: SEGMENT as u32, wait };
    let client = Client::start(config).expect("a client");
    let open = || client.open(b"file").expect("a transfer");
    let watchdog = Instant::now() + wait;
    loop {
        // The first leaves the beginning in a segment, and the second, which finds it there, the rest.
        assert_eq!((read(&mut open()), read(&mut open())), (FILE as u64, FILE as u64));
        let before = server.stats().resumes;
        assert_eq!(read(&mut open()), FILE as u64);
        // On a loaded machine, the segments may count as too old by then.
        if server.stats().resumes == before {
            break;
        }
        assert!(Instant::now() < watchdog, "no transfer finds all of the file in segments");
    }
    let before = server.stats().resumes;
    let mut transfer = open();
    assert!(transfer.next_chunk().expect("a chunk").is_some_and(|chunk| chunk.len() == SEGMENT));
    transfer.spoke = Instant::now() - ASK_AGAIN_AFTER - Duration::from_secs(1);
    assert_eq!(read(&mut transfer), (FILE - SEGMENT) as u64);
    assert!(server.stats().resumes > before);
}
