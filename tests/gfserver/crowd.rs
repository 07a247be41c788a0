//! Many connections that keep the server waiting, and few descriptors.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::fixture::{Server, assert_same, ok, read_all, until};

/// As many connections as this process may have, up to `wanted`; the limit is raised where it can be.
fn crowd(server: &Server, wanted: usize) -> Vec<TcpStream> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a higher limit");
    // The other tests of this process need some as well.
    let room = usize::try_from(hard).unwrap_or(usize::MAX).saturating_sub(500);
    (0..wanted.min(room)).map(|_| server.connect()).collect()
}

#[test]
fn idle_and_slow_connections_hold_no_worker() {
    let server = Server::start(&["-t", "2"]);
    let mut crowd = crowd(&server, 10_000);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // A byte now and then from every tenth connection, for as long as the fresh requests take.
        scope.spawn(|| {
            let mut request = b"GETFILE GET /size/1".iter().cycle();
            while !done.load(Ordering::Relaxed) {
                let byte = [*request.next().expect("endless")];
                for stream in crowd.iter_mut().step_by(10) {
                    // The server may have given it up already.
                    let _ = stream.write_all(&byte);
                }
            }
        });
        for round in 0..500 {
            assert_same(&server.get(&format!("/size/{round}")), &ok(round, round));
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn handlers_that_wait_do_not_keep_others_from_their_requests() {
    let server = Server::start(&["-t", "33"]);
    let held: Vec<TcpStream> = (0..32).map(|_| server.ask("/hold/100")).collect();
    held.iter().for_each(|_| assert_eq!(server.told("held"), 0));
    for round in 0..100 {
        assert_same(&server.get(&format!("/size/{round}")), &ok(round, round));
    }
    held.iter().for_each(|_| server.let_go());
    for stream in held {
        assert_same(&read_all(stream), &ok(100, 100));
    }
}

#[test]
fn a_crowd_beyond_the_descriptors_loses_its_oldest() {
    let server = Server::start(&["-t", "2", "-n", "64"]);
    let crowd = crowd(&server, 400);
    for round in 0..100 {
        assert_same(&server.get(&format!("/size/{round}")), &ok(round, round));
    }
    // The oldest were closed without an answer, and the youngest still can ask.
    let mut crowd = crowd.into_iter();
    assert_same(&read_all(crowd.next().expect("the first")), b"");
    let mut youngest = crowd.next_back().expect("the last");
    youngest.write_all(b"GETFILE GET /size/9\r\n\r\n").expect("a request");
    assert_same(&read_all(youngest), &ok(9, 9));
}

#[test]
fn a_request_that_has_come_is_not_given_up_for_a_newcomer() {
    let probe = Server::start(&["-t", "1"]);
    assert_same(&probe.get("/size/1"), &ok(1, 1));
    let server = Server::start(&["-t", "1", "-n", &probe.limit_for(2)]);
    let mut first = server.connect();
    until("the first is accepted", || (server.connections() == 1).then_some(()));
    let held = server.ask("/hold/100");
    server.told("held");
    // The worker will see the newcomer, for whom there is no descriptor, before it sees that the first has asked.
    let newcomer = server.ask("/size/10");
    first.write_all(b"GETFILE GET /size/20\r\n\r\n").expect("a request");
    server.let_go();
    assert_same(&read_all(first), &ok(20, 20));
    assert_same(&read_all(held), &ok(100, 100));
    assert_same(&read_all(newcomer), &ok(10, 10));
}

#[test]
fn the_last_descriptor_is_not_taken_back_for_nobody() {
    let probe = Server::start(&["-t", "1"]);
    assert_same(&probe.get("/size/1"), &ok(1, 1));
    let server = Server::start(&["-t", "1", "-n", &probe.limit_for(1)]);
    for _ in 0..10 {
        let mut only = server.connect();
        until("it is accepted", || (server.connections() == 1).then_some(()));
        // Long enough for the worker to look for the next one.
        for _ in 0..100 {
            assert_eq!(server.connections(), 1, "it waits for its request");
        }
        only.write_all(b"GETFILE GET /size/10\r\n\r\n").expect("a request");
        assert_same(&read_all(only), &ok(10, 10));
        until("it is closed", || (server.connections() == 0).then_some(()));
    }
}

#[test]
fn without_a_descriptor_to_spare_the_server_waits_and_does_not_spin() {
    // Standard streams, listener, epoll and two bells leave a few for connections: all of them are being served.
    let server = Server::start(&["-t", "16", "-n", "12"]);
    let held: Vec<TcpStream> = (0..16).map(|_| server.ask("/hold/100")).collect();
    server.told("held");
    let before = server.processor_time();
    // The one thing to observe is that nothing happens.
    thread::sleep(Duration::from_millis(1000));
    let used = server.processor_time() - before;
    assert!(used < Duration::from_millis(300), "{used:?} of processor time for waiting");
    held.iter().for_each(|_| server.let_go());
    for stream in held {
        assert_same(&read_all(stream), &ok(100, 100));
    }
}
