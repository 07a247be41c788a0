//! Files that stay in a client's segments, over the Rust interface.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use shm_channel::{Client, ClientConfig, Transfer, TransferError};

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
    client_with(served, segments, 1024, Duration::from_secs(10))
}

/// The bytes of a segment that may hold a part of a larger file.
const LARGE: u32 = 64 << 10;

fn client_with(served: &Served, segments: u32, segment_size: u32, wait: Duration) -> Client {
    Client::start(ClientConfig { socket: served.path("socket"), segments, segment_size, wait }).expect("a client")
}

/// Again and again until `probe` says yes.
#[track_caller]
fn until(what: &str, mut probe: impl FnMut() -> bool) {
    let watchdog = Instant::now() + Duration::from_secs(60);
    while !probe() {
        assert!(Instant::now() < watchdog, "{what}: not within a minute");
    }
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

#[test]
fn transfers_of_one_file_share_its_only_segment() {
    let file = bytes(1000);
    let served = Served::start_witnessed(&[]);
    put(&served, "a", &file);
    let client = client_with(&served, 1, 1024, Duration::from_millis(200));
    until("three at a time", || {
        // So that there is a witness.
        (0..4).for_each(|_| assert!(get(&client, b"a") == file));
        let before = client.stats().reused;
        let mut transfers: Vec<_> = (0..3).filter_map(|_| client.open(b"a").ok()).collect();
        // All have their chunk before the first gives its own back.
        let chunks = transfers.iter_mut().map(|transfer| transfer.next_chunk().map(|chunk| chunk.map(|c| c.len())));
        assert!(chunks.collect::<Vec<_>>().iter().all(|chunk| matches!(chunk, Ok(Some(1000)))));
        transfers.len() == 3 && client.stats().reused == before + 3
    });
    assert_eq!(client.stats().free, 1);
}

#[test]
fn a_file_of_several_segments_is_put_together_from_those_that_are_left_of_it() {
    let (a, b) = (bytes(3 * LARGE as usize + 1000), bytes(2 * LARGE as usize));
    let served = Served::start_witnessed(&[]);
    put(&served, "a", &a);
    put(&served, "b", &b);
    let client = client_with(&served, 8, LARGE, Duration::from_secs(10));
    until("reuses", || {
        assert!(get(&client, b"a") == a);
        // Takes some of its segments, so that there are holes.
        assert!(get(&client, b"b") == b);
        let mut transfer = client.open(b"a").expect("open");
        for (unused, at) in [(0, 0), (1, LARGE as usize), (LARGE as usize, 2 * LARGE as usize - 1)] {
            let first = transfer.next_chunk().expect("a chunk").expect("there is more");
            let file = tempfile::tempfile().expect("a file");
            first.write_to(&file).expect("write");
            let len = first.len();
            assert!(content(file) == a[at..at + len]);
            transfer.put_back(unused.min(len));
        }
        client.stats().reused > 20
    });
    assert_eq!((client.stats().free, client.stats().quarantined), (8, 0));
}

#[test]
fn no_transfer_mixes_two_states_of_a_large_file() {
    let len = 3 * LARGE as usize + 1000;
    let served = Served::start_witnessed(&[]);
    put(&served, "a", &vec![0; len]);
    let client = client_with(&served, 8, LARGE, Duration::from_secs(10));
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers = [(); 4].map(|()| {
            scope.spawn(|| {
                let mut states = 0;
                let mut last = 0;
                while !ends.load(Ordering::Relaxed) {
                    let mut transfer = client.open(b"a").expect("open");
                    let file = tempfile::tempfile().expect("a file");
                    let whole = loop {
                        match transfer.next_chunk() {
                            Ok(Some(chunk)) => chunk.write_to(&file).expect("write"),
                            Ok(None) => break true,
                            Err(TransferError::Changed) => break false,
                            Err(error) => panic!("{error}"),
                        }
                    };
                    let got = content(file);
                    let state = got.first().copied().unwrap_or(last);
                    assert!(got.iter().all(|&byte| byte == state), "two states in one transfer");
                    assert!(!whole || got.len() == len);
                    states += u32::from(state != last);
                    last = state;
                }
                states
            })
        });
        for state in 1..=100_u8 {
            let before = client.stats().reused;
            until("a reuse", || client.stats().reused > before);
            put(&served, "a", &vec![state; len]);
        }
        ends.store(true, Ordering::Relaxed);
        let states: Vec<_> = readers.into_iter().map(|reader| reader.join().expect("no panic")).collect();
        assert!(states.iter().sum::<u32>() > 10, "{states:?}");
    });
}

#[test]
fn a_transfer_that_began_in_a_segment_finishes_on_its_file_though_another_took_its_place() {
    let (old, new, small) = (bytes(3 * LARGE as usize + 1000), bytes(1000), bytes(100));
    let served = Served::start_witnessed(&[]);
    put(&served, "a", &old);
    let others: Vec<_> = (0..30).map(|other| format!("other {other}")).collect();
    others.iter().for_each(|other| put(&served, other, &small));
    let client = client_with(&served, 8, LARGE, Duration::from_secs(10));
    let mut transfer = None;
    until("a reuse", || {
        drop(transfer.take());
        assert!(get(&client, b"a") == old);
        let before = client.stats().reused;
        transfer = Some(client.open(b"a").expect("open"));
        client.stats().reused > before
    });
    let mut transfer = transfer.expect("it was opened");
    put(&served, "a", &new);
    // Nothing is left of it in the segments but what the transfer reads.
    others.iter().for_each(|other| assert!(get(&client, other.as_bytes()) == small));
    assert!(rest(&mut transfer) == old);
    assert!(get(&client, b"a") == new);
}

#[test]
fn a_file_that_is_parked_outlives_those_whose_transfers_went_on() {
    let (old, new) = (bytes(3 * LARGE as usize), bytes(2 * LARGE as usize));
    let served = Served::start(&[]);
    put(&served, "a", &old);
    // More than a server parks.
    let others: Vec<_> = (0..1100).map(|other| format!("other {other}")).collect();
    others.iter().for_each(|other| put(&served, other, &new));
    let client = client_with(&served, 8, LARGE, Duration::from_secs(10));
    let mut transfer = client.open(b"a").expect("open");
    let len = transfer.next_chunk().expect("a chunk").expect("there is more").len();
    transfer.put_back(0);
    put(&served, "a", &new);
    others.iter().for_each(|other| assert!(get(&client, other.as_bytes()) == new));
    assert!(rest(&mut transfer) == old[len..]);
}

#[test]
fn any_number_of_segments_can_be_read_at_a_time() {
    let (large, small) = (bytes(3 * LARGE as usize), bytes(100));
    let served = Served::start_witnessed(&[]);
    put(&served, "a", &large);
    let others: Vec<_> = (0..300).map(|other| format!("other {other}")).collect();
    others.iter().for_each(|other| put(&served, other, &small));
    let client = client_with(&served, 600, LARGE, Duration::from_secs(10));
    let open = |key| client.open(key).expect("open");
    let readers: Vec<_> = others.iter().map(|other| open(other.as_bytes())).collect();
    for _ in 0..3 {
        assert!(rest(&mut open(b"a")) == large);
    }
    drop(readers);
    assert_eq!(client.stats().free, 600);
}
