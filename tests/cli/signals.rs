//! How the mains end, and what a signal does to what is in flight.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::fixture::{Cache, Files, files};
use crate::programs::{NOT_FOUND, Program, fetch, ok, program, read_answer, request};
use crate::static_origin::StaticOrigin;

/// More than the sockets between server and client hold: its transfer is in flight until the client reads.
const LARGE: usize = 32 << 20;
const LARGE_PATH: &str = "/files/33554432.bin";

/// Less than that, and more than the client's socket holds: the server's keeps the rest when the handler is done.
const MEDIUM: usize = 1_000_000;

static FILES: LazyLock<Files> = LazyLock::new(|| files(&[1, MEDIUM, LARGE]));
static ORIGIN: LazyLock<StaticOrigin> = LazyLock::new(|| StaticOrigin::start(FILES.clone()));

/// Runs `test` with a webproxy of each part, with and without AddressSanitizer, that has these further options.
fn with_each_webproxy(options: &[&str], test: impl Fn(Program)) {
    let cache = Cache::start("simplecached", &FILES);
    for name in ["webproxy", "webproxy_noasan"] {
        test(Program::start(Command::new(program(name)).args(["-p", "0", "-s", ORIGIN.url()]).args(options)));
        let mut part_2 = Command::new(program(name));
        test(Program::start(part_2.args(["-p", "0", "-S"]).arg(cache.socket()).args(options)));
    }
}

/// A client in the middle of the large file: the beginning has arrived.
fn in_flight(port: u16) -> TcpStream {
    let mut stream = request(port, LARGE_PATH);
    let mut head = [0; 20];
    stream.read_exact(&mut head).expect("the header");
    assert_eq!(&head, b"GETFILE OK 33554432 ");
    stream
}

/// Waits until no new client is let in.
fn refuses_clients(webproxy: &mut Program) {
    webproxy.until("stops listening", |webproxy| !webproxy.listens());
}

#[test]
fn webproxy_ends_with_status_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        with_each_webproxy(&[], |mut webproxy| {
            assert_eq!(fetch(webproxy.port(), "/files/1.bin"), ok(&FILES["/files/1.bin"]));
            webproxy.signal(signal);
            let ended = webproxy.wait();
            assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "{signal}");
        });
    }
}

#[test]
fn simplecached_ends_with_status_0() {
    for name in ["simplecached", "simplecached_noasan"] {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let mut cache = Cache::start(name, &FILES);
            let socket = cache.socket();
            cache.daemon().until("listens", |_| socket.exists());
            let (daemon, _directory) = cache.into_parts();
            daemon.signal(signal);
            let ended = daemon.wait();
            assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "{name} {signal}");
            assert!(!socket.exists(), "{name} left its socket behind");
        }
    }
}

#[test]
fn transfers_in_flight_are_finished() {
    with_each_webproxy(&["--drain-ms", "60000"], |mut webproxy| {
        let port = webproxy.port();
        let stream = in_flight(port);
        webproxy.signal(Signal::SIGTERM);
        refuses_clients(&mut webproxy);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "a new client was let in");
        assert!(read_body(stream) == FILES[LARGE_PATH], "the file is not whole");
        let ended = webproxy.wait();
        assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""));
    });
}

#[test]
fn transfers_beyond_the_limit_are_cut_short() {
    with_each_webproxy(&["--drain-ms", "100"], |mut webproxy| {
        let stream = in_flight(webproxy.port());
        let ended = webproxy.stop();
        assert_eq!(ended.status.code(), Some(0));
        // The request's own line may still come before the end.
        let mut lines = ended.stderr.lines();
        assert!(lines.next().is_some_and(|line| line.ends_with("] transfers cut short after 100 ms: 1")), "{ended:?}");
        assert!(lines.all(|line| line.contains(" /files/33554432.bin CUT ")), "{ended:?}");
        let body = read_body(stream);
        assert!(body.len() < LARGE, "all of it arrived");
        assert!(FILES[LARGE_PATH].starts_with(&body), "what arrived is not the file's beginning");
    });
}

/// An answer that the handler has written, and the client not read.
fn in_the_socket(webproxy: &mut Program) -> TcpStream {
    let stream = request(webproxy.port(), "/files/1000000.bin");
    webproxy.until("has written it", |webproxy| webproxy.stderr_so_far().contains(" OK 1000000 B "));
    stream
}

#[test]
fn answers_in_the_socket_are_waited_for() {
    with_each_webproxy(&["-v", "--drain-ms", "60000"], |mut webproxy| {
        let stream = in_the_socket(&mut webproxy);
        webproxy.signal(Signal::SIGTERM);
        refuses_clients(&mut webproxy);
        assert!(read_answer(stream) == ok(&FILES["/files/1000000.bin"]), "the file is not whole");
        assert_eq!(webproxy.wait().status.code(), Some(0));
    });
}

#[test]
fn answers_in_the_socket_are_told_of_at_the_limit() {
    with_each_webproxy(&["-v", "--drain-ms", "100"], |mut webproxy| {
        let _stream = in_the_socket(&mut webproxy);
        let ended = webproxy.stop();
        assert_eq!(ended.status.code(), Some(0));
        assert!(ended.stderr.ends_with("] answers that had not arrived after 100 ms: 1\n"), "{}", ended.stderr);
    });
}

#[test]
fn a_second_signal_ends_at_once() {
    with_each_webproxy(&["--drain-ms", "60000"], |mut webproxy| {
        let _stream = in_flight(webproxy.port());
        webproxy.signal(Signal::SIGTERM);
        refuses_clients(&mut webproxy);
        webproxy.signal(Signal::SIGTERM);
        assert_eq!(webproxy.wait().status.signal(), Some(Signal::SIGTERM as i32));
    });
}

/// As with nohup(1), which makes it ignored.
#[test]
fn an_ignored_hangup_ends_nothing() {
    let mut nohup = Command::new("nohup");
    nohup.arg(program("webproxy")).args(["-p", "0", "-s", ORIGIN.url()]);
    let mut webproxy = Program::start(&mut nohup);
    let port = webproxy.port();
    webproxy.signal(Signal::SIGHUP);
    // An end would come after 50 ms, which is how long it waits for signals that belong together.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        assert_eq!(fetch(port, "/files/1.bin"), ok(&FILES["/files/1.bin"]));
    }
    let ended = webproxy.stop();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

/// The signal is there before the program is, so that it is taken at the first moment that it can be.
#[test]
fn a_signal_at_the_start_ends_it_at_once() {
    for name in ["webproxy", "webproxy_noasan"] {
        for _ in 0..16 {
            let begun = Instant::now();
            let mut env = Command::new("env");
            env.args(["--block-signal=TERM", "sh", "-c", r#"kill -TERM $$; exec "$0" -p 0 --drain-ms 60000"#]);
            let ended = Program::run(env.arg(program(name)));
            assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "{name}");
            assert!(begun.elapsed() < Duration::from_secs(30), "{name} took its time");
        }
    }
}

/// While the options are read. The program without AddressSanitizer, which wants to be loaded first.
#[test]
fn a_hangup_in_the_first_moment_is_handled() {
    let directory = tempfile::tempdir().expect("a directory");
    let shim = directory.path().join("early_signal.so");
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&shim);
    gcc.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/early_signal.c")).arg("-ldl");
    assert!(Program::run(&mut gcc).status.success());
    let with_shim = |name: &str| {
        let mut command = Command::new(program(name));
        command.env("LD_PRELOAD", &shim);
        command
    };
    // simplecached loads its file again and goes on; to webproxy it is an end.
    let mut cache = Cache::start_command(with_shim("simplecached_noasan"), &FILES);
    let socket = cache.socket();
    cache.daemon().until("listens", |_| socket.exists());
    assert_eq!(cache.into_parts().0.stop().status.code(), Some(0));
    let ended = Program::run(with_shim("webproxy_noasan").args(["-p", "0"]));
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

/// Those of libcurl would make its start four times as long, in which no signal is handled yet.
#[test]
fn simplecached_loads_no_library_that_it_does_not_need() {
    let mut cache = Cache::start("simplecached_noasan", &FILES);
    let socket = cache.socket();
    cache.daemon().until("listens", |_| socket.exists());
    let maps = fs::read_to_string(format!("/proc/{}/maps", cache.daemon().pid())).expect("its mappings");
    assert!(maps.contains("/libc.so") && !maps.contains("/libcurl"), "{maps}");
}

#[test]
fn webproxy_may_have_as_many_clients_as_the_system_allows() {
    let mut sh = Command::new("sh");
    sh.args(["-c", r#"ulimit -Sn 64; exec "$0" -p 0"#]).arg(program("webproxy"));
    let mut webproxy = Program::start(&mut sh);
    webproxy.port();
    let limits = fs::read_to_string(format!("/proc/{}/limits", webproxy.pid())).expect("its limits");
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("that of descriptors");
    let values: Vec<_> = limit.split_whitespace().collect();
    assert!(values[0] == values[1] && values[0] != "64", "{limit}");
}

/// Writing to a client that has left raises SIGPIPE.
#[test]
fn a_client_that_leaves_ends_nothing() {
    with_each_webproxy(&[], |mut webproxy| {
        let port = webproxy.port();
        for _ in 0..20 {
            drop(in_flight(port));
        }
        assert_eq!(fetch(port, "/files/1.bin"), ok(&FILES["/files/1.bin"]));
        assert_eq!(webproxy.stop().status.code(), Some(0));
    });
}

#[test]
fn simplecached_reloads_on_sighup() {
    let mut cache = Cache::start("simplecached", &FILES);
    let mut webproxy = Command::new(program("webproxy"));
    let mut webproxy = Program::start(webproxy.args(["-p", "0", "-S"]).arg(cache.socket()));
    let port = webproxy.port();
    assert_eq!(fetch(port, "/new"), NOT_FOUND);

    let old = fs::read_to_string(cache.locals()).expect("locals.txt");
    fs::write(cache.locals(), old.replace("/files/1.bin ", "/new ")).expect("locals.txt");
    cache.daemon().signal(Signal::SIGHUP);
    webproxy.until("serves the new key", |_| fetch(port, "/new") == ok(&FILES["/files/1.bin"]));
    assert_eq!(fetch(port, "/files/1.bin"), NOT_FOUND);

    // A file that cannot be read leaves what was loaded.
    fs::remove_file(cache.locals()).expect("remove");
    cache.daemon().signal(Signal::SIGHUP);
    let daemon = cache.daemon();
    daemon.until("says why", |daemon| daemon.stderr_so_far().contains("locals.txt"));
    assert_eq!(fetch(port, "/new"), ok(&FILES["/files/1.bin"]));
}

/// What follows the header, to the end of the connection or to a reset.
fn read_body(mut stream: TcpStream) -> Vec<u8> {
    let mut body = Vec::new();
    let mut buffer = vec![0; 65536];
    while body.len() < LARGE {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(len) => body.extend_from_slice(&buffer[..len]),
        }
    }
    body
}
