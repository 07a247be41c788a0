//! The end.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::fixture::{NOT_FOUND, Server, assert_same, command, ok, read_all, run};

#[test]
fn what_is_in_flight_is_finished() {
    let server = Server::start(&[]);
    let held: Vec<_> = (0..3).map(|_| server.ask("/hold/1000000")).collect();
    held.iter().for_each(|_| assert_eq!(server.told("held"), 0));
    server.signal(Signal::SIGTERM);
    held.iter().for_each(|_| server.let_go());
    for stream in held {
        assert_same(&read_all(stream), &ok(1_000_000, 1_000_000));
    }
    assert_eq!(server.told("returned"), -1);
    // The main thread and the two that read signals and standard input: every worker has been joined.
    assert!(server.told("stopped") <= 3);
    assert!(server.wait().success());
}

#[test]
fn what_takes_longer_than_the_limit_is_cut() {
    let server = Server::start(&["-d", "200"]);
    let stream = server.ask("/endless");
    server.told("streaming");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.told("endless failed"), -1);
    server.told("returned");
    drop(stream);
    assert!(server.wait().success());
}

#[test]
fn idle_connections_do_not_delay_it() {
    let server = Server::start(&[]);
    let idle: Vec<_> = (0..100).map(|_| server.connect()).collect();
    assert_same(&server.get("/size/1"), &ok(1, 1));
    server.signal(Signal::SIGTERM);
    server.told("returned");
    for stream in idle {
        assert_same(&read_all(stream), b"");
    }
}

#[test]
fn a_signal_handler_may_stop_the_server() {
    for _ in 0..20 {
        let server = Server::start(&["-k"]);
        let stream = server.ask("/hold/10");
        server.told("held");
        server.signal(Signal::SIGTERM);
        server.let_go();
        assert_same(&read_all(stream), &ok(10, 10));
        server.told("stopped");
        server.told("returned");
        assert!(server.wait().success());
    }
}

#[test]
fn a_handler_may_begin_the_end() {
    // At once, when the server has only just started.
    for _ in 0..20 {
        let server = Server::start(&["-t", "2"]);
        assert_same(&server.get("/stop"), NOT_FOUND);
        server.told("returned");
        assert!(server.wait().success());
    }
}

#[test]
fn shutting_the_listening_socket_down_ends_it_too() {
    let server = Server::start(&["-t", "2"]);
    let held = server.ask("/hold/100");
    server.told("held");
    assert_same(&server.get("/refuse"), NOT_FOUND);
    server.let_go();
    assert_same(&read_all(held), &ok(100, 100));
    server.told("returned");
    assert!(server.wait().success());
}

#[test]
fn a_hundred_stops_under_load_leave_no_thread_and_no_descriptor() {
    let port = free_port();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
                        // Between two servers nobody listens.
                        thread::sleep(Duration::from_millis(1));
                        continue;
                    };
                    // The server may be ending.
                    let _ = stream.write_all(b"GETFILE GET /size/2000\r\n\r\n");
                    let answer = read_all(stream);
                    assert!(answer.is_empty() || answer == ok(2000, 2000), "{} bytes", answer.len());
                }
            });
        }
        let output = run(&mut command(&["-p", &port.to_string(), "-c", "100", "-t", "8"]));
        done.store(true, Ordering::Relaxed);
        let stdout = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success(), "{:?}", output.status);
        assert!(stdout.contains("threads left 0\ndescriptors left 0\n"), "{stdout}");
    });
}

/// A port that nobody has, and which the kernel gives to nobody else soon.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}
