//! What systemd and its like do for a service: sockets that are there before it, and word that it is ready.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};

use crate::fixture::{daemon_command, files, write_locals};
use crate::programs::{Program, has_own_gfserver, ok, program, read_answer, request, skipped};

/// A command socket that no daemon serves yet.
fn listen(path: &Path) -> OwnedFd {
    let listener =
        socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    socket::bind(listener.as_raw_fd(), &UnixAddr::new(path).expect("short")).expect("bind");
    socket::listen(&listener, Backlog::MAXCONN).expect("listen");
    listener
}

/// A simplecached that gets this socket as systemd hands it over: descriptor 3, and the process's own number in the
/// environment, which only a shell that becomes the daemon knows. Its own `-S` is another.
fn activate(listener: &OwnedFd, directory: &Path) -> Program {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" -v"]);
    shell.arg(program("simplecached_noasan"));
    let listener = listener.try_clone().expect("dup");
    Program::start_with_input(&mut daemon_command(shell, directory), listener)
}

#[test]
fn requests_wait_in_the_managers_socket_while_the_daemon_is_restarted() {
    let directory = tempfile::tempdir().expect("a directory");
    let served = files(&[1000]);
    write_locals(directory.path(), &served);
    let (path, file) = served.first_key_value().expect("one");
    let command_socket = directory.path().join("managed");
    let listener = listen(&command_socket);
    let mut webproxy = Command::new(program("webproxy_noasan"));
    webproxy.args(["-v", "-p", "0", "--cache-wait-ms", "60000", "-S"]).arg(&command_socket);
    let mut webproxy = Program::start(&mut webproxy);
    let port = webproxy.port();
    let mut before = None;
    for _ in 0..2 {
        // The daemon is not there, but its socket is: nobody is told that it is absent.
        let early = request(port, path);
        let mut daemon = activate(&listener, directory.path());
        let told = format!("serving on {}\n", command_socket.display());
        daemon.until("says where it serves", |daemon| daemon.stderr_so_far().contains(&told));
        assert_eq!(read_answer(early), ok(file));
        assert!(!directory.path().join("socket").exists(), "it made a socket of its own");
        daemon.signal(Signal::SIGKILL);
        before = Some(daemon);
    }
    drop(before);
    let daemon = activate(&listener, directory.path());
    assert_eq!(read_answer(request(port, path)), ok(file));
    assert_eq!(daemon.stop().status.code(), Some(0));
    assert!(command_socket.exists(), "the manager's socket outlives the daemon");
    assert!(!webproxy.stop().stderr.contains("no cache daemon"));
}

/// Runs a command to where it says that it is ready.
fn assert_tells_ready(command: &mut Command, directory: &Path) {
    let path = directory.join("notify");
    let manager = UnixDatagram::bind(&path).expect("bind");
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
    let running = Program::start(command.env("NOTIFY_SOCKET", &path));
    let mut told = [0; 100];
    let len = manager.recv(&mut told).expect("word from the program");
    assert_eq!(told[..len].trim_ascii(), b"READY=1");
    assert_eq!(running.stop().status.code(), Some(0));
}

#[test]
fn simplecached_tells_that_it_is_ready() {
    let directory = tempfile::tempdir().expect("a directory");
    write_locals(directory.path(), &files(&[1]));
    let mut daemon = daemon_command(Command::new(program("simplecached_noasan")), directory.path());
    assert_tells_ready(&mut daemon, directory.path());
}

#[test]
fn webproxy_tells_that_it_is_ready() {
    if !has_own_gfserver() {
        return skipped("a provided gfserver listens in a function that does not return, and tells nobody");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut webproxy = Command::new(program("webproxy_noasan"));
    webproxy.args(["-p", "0", "-S"]).arg(directory.path().join("socket"));
    assert_tells_ready(&mut webproxy, directory.path());
}
