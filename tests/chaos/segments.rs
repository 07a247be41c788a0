//! Segments are handed out fairly, lent while they are idle, and never cause a deadlock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gfproxy::daemon::{Config, Daemon};
use proptest::prelude::*;
use shm_channel::{Client, ClientConfig, ServerConfig};

use crate::channel::{client, config, fetch, read_all};
use crate::library::Library;
use crate::pair::{WATCHDOG, until};

fn daemon(library: &Library, threads: usize) -> Daemon {
    let server = ServerConfig { socket: library.socket(), threads, ..ServerConfig::default() };
    Daemon::start(Config { locals: library.locals(), delay: Duration::ZERO, server }).expect("a daemon")
}

/// `clients` threads that share `segments` fetch all files of these sizes, twice.
fn fetch_all(workers: usize, clients: usize, segments: u32, segment_size: u32, sizes: &[usize]) {
    let library = Arc::new(Library::new(sizes));
    let _daemon = daemon(&library, workers);
    let client = Arc::new(client(&library.socket(), segments, segment_size));
    let (done, ended) = mpsc::channel();
    for thread in 0..clients {
        let (library, client, done) = (Arc::clone(&library), Arc::clone(&client), done.clone());
        thread::spawn(move || {
            let files = (0..2 * library.len()).map(|i| (thread + i) % library.len());
            let result: Result<(), String> =
                files.into_iter().try_for_each(|file| fetch(&client, &library.key(file), library.content(file)));
            // The receiver is gone only if this test has failed.
            let _ = done.send(result);
        });
    }
    for _ in 0..clients {
        ended.recv_timeout(WATCHDOG).expect("no deadlock").expect("every file arrives");
    }
    assert_all_free(&client, segments);
}

/// All segments are free: none is lent, lost or left in quarantine.
fn assert_all_free(client: &Client, segments: u32) {
    until("all segments", || {
        // Asking for a segment frees those in quarantine.
        let _ = client.open(b"/none");
        let stats = client.stats();
        (stats.free == segments as usize && stats.quarantined == 0).then_some(())
    });
}

/// Over small segments long transfers take turns; one that does not end its turn, for whatever reason, must not end the
/// others, however short the wait for an absent daemon is.
#[test]
fn who_gets_no_turn_goes_on_without() {
    let library = Library::new(&[200_000]);
    let _daemon = daemon(&library, 4);
    let wait = Duration::from_millis(300);
    let client = Client::start(ClientConfig { wait, ..config(&library.socket(), 8, 824) }).expect("a client");
    let key = library.key(0);
    let mut holder = client.open(key.as_bytes()).expect("it is there");
    holder.be_prompt();
    for _ in 0..20 {
        holder.next_chunk().expect("a chunk");
    }
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut other = client.open(key.as_bytes()).expect("it is there");
                other.be_prompt();
                assert_eq!(read_all(other, &key, library.content(0)), Ok(()));
            });
        }
    });
    assert!(holder.next_chunk().expect("a chunk").is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_numbers_of_segments_threads_and_bytes_work_together(
        workers in 1usize..5,
        clients in 1usize..12,
        segments in 1u32..20,
        segment_size in prop_oneof![Just(824u32), Just(5712), 824u32..70_000],
        sizes in prop::collection::vec(prop_oneof![0usize..3000, 0usize..300_000], 1..5),
    ) {
        fetch_all(workers, clients, segments, segment_size, &sizes);
    }
}

#[test]
fn sizes_around_a_segment_arrive_whole() {
    for z in [824usize, 5712] {
        let sizes = [0, 1, z - 1, z, z + 1, 2 * z - 1, 2 * z, 2 * z + 1, 7 * z, 8 * z, 9 * z + 1];
        for segments in [1, 2, 3, 9] {
            fetch_all(2, 3, segments, z as u32, &sizes);
        }
    }
}

#[test]
fn threads_that_share_one_segment_are_served_in_turn() {
    const THREADS: usize = 32;
    let library = Library::new(&[100_000]);
    let _daemon = daemon(&library, 2);
    let client = client(&library.socket(), 1, 16 << 10);
    let served: Vec<_> = (0..THREADS).map(|_| AtomicUsize::new(0)).collect();
    let total = AtomicUsize::new(0);
    thread::scope(|scope| {
        for mine in &served {
            let (client, library, total) = (&client, &library, &total);
            scope.spawn(move || {
                while total.load(Ordering::Relaxed) < THREADS * 30 {
                    fetch(client, "/0", library.content(0)).expect("service");
                    mine.fetch_add(1, Ordering::Relaxed);
                    total.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let least = served.iter().map(|served| served.load(Ordering::Relaxed)).min();
    assert!(least >= Some(15), "one thread was served {least:?} times, 30 would be its share: {served:?}");
    assert_all_free(&client, 1);
}

#[test]
fn many_slow_consumers_of_one_segment_wait_no_longer_than_a_request_may() {
    const THREADS: usize = 120;
    let library = Library::new(&[60 * 824]);
    let _daemon = daemon(&library, 2);
    // At 50 ms a turn the last one would wait for six seconds.
    let config = ClientConfig { wait: Duration::from_secs(4), ..config(&library.socket(), 1, 824) };
    let client = Client::start(config).expect("a client");
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut transfer = client.open(b"/0").expect("a turn");
                let mut got = 0;
                while let Some(chunk) = transfer.next_chunk().expect("a turn") {
                    got += chunk.len();
                    thread::sleep(Duration::from_millis(1));
                }
                assert_eq!(got, library.content(0).len());
            });
        }
    });
}

#[test]
fn a_transfer_without_end_does_not_keep_the_only_segment() {
    let library = Library::new(&[8 << 20, 1000]);
    let _daemon = daemon(&library, 2);
    let client = client(&library.socket(), 1, 824);
    thread::scope(|scope| {
        let large = scope.spawn(|| fetch(&client, "/0", library.content(0)));
        // Served while the large file, of ten thousand segments, is on its way.
        for _ in 0..20 {
            fetch(&client, "/1", library.content(1)).expect("a small file");
        }
        large.join().expect("a thread").expect("the large file");
    });
    assert_all_free(&client, 1);
}

#[test]
fn idle_segments_are_lent_and_come_back() {
    let library = Library::new(&[1 << 20]);
    let _daemon = daemon(&library, 1);
    let client = client(&library.socket(), 4, 16 << 10);
    let mut transfer = client.open(b"/0").expect("the file");
    transfer.next_chunk().expect("a chunk");
    assert_eq!(client.stats().free, 1, "all but one that is kept for whoever comes next");
    drop(transfer);
    assert_all_free(&client, 4);
}
