//! What clients get.

use std::io::Read;
use std::net::TcpStream;
use std::thread;

use nix::sys::socket::{setsockopt, sockopt::RcvBuf};

use crate::fixture::{ERROR, NOT_FOUND, Server, assert_same, ok};

#[test]
fn files_of_all_sizes_arrive_whole() {
    let server = Server::start(&[]);
    for size in [0, 1, 823, 824, 5712, 65_535, 65_536, 1_048_599, 20_000_000] {
        assert_same(&server.get(&format!("/size/{size}")), &ok(size, size));
    }
}

#[test]
fn many_clients_at_once() {
    let server = Server::start(&["-t", "4"]);
    thread::scope(|scope| {
        for client in 0..50 {
            let server = &server;
            scope.spawn(move || {
                for round in 0..20 {
                    let size = (client * 977 + round * 4099) % 150_000;
                    assert_same(&server.get(&format!("/size/{size}")), &ok(size, size));
                }
            });
        }
    });
}

#[test]
fn a_short_file_is_cut_and_not_filled() {
    let server = Server::start(&[]);
    assert_same(&server.get("/short/1000"), &ok(1000, 500));
    assert_same(&server.get("/short/1"), &ok(1, 0));
}

#[test]
fn an_error_within_a_file_is_a_cut_and_no_text() {
    let server = Server::start(&[]);
    assert_same(&server.get("/broken/1000"), &ok(1000, 500));
    assert_same(&server.get("/broken/400000"), &ok(400_000, 200_000));
}

#[test]
fn a_handler_without_an_answer_is_an_error() {
    let server = Server::start(&[]);
    assert_same(&server.get("/fail"), ERROR);
    assert_same(&server.get("/silent"), ERROR);
}

#[test]
fn nothing_follows_a_header_without_a_file() {
    let server = Server::start(&[]);
    assert_same(&server.get("/missing"), NOT_FOUND);
    assert_eq!(server.told("header"), NOT_FOUND.len() as i64);
}

#[test]
fn the_library_keeps_a_handler_to_its_header() {
    let server = Server::start(&[]);
    assert_same(&server.get("/rules"), &ok(10, 10));
    for (call, result) in [
        ("data before a header", -1),
        ("unknown status", -1),
        ("header", 14),
        ("second header", -1),
        ("too much", -1),
        ("nothing", 0),
        ("all", 10),
        ("more", -1),
    ] {
        assert_eq!(server.told(call), result, "{call}");
    }
}

#[test]
fn a_handler_may_write_to_the_socket_itself() {
    let server = Server::start(&[]);
    assert_same(&server.get("/direct/300"), &ok(300, 300));
}

#[test]
fn the_first_bytes_do_not_wait_for_the_rest() {
    let server = Server::start(&[]);
    let mut stream = server.ask("/hold/100");
    let mut first = vec![0; ok(100, 50).len()];
    stream.read_exact(&mut first).expect("half of the file");
    assert_same(&first, &ok(100, 50));
    server.let_go();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the other half");
    assert_same(&[first, rest].concat(), &ok(100, 100));
}

#[test]
fn a_client_that_leaves_ends_its_transfer_and_nothing_else() {
    // SIGPIPE has its default action in this program: it would kill it.
    let server = Server::start(&["-t", "1"]);
    for _ in 0..20 {
        let mut stream: TcpStream = server.ask("/endless");
        setsockopt(&stream, RcvBuf, &4096).expect("a small buffer");
        stream.read_exact(&mut [0; 1000]).expect("some bytes");
        drop(stream);
        assert_eq!(server.told("endless failed"), -1);
        assert_same(&server.get("/size/100"), &ok(100, 100));
    }
}
