//! Clients that keep a webproxy busy until it is gone.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use crate::fixture::Files;
use crate::programs::{ERROR, NOT_FOUND, ok};

const CLIENTS: usize = 12;

/// Paths, and the answers to them.
pub type Answers = Vec<(String, Vec<u8>)>;

/// Those for the files, and for one that is missing.
pub fn answers(files: &Files) -> Answers {
    let missing = ("/files/none".to_owned(), NOT_FOUND.to_vec());
    files.iter().map(|(path, file)| (path.clone(), ok(file))).chain([missing]).collect()
}

/// How often a test stops a program: `usual`, or as `GFPROXY_TEST_STOPS` says.
pub fn stops(usual: usize) -> usize {
    std::env::var("GFPROXY_TEST_STOPS").map_or(usual, |stops| stops.parse().expect("GFPROXY_TEST_STOPS: a number"))
}

/// Calls `stop` in the middle of the clients' requests, when `begun` answers have begun. Each client goes on until the
/// server at `port` is gone. `check` is told of each path, what is expected and what has come.
pub fn under_load<T>(
    port: u16,
    answers: &Answers,
    begun: usize,
    check: impl Fn(&str, &[u8], &[u8]) + Sync,
    stop: impl FnOnce() -> T,
) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (sender, check) = (sender.clone(), &check);
            scope.spawn(move || {
                for (path, expected) in answers.iter().cycle().skip(number) {
                    let Some(answer) = ask(port, path, expected.len(), &sender) else { return };
                    check(path, expected, &answer);
                }
            });
        }
        for _ in 0..begun {
            receiver.recv().expect("clients go on until the end");
        }
        stop()
    })
}

/// The answer to a request for `path`, of `len` bytes at most; None if the server is gone before its first byte.
fn ask(port: u16, path: &str, len: usize, begun: &Sender<()>) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
    // In more than one write, as the kit's clients ask.
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

/// A whole answer, or ERROR for a request that came too late.
pub fn is_whole(path: &str, expected: &[u8], answer: &[u8]) {
    let whole = answer == expected || answer == ERROR;
    assert!(whole, "{path}: {} of {} bytes", answer.len(), expected.len());
}
