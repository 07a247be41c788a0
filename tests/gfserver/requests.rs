//! How requests arrive.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::fixture::{ERROR, Server, assert_same, ok, read_all, until};

fn answer(server: &Server, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = server.connect();
    for piece in pieces {
        stream.write_all(piece).expect("a piece");
    }
    read_all(stream)
}

#[test]
fn both_forms_are_served() {
    let server = Server::start(&[]);
    assert_same(&answer(&server, &[b"GETFILE GET /size/10\r\n\r\n"]), &ok(10, 10));
    assert_same(&answer(&server, &[b"GETFILE GET /size/10 \r\n"]), &ok(10, 10));
    assert_same(&answer(&server, &[b"getfile\tget\t/size/10 and more\n"]), &ok(10, 10));
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let server = Server::start(&[]);
    let request = b"GETFILE GET /size/1000\r\n\r\n";
    let pieces: Vec<&[u8]> = request.chunks(1).collect();
    for _ in 0..50 {
        assert_same(&answer(&server, &pieces), &ok(1000, 1000));
    }
}

#[test]
fn the_first_piece_of_a_request_is_confirmed_at_once() {
    let server = Server::start(&[]);
    // A client with Nagle's algorithm keeps the second piece back until then.
    let ask = |_| {
        let mut stream = server.connect();
        stream.set_nodelay(false).expect("Nagle's algorithm");
        let begun = Instant::now();
        for piece in ["GETFILE GET ", "/size/10\r\n\r\n"] {
            stream.write_all(piece.as_bytes()).expect("a piece");
        }
        assert_same(&read_all(stream), &ok(10, 10));
        begun.elapsed()
    };
    let fastest = (0..20).map(ask).min().expect("some");
    // The least that Linux waits for an answer to put the confirmation on.
    assert!(fastest < Duration::from_millis(40), "{fastest:?}");
}

#[test]
fn a_handler_sees_the_context_of_its_request() {
    let server = Server::start(&["-t", "3"]);
    let short = "GETFILE|GET|/a/b.txt|arg|right";
    let expected = format!("GETFILE OK {} {short}", short.len());
    for _ in 0..10 {
        assert_same(&server.get("/a/b.txt"), expected.as_bytes());
    }
    // Longer than the array in a context: 127 bytes fit, up to 4096 are read.
    for length in [100, 109, 110, 111, 127, 128, 1000, 4079] {
        let path = format!("/{}", "x".repeat(length - 1));
        let text = format!("GETFILE|GET|{path}|arg|right");
        assert_same(&server.get(&path), format!("GETFILE OK {} {text}", text.len()).as_bytes());
    }
}

#[test]
fn malformed_requests_are_answered() {
    let server = Server::start(&[]);
    for request in [
        &b"\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GETFILE PUT /a\r\n\r\n",
        b"GETFILE GET\r\n\r\n",
        b"GETFILE GET a\r\n\r\n",
        b"GETFILE GET /a\0b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\n",
        &[b'x'; 4096],
        &[b'x'; 300_000],
    ] {
        assert_same(&answer(&server, &[request]), ERROR);
    }
    let too_long = format!("GETFILE GET /{}\r\n\r\n", "x".repeat(4082));
    assert_same(&answer(&server, &[too_long.as_bytes()]), ERROR);
    assert_same(&server.get("/size/5"), &ok(5, 5));
}

#[test]
fn a_client_may_close_its_side_after_the_request() {
    let server = Server::start(&[]);
    let stream = server.ask("/size/100000");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    assert_same(&read_all(stream), &ok(100_000, 100_000));

    let mut unfinished = server.connect();
    unfinished.write_all(b"GETFILE GET /size/1").expect("a piece");
    unfinished.shutdown(Shutdown::Write).expect("shutdown");
    assert_same(&read_all(unfinished), ERROR);
}

#[test]
fn probes_leave_nothing_behind() {
    let server = Server::start(&["-t", "2"]);
    let before = server.idle_descriptors();
    for _ in 0..50 {
        drop(server.connect());
        let mut partial = server.connect();
        partial.write_all(b"GETFI").expect("a piece");
    }
    assert_same(&server.get("/size/5"), &ok(5, 5));
    until("all are closed", || (server.count("fd") == before).then_some(()));
}

#[test]
fn what_follows_a_request_does_not_cost_its_answer() {
    let server = Server::start(&[]);
    for _ in 0..20 {
        let mut stream = server.ask("/size/1000000");
        // A close with these unread would reset the connection and throw the answer away.
        stream.write_all(&[b'x'; 50_000]).expect("more");
        assert_same(&read_all(stream), &ok(1_000_000, 1_000_000));
    }
}

#[test]
fn a_client_with_time_out_is_dropped() {
    let server = Server::start(&["-t", "2"]);
    let before = server.idle_descriptors();
    let silent = server.connect();
    let mut slow = server.connect();
    slow.write_all(b"GETFILE GET").expect("a piece");
    // Answered, and never hanging up.
    let idle = server.ask("/size/10");
    until("three connections are there", || (server.count("fd") == before + 3).then_some(()));
    until("the answered one is closed first", || (server.count("fd") == before + 2).then_some(()));
    until("the others are closed", || (server.count("fd") == before).then_some(()));
    assert_same(&read_all(silent), b"");
    assert_same(&read_all(slow), ERROR);
    assert_same(&read_all(idle), &ok(10, 10));
}
