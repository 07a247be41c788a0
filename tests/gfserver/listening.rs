//! Where the server listens.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::fixture::{Server, assert_same, command, ok, run};

fn reachable(address: &str, port: u16) -> bool {
    TcpStream::connect((address, port)).is_ok()
}

/// Whether this machine has IPv6 at all.
fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

#[test]
fn all_addresses_unless_told_otherwise() {
    let server = Server::start(&[]);
    assert_ne!(server.port, 0);
    assert!(reachable("127.0.0.1", server.port));
    assert_eq!(reachable("::1", server.port), has_ipv6());
}

#[test]
fn one_address() {
    let server = Server::start(&["-l", "127.0.0.1"]);
    assert_eq!(server.told("listen"), 0);
    assert!(reachable("127.0.0.1", server.port));
    assert!(!reachable("127.0.0.2", server.port));
    assert!(!reachable("::1", server.port));
    if has_ipv6() {
        for spelling in ["::1", "[::1]"] {
            let server = Server::start(&["-l", spelling]);
            assert!(reachable("::1", server.port));
            assert!(!reachable("127.0.0.1", server.port));
        }
    }
}

#[test]
fn what_is_no_address_is_refused() {
    for text in ["", "localhost", "1.2.3", "[::1", "127.0.0.1:80"] {
        assert_eq!(Server::start(&["-l", text]).told("listen"), -2, "{text}");
    }
}

#[test]
fn a_port_in_use_ends_the_program_with_one_line() {
    let taken = Server::start(&[]);
    let port = taken.port;
    let output = run(&mut command(&["-p", &port.to_string()]));
    assert_eq!(output.status.code(), Some(1));
    let message = format!("gfserver: cannot listen on port {port}: Address already in use\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), message);

    let output = run(&mut command(&["-p", &port.to_string(), "-l", "127.0.0.1"]));
    assert_eq!(output.status.code(), Some(1));
    let message = format!("gfserver: cannot listen on 127.0.0.1 port {port}: Address already in use\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), message);
}

#[test]
fn no_thread_at_all_is_refused() {
    let output = run(&mut command(&["-t", "0"]));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "gfserver: nthreads is 0, and must be 1 or more\n");
}

/// A server that gets a listening socket as systemd hands it over: descriptor 3, and the process's own number in the
/// environment, which only a shell that becomes the server knows.
fn activate(listener: TcpListener, arguments: &[&str]) -> Server {
    let server = command(arguments);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\""])
        .arg(server.get_program())
        .args(server.get_args())
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::piped());
    Server::spawn(&mut shell)
}

#[test]
fn a_socket_of_the_service_manager_is_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = listener.local_addr().expect("its address").port();
    let server = activate(listener, &["-p", "1"]);
    assert_eq!(server.port, port);
    assert_same(&server.get("/size/100"), &ok(100, 100));
}

#[test]
fn a_second_server_leaves_the_socket_alone_that_got_the_number_of_the_managers() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let mut server = activate(listener, &["-p", "0", "-a"]);
    assert_same(&server.get("/size/100"), &ok(100, 100));
    server.signal(Signal::SIGTERM);
    assert_eq!(server.told("own socket"), 3);
    let own = server.told("own port");
    server.port = u16::try_from(server.told("port")).expect("a port");
    assert_ne!(i64::from(server.port), own);
    assert_same(&server.get("/size/100"), &ok(100, 100));
    server.signal(Signal::SIGTERM);
    assert!(server.wait().success());
}
