//! The end of a webproxy under load: whoever has got the beginning of an answer gets all of it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::fixture::{Cache, Files, files};
use crate::programs::{ERROR, NOT_FOUND, Program, ok, program};
use crate::static_origin::StaticOrigin;

/// The first is one segment of TCP; the others stay in the sockets' buffers for a while when the handler is done.
const SIZES: [usize; 3] = [1, 300_000, 1_000_000];
const CLIENTS: usize = 12;

static FILES: LazyLock<Files> = LazyLock::new(|| files(&SIZES));
/// Paths, and the answers to them.
static ANSWERS: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
    let missing = ("/files/none", NOT_FOUND.to_vec());
    FILES.iter().map(|(path, file)| (path.as_str(), ok(file))).chain([missing]).collect()
});

/// How often a webproxy is stopped: `GFPROXY_TEST_STOPS` for more than the usual.
fn stops() -> usize {
    std::env::var("GFPROXY_TEST_STOPS").map_or(64, |stops| stops.parse().expect("GFPROXY_TEST_STOPS: a number"))
}

/// Asks for one file after another, as the kit's clients do in more than one write, until the server is gone. Tells
/// `begun` of each answer's first byte.
fn client(port: u16, number: usize, begun: &Sender<()>) {
    for (path, expected) in ANSWERS.iter().cycle().skip(number) {
        let Some(answer) = ask(port, path, expected.len(), begun) else { return };
        // ERROR is for a request that came too late.
        let whole = answer == *expected || answer == ERROR;
        assert!(whole, "{path}: {} of {} bytes", answer.len(), expected.len());
    }
}

/// The answer to a request for `path`, of `len` bytes at most; None if the server is gone before its first byte.
fn ask(port: u16, path: &str, len: usize, begun: &Sender<()>) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
    stream.write_all(format!("GETFILE GET {path}\r\n").as_bytes()).ok()?;
    let mut answer = vec![0; 1];
    stream.read_exact(&mut answer).ok()?;
    // Nobody counts any more once the signal is sent.
    let _ = begun.send(());
    // The server has no use for the rest of the request, and may be gone.
    let _ = stream.write_all(b"\r\n");

    let mut buffer = [0; 65536];
    while answer.len() < len && answer != ERROR {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => answer.extend_from_slice(&buffer[..len]),
            // What the kernel has of an answer comes before it tells of a reset.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{path} after {} bytes: {error}", answer.len()),
        }
    }
    Some(answer)
}

/// Stops `webproxy` in the middle of its clients' requests, in another middle each round.
fn stop_under_load(mut webproxy: Program, round: usize) {
    let port = webproxy.port();
    let (begun, answers) = mpsc::channel();
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let begun = begun.clone();
            scope.spawn(move || client(port, number, &begun));
        }
        for _ in 0..=round % 64 {
            answers.recv().expect("clients go on until the end");
        }
        webproxy.signal([Signal::SIGTERM, Signal::SIGINT][round / 4 % 2]);
        let ended = webproxy.wait();
        assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "round {round}");
    });
}

#[test]
fn answers_that_have_begun_arrive() {
    let cache = Cache::start("simplecached_noasan", &FILES);
    let origin = StaticOrigin::start(FILES.clone());
    for round in 0..stops() {
        let mut webproxy = Command::new(program(["webproxy", "webproxy_noasan"][round / 2 % 2]));
        webproxy.args(["-p", "0", "-t", "6", "--drain-ms", "60000"]);
        match round % 2 {
            0 => webproxy.arg("-S").arg(cache.socket()),
            _ => webproxy.args(["-s", origin.url()]),
        };
        stop_under_load(Program::start(&mut webproxy), round);
    }
}
