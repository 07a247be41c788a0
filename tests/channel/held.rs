//! Small files that stay in a client's segments, over the Rust interface.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, SystemTime};

use gfproxy::channel::{Client, ClientConfig, Transfer, TransferError};

use crate::store::{Served, bytes};

/// Puts content in a file's place, by rename; old enough for it to be held.
fn put(served: &Served, name: &str, content: &[u8]) {
    let new = served.path("new");
    fs::write(&new, content).expect("write");
    let file = File::options().write(true).open(&new).expect("it is there");
    file.set_modified(SystemTime::now() - Duration::from_secs(10)).expect("utimes");
    fs::rename(&new, served.path(name)).expect("rename");
}

fn serve(files: &[(&str, &[u8])]) -> Served {
    let served = Served::start(files);
    files.iter().for_each(|(name, content)| put(&served, name, content));
    served
}

fn client(served: &Served, segments: u32) -> Client {
    let socket = served.path("socket");
    let config = ClientConfig { socket, segments, segment_size: 1024, ..ClientConfig::default() };
    Client::start(config).expect("a client")
}

fn rest(transfer: &mut Transfer<'_>) -> Vec<u8> {
    let file = tempfile::tempfile().expect("a file");
    while let Some(chunk) = transfer.next_chunk().expect("a chunk") {
        chunk.write_to(&file).expect("write");
    }
    content(file)
}

fn content(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("read");
    bytes
}

fn get(client: &Client, key: &[u8]) -> Vec<u8> {
    rest(&mut client.open(key).expect("open"))
}

#[test]
fn the_end_of_a_file_is_never_taken_for_all_of_it() {
    let (a, b) = (bytes(1000), bytes(10));
    let served = serve(&[("a", &a), ("b", &b)]);
    let client = client(&served, 1);
    for _ in 0..3 {
        let mut transfer = client.open(b"a").expect("open");
        transfer.next_chunk().expect("a chunk");
        transfer.put_back(300);
        // Takes the segment, so that the rest has to be asked for.
        assert!(get(&client, b"b") == b);
        assert!(rest(&mut transfer) == a[700..]);
        drop(transfer);
        assert!(get(&client, b"a") == a);
    }
}

#[test]
fn a_transfer_that_was_put_back_goes_on_with_what_its_segment_still_holds() {
    let (old, new) = (bytes(1000), bytes(900));
    let served = serve(&[("a", &old)]);
    let client = client(&served, 2);
    let mut transfer = client.open(b"a").expect("open");
    let mut file = tempfile::tempfile().expect("a file");
    let mut left = old.len();
    for taken in [0, 1, 299, 300, 0, 399, 1] {
        let chunk = transfer.next_chunk().expect("a chunk").expect("there is more");
        assert_eq!(chunk.len(), left);
        chunk.write_to(&file).expect("write");
        left -= taken;
        let end = (old.len() - left) as u64;
        file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).expect("what was taken stays");
        transfer.put_back(left);
        // From here on the server has the old file no more.
        put(&served, "a", &new);
    }
    assert!(transfer.next_chunk().expect("the end").is_none());
    assert!(content(file) == old);
    drop(transfer);
    assert!(get(&client, b"a") == new);
}

#[test]
fn a_transfer_that_was_put_back_does_not_go_on_with_another_state() {
    let (old, new) = (bytes(1000), bytes(1001)[1..].to_vec());
    let served = serve(&[("a", &old)]);
    let client = client(&served, 2);
    let mut transfer = client.open(b"a").expect("open");
    transfer.next_chunk().expect("a chunk");
    transfer.put_back(300);
    put(&served, "a", &new);
    // Now the segment holds the new state.
    assert!(get(&client, b"a") == new);
    let next = transfer.next_chunk().map(|chunk| chunk.map(|chunk| chunk.len()));
    assert!(matches!(next, Err(TransferError::Changed)), "{next:?}");
}
