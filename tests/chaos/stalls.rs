//! Peers that are there and do nothing: clients that stop reading, processes that are stopped.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::download::{Download, End, download};
use crate::library::Library;
use crate::pair::{Webproxy, start_daemon, until};

/// More than the buffers of a connection take.
const LARGE: usize = 12 << 20;
const STALLED: usize = 64;

/// Clients that have read a byte of a large file and no more.
fn stall<'f>(library: &'f Library, webproxy: &Webproxy) -> Vec<Download<'f>> {
    let mut stalled: Vec<_> = (0..STALLED).map(|_| Download::slow(webproxy.port, "/0", library.content(0))).collect();
    for download in &mut stalled {
        assert_eq!(download.read_to(1), None);
    }
    stalled
}

/// Requests of several clients, all of which must be served.
fn serves(webproxy: &Webproxy, library: &Library, requests: usize) {
    let port = webproxy.port;
    thread::scope(|scope| {
        for client in 0..4 {
            scope.spawn(move || {
                for request in 0..requests {
                    let file = (client + request) % library.len();
                    assert_eq!(download(port, &library.key(file), library.content(file)), End::Whole);
                }
            });
        }
    });
}

#[test]
fn stalled_clients_of_one_proxy_hold_no_worker_of_the_daemon() {
    let library = Library::new(&[LARGE, 1000, 0, 300_000]);
    let _daemon = start_daemon(&library, &["-t", "4"]);
    let slow = Webproxy::start(&library, &["-t", "64", "-n", "64", "-z", "65536"]);
    let stalled = stall(&library, &slow);
    let fast = Webproxy::start(&library, &["-t", "4"]);
    serves(&fast, &library, 25);
    // Nobody was dropped: a client that reads again gets all of its file.
    for download in stalled {
        assert_eq!(download.finish(), End::Whole);
    }
}

/// Many times more stalled clients than segments, and less time to wait for a segment than a client may stall.
fn stalled_clients_leave_others(segments: [&str; 4]) {
    let library = Library::new(&[LARGE, 1000, 0, 300_000]);
    let _daemon = start_daemon(&library, &["-t", "4"]);
    let limits = ["-t", "70", "--cache-wait-ms", "5000", "--stall-ms", "60000"];
    let webproxy = Webproxy::start(&library, &[&limits[..], &segments].concat());
    let stalled = stall(&library, &webproxy);
    serves(&webproxy, &library, 25);
    for download in stalled {
        assert_eq!(download.finish(), End::Whole);
    }
}

#[test]
fn stalled_clients_keep_no_segment_from_others() {
    stalled_clients_leave_others(["-n", "2", "-z", "65536"]);
}

/// Over small segments, long transfers take turns: one that stalls must let go of its turn.
#[test]
fn stalled_clients_keep_no_turn_from_others() {
    stalled_clients_leave_others(["-n", "8", "-z", "5712"]);
}

#[test]
fn a_slow_client_is_no_stalled_one() {
    let library = Library::new(&[LARGE]);
    let _daemon = start_daemon(&library, &[]);
    let webproxy = Webproxy::start(&library, &["--stall-ms", "1000"]);
    let mut download = Download::slow(webproxy.port, "/0", library.content(0));
    // So slowly that it takes longer than the limit until the kernel asks for more data.
    for step in 1..=50 {
        assert_eq!(download.read_to(step * (64 << 10)), None);
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(download.finish(), End::Whole);
}

#[test]
fn a_stalled_client_is_dropped_after_the_limit() {
    let library = Library::new(&[LARGE, 1000]);
    let _daemon = start_daemon(&library, &["-t", "4"]);
    let mut webproxy = Webproxy::start(&library, &["-t", "64", "-n", "64", "-z", "65536", "--stall-ms", "300"]);
    let stalled = stall(&library, &webproxy);
    webproxy.program.until("drops them", |program| program.stderr_so_far().matches("CUT").count() == STALLED);
    for download in stalled {
        let end = download.finish();
        assert!(matches!(end, End::Short(_)), "{end:?}");
    }
    serves(&webproxy, &library, 5);
}

#[test]
fn a_stopped_proxy_does_not_stop_the_daemon() {
    let library = Library::new(&[LARGE, 1000, 0, 300_000]);
    let _daemon = start_daemon(&library, &["-t", "2"]);
    let stopped = Webproxy::start(&library, &["-t", "8", "-n", "8", "-z", "16384"]);
    let mut downloads: Vec<_> = (0..8).map(|_| Download::slow(stopped.port, "/0", library.content(0))).collect();
    for download in &mut downloads {
        assert_eq!(download.read_to(1), None);
    }
    stopped.program.freeze();
    let other = Webproxy::start(&library, &["-t", "4"]);
    serves(&other, &library, 10);
    stopped.program.signal(Signal::SIGCONT);
    for download in downloads {
        assert_eq!(download.finish(), End::Whole);
    }
}

#[test]
fn requests_end_while_the_daemon_is_stopped_and_no_segment_is_lost() {
    let library = Library::new(&[LARGE, 1000]);
    let daemon = start_daemon(&library, &["-t", "2"]);
    // With one segment, a lost one is the end of all service.
    let mut webproxy = Webproxy::start(&library, &["-t", "4", "-n", "1", "-z", "16384", "--cache-wait-ms", "300"]);
    webproxy.connected(1);
    let mut halfway = Download::slow(webproxy.port, "/0", library.content(0));
    assert_eq!(halfway.read_to(1 << 20), None);
    for round in 0..3 {
        daemon.freeze();
        if round == 0 {
            let end = halfway.read_to(u64::MAX);
            assert!(matches!(end, Some(End::Short(_))), "{end:?}");
        }
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(download(webproxy.port, "/1", library.content(1)), End::Error));
            }
        });
        daemon.signal(Signal::SIGCONT);
        until("service", || (download(webproxy.port, "/1", library.content(1)) == End::Whole).then_some(()));
    }
    assert!(webproxy.program.stop().status.success());
    assert!(daemon.stop().status.success());
}

#[test]
fn a_daemon_that_is_stopped_before_the_proxy_comes_is_found_when_it_goes_on() {
    let library = Library::new(&[1000]);
    let daemon = start_daemon(&library, &[]);
    daemon.freeze();
    let webproxy = Webproxy::start(&library, &["--cache-wait-ms", "100"]);
    for _ in 0..3 {
        assert_eq!(download(webproxy.port, "/0", library.content(0)), End::Error);
    }
    daemon.signal(Signal::SIGCONT);
    until("service", || (download(webproxy.port, "/0", library.content(0)) == End::Whole).then_some(()));
}
