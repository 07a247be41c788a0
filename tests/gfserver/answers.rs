//! What clients get.

use std::io::Read;
use std::mem;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
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
fn nothing_follows_a_send_that_failed() {
    let server = Server::start(&[]);
    assert_same(&server.get("/gap/100"), &ok(100, 50));
    for (call, result) in [("first half", 50), ("unreadable", -1), ("after a failure", -1)] {
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
fn the_last_bytes_do_not_wait_for_the_handler_for_good() {
    let server = Server::start(&[]);
    let mut stream = server.ask("/late/100");
    let mut all = vec![0; ok(100, 100).len()];
    stream.read_exact(&mut all).expect("all of the file");
    assert_same(&all, &ok(100, 100));
    server.let_go();
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
}

#[test]
fn a_small_answer_is_one_segment_with_its_confirmation_and_its_end() {
    let server = Server::start(&[]);
    let segments = || {
        let mut stream = server.ask("/size/1000");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the answer");
        assert_same(&answer, &ok(1000, 1000));
        segments_received(&stream)
    };
    // Where the server is held up for long, the kernel confirms the request by itself.
    let fewest = (0..100).map(|_| segments()).min();
    assert_eq!(fewest, Some(2), "the handshake's and the answer's");
}

/// How many segments of the other side's have come.
#[allow(unsafe_code)]
fn segments_received(stream: &TcpStream) -> u32 {
    // SAFETY: numbers, for which all zeros are valid.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut size = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to `info`.
    let failed = unsafe {
        let info = (&raw mut info).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info, &raw mut size)
    };
    assert_eq!(failed, 0);
    info.tcpi_segs_in
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
