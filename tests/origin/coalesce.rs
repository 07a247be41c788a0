//! Simultaneous requests for one path: one request to the origin, and each client as if alone.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use getfile::Outcome;
use origin::{Config, Origin};

use crate::support::{After, Collector, OnChunk, ScriptedOrigin, config, pattern};

const LIMIT: Duration = Duration::from_secs(30);
const CLIENTS: usize = 8;
/// What the origin sends before it waits for the test.
const FIRST: usize = 10_000;

/// An origin that sends the beginning of `file`, and the rest once the test says so.
fn halting_origin(file: &[u8]) -> (ScriptedOrigin, Sender<()>) {
    let (go, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let file = file.to_vec();
    let server = ScriptedOrigin::start(move |x| {
        x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len()));
        x.send(&file[..FIRST.min(file.len())]);
        wait.lock().unwrap().recv_timeout(LIMIT).expect("the test goes on");
        x.send(&file[FIRST.min(file.len())..]);
        After::Keep
    });
    (server, go)
}

/// Tells of its first chunk.
fn telling(tell: &Sender<()>) -> Option<OnChunk> {
    let tell = tell.clone();
    let mut told = false;
    Some(OnChunk(Box::new(move |_| {
        if !std::mem::replace(&mut told, true) {
            tell.send(()).expect("the test waits");
        }
    })))
}

fn wait_for(told: &Receiver<()>, times: usize) {
    (0..times).for_each(|_| told.recv_timeout(LIMIT).expect("all clients are served from the first bytes"));
}

fn start(server: &ScriptedOrigin, config: Config) -> Arc<Origin> {
    Arc::new(Origin::new(&server.url(), config).expect("an origin"))
}

#[test]
fn simultaneous_requests_are_one() {
    for size in [FIRST + 1, 5 << 20] {
        let file = pattern(size);
        let (server, go) = halting_origin(&file);
        let origin = start(&server, config());
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = Collector { on_chunk: telling(&tell), ..Collector::default() };
                    assert_eq!(origin.serve_coalesced(b"/file", &mut client), Outcome::Sent(size as u64));
                    assert!(client.body == file);
                });
            }
            wait_for(&told, CLIENTS);
            go.send(()).expect("the origin waits");
        });
        assert_eq!(server.requests().len(), 1);
        // What is over is not answered from memory.
        go.send(()).expect("the origin waits");
        assert_eq!(origin.serve_coalesced(b"/file", &mut Collector::default()), Outcome::Sent(size as u64));
        assert_eq!(server.requests().len(), 2);
    }
}

#[test]
fn other_paths_are_other_requests() {
    let server = ScriptedOrigin::start(|x| x.answer("200 OK", &[], x.request.target.clone().as_bytes()));
    let origin = start(&server, config());
    thread::scope(|scope| {
        for n in 0..CLIENTS {
            let origin = &origin;
            scope.spawn(move || {
                let path = format!("/{n}");
                let mut client = Collector::default();
                origin.serve_coalesced(path.as_bytes(), &mut client);
                assert_eq!(client.body, path.as_bytes());
            });
        }
    });
    assert_eq!(server.requests().len(), CLIENTS);
}

/// One client takes its first bytes and then nothing until all others are done; whether it may fall back behind a file
/// or, past the ceiling, holds the others to its pace, all get all of it.
#[test]
fn a_client_that_stands_still_holds_up_nobody() {
    let file = pattern(20 << 20);
    let (server, go) = halting_origin(&file);
    let origin = start(&server, config());
    let (tell, told) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let (origin, file) = (&origin, &file);
        let slow_tell = tell.clone();
        scope.spawn(move || {
            let mut waited = false;
            let on_chunk = OnChunk(Box::new(move |_| {
                if !std::mem::replace(&mut waited, true) {
                    slow_tell.send(()).expect("the test waits");
                    released.recv_timeout(LIMIT).expect("the others get by");
                }
            }));
            let mut client = Collector { on_chunk: Some(on_chunk), ..Collector::default() };
            assert_eq!(origin.serve_coalesced(b"/file", &mut client), Outcome::Sent(file.len() as u64));
            assert!(client.body == *file);
        });
        let fast: Vec<_> = (0..3)
            .map(|_| {
                let on_chunk = telling(&tell);
                scope.spawn(move || {
                    let mut client = Collector { on_chunk, ..Collector::default() };
                    assert_eq!(origin.serve_coalesced(b"/file", &mut client), Outcome::Sent(file.len() as u64));
                    assert!(client.body == *file);
                })
            })
            .collect();
        wait_for(&told, 4);
        go.send(()).expect("the origin waits");
        fast.into_iter().for_each(|client| client.join().expect("served"));
        release.send(()).expect("the slow client waits");
    });
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn beyond_the_ceiling_the_slowest_sets_the_pace() {
    let file = pattern(5 << 20);
    let (server, go) = halting_origin(&file);
    let origin = start(&server, Config { spool_ceiling: 4 << 20, ..config() });
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        for n in 0..4 {
            let mut tell = telling(&tell).expect("a callback");
            let (origin, file) = (&origin, &file);
            scope.spawn(move || {
                let on_chunk = OnChunk(Box::new(move |len| {
                    (tell.0)(len);
                    thread::sleep(Duration::from_millis(5 * n));
                }));
                let mut client = Collector { on_chunk: Some(on_chunk), ..Collector::default() };
                assert_eq!(origin.serve_coalesced(b"/file", &mut client), Outcome::Sent(file.len() as u64));
                assert!(client.body == *file);
            });
        }
        wait_for(&told, 4);
        go.send(()).expect("the origin waits");
    });
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn the_first_client_may_leave_and_the_last_one_ends_the_request() {
    let file = pattern(5 << 20);
    let (server, go) = halting_origin(&file);
    let origin = start(&server, config());
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let leaver = scope.spawn(|| {
            let mut client =
                Collector { on_chunk: telling(&tell), leaves_after: Some(FIRST + 1), ..Collector::default() };
            origin.serve_coalesced(b"/file", &mut client)
        });
        wait_for(&told, 1);
        let stayer = scope.spawn(|| {
            let mut client = Collector { on_chunk: telling(&tell), ..Collector::default() };
            let outcome = origin.serve_coalesced(b"/file", &mut client);
            assert!(client.body == file);
            outcome
        });
        wait_for(&told, 1);
        go.send(()).expect("the origin waits");
        assert!(matches!(leaver.join().expect("an outcome"), Outcome::Cut(_)));
        assert_eq!(stayer.join().expect("an outcome"), Outcome::Sent(file.len() as u64));
    });
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_request_that_nobody_waits_for_ends() {
    let file = pattern(10_000);
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let server = ScriptedOrigin::start(move |x| {
        x.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n");
        while x.try_send(&file) {}
        tell.lock().unwrap().send(()).expect("the test waits");
        After::Close
    });
    let origin = start(&server, config());
    let mut client = Collector { leaves_after: Some(1), ..Collector::default() };
    assert!(matches!(origin.serve_coalesced(b"/file", &mut client), Outcome::Cut(_)));
    wait_for(&told, 1);
}

/// Also where nothing more comes that could not be delivered.
#[test]
fn a_silent_request_that_nobody_waits_for_ends() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let server = ScriptedOrigin::start(move |x| {
        x.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        x.wait_for_close();
        tell.lock().unwrap().send(()).expect("the test waits");
        After::Close
    });
    let origin = start(&server, Config { low_speed_limit: 0, ..config() });
    let mut client = Collector { leaves_after: Some(1), ..Collector::default() };
    assert!(matches!(origin.serve_coalesced(b"/file", &mut client), Outcome::Cut(_)));
    wait_for(&told, 1);
}

#[test]
fn all_learn_of_a_failure() {
    for (status, expected) in
        [("503 Away", Outcome::Failed("the origin answered 503".to_owned())), ("404 None", Outcome::NotFound)]
    {
        let server = ScriptedOrigin::start(move |x| x.answer(status, &[], b"page"));
        let origin = start(&server, config());
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = Collector::default();
                    assert_eq!(origin.serve_coalesced(b"/file", &mut client), expected);
                    assert_eq!(client.header, None);
                });
            }
        });
    }
    let file = pattern(1 << 20);
    let server = ScriptedOrigin::start(move |x| {
        x.send("HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n");
        x.send(&file);
        After::Close
    });
    let mut client = Collector::default();
    let outcome = start(&server, config()).serve_coalesced(b"/file", &mut client);
    assert!(matches!(outcome, Outcome::Cut(_)), "{outcome:?}");
    assert_eq!(client.body.len(), 1 << 20);
}
