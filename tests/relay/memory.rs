//! What a body costs webproxy while it passes: memory of a fixed size, and no wait.

use std::fs;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::unistd::Pid;

use crate::download::{Download, End};
use crate::programs::{bytes, request};
use crate::relay::{Relay, Route};
use crate::scripted::{After, ScriptedOrigin};

const CLIENTS: usize = 8;
/// All clients together fetch a gigabyte.
const FILE: usize = 128 << 20;
const BLOCK: usize = 1 << 20;
/// What that may add to the memory of webproxy.
const ALLOWED_KB: usize = 32 << 10;
/// What all bodies of unknown length may have of the memory, as docs/reference/origin.md has it.
const SPOOLS_KB: usize = 24 << 10;
/// What each worker may need besides, whatever the length: a block, a decoder, a piece to read a file with.
const WORKER_KB: usize = 640;

/// The most memory that a process has had, in kB.
fn peak(pid: Pid) -> usize {
    status(pid, "VmHWM:")
}

/// The memory that a process has now, in kB.
fn resident(pid: Pid) -> usize {
    status(pid, "VmRSS:")
}

fn status(pid: Pid, field: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Reads the answer to a request for `path`: a file of these blocks.
fn fetch_blocks(port: u16, path: &str, block: &[u8]) {
    let mut stream = request(port, path);
    let mut head = vec![0; format!("GETFILE OK {FILE} ").len()];
    stream.read_exact(&mut head).expect("a header");
    assert_eq!(String::from_utf8_lossy(&head), format!("GETFILE OK {FILE} "));
    let mut buffer = vec![0; BLOCK];
    for at in 0..FILE / BLOCK {
        stream.read_exact(&mut buffer).expect("the body");
        assert!(buffer == block, "block {at} of {path} differs");
    }
}

fn large_files_take_little_memory(route: Route) {
    let block = bytes(1, BLOCK);
    let origin = ScriptedOrigin::start({
        let block = block.clone();
        move |x| {
            x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {FILE}\r\n\r\n"));
            (0..FILE / BLOCK).take_while(|_| x.try_send(&block)).for_each(drop);
            After::Keep
        }
    });
    let relay = Relay::start(route, &origin, &["-t", "8"]);
    fetch_blocks(relay.port, "/first", &block);
    let before = peak(relay.webproxy.pid());
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let block = &block;
            scope.spawn(move || fetch_blocks(relay.port, &format!("/{client}"), block));
        }
    });
    let added = peak(relay.webproxy.pid()) - before;
    assert!(added <= ALLOWED_KB, "{added} kB more than for one client");
}

#[test]
fn large_files_of_many_clients_take_little_memory() {
    large_files_take_little_memory(Route::Plain);
}

#[test]
fn large_files_that_others_could_share_take_little_memory() {
    large_files_take_little_memory(Route::Coalesced);
}

/// The origin sends one byte and then nothing until the client has it.
#[test]
fn the_first_byte_does_not_wait_for_the_second() {
    let file = bytes(1, 100_000);
    for route in [Route::Plain, Route::Coalesced] {
        let (tell, told) = mpsc::channel();
        let told = Mutex::new(told);
        let origin = ScriptedOrigin::start({
            let file = file.clone();
            move |x| {
                x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len()));
                x.send(&file[..1]);
                let told = told.lock().expect("not poisoned");
                told.recv_timeout(Duration::from_secs(60)).expect("the client has the first byte");
                x.send(&file[1..]);
                After::Keep
            }
        });
        let relay = Relay::start(route, &origin, &[]);
        let mut client = Download::start(relay.port, "/file", &file);
        assert_eq!(client.read_to(1), None);
        tell.send(()).expect("the origin waits");
        assert_eq!(client.finish(), End::Whole, "{route:?}");
    }
}

/// How the origin sends a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    WithLength,
    Chunked,
    Gzip,
}

/// An origin whose answers end only when `together` requests of a round are there.
fn origin_of_rounds(file: &[u8], together: usize) -> ScriptedOrigin {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(file).expect("memory");
    let (file, gzip) = (file.to_vec(), gzip.finish().expect("memory"));
    let come = AtomicUsize::new(0);
    ScriptedOrigin::start(move |x| {
        let body = if x.request.target == "/Gzip" { &gzip } else { &file };
        let (last, begin) = body.split_last().expect("a byte");
        let head = match x.request.target.as_str() {
            "/Gzip" => format!("Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", gzip.len()),
            "/WithLength" => format!("Content-Length: {}\r\n\r\n", file.len()),
            _ => format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", file.len()),
        };
        x.send(format!("HTTP/1.1 200 OK\r\n{head}"));
        x.send(begin);
        let round = come.fetch_add(1, Ordering::SeqCst) / together + 1;
        while come.load(Ordering::SeqCst) < round * together && x.pause(Duration::from_millis(5)) {}
        x.send([*last]);
        if x.request.target == "/Chunked" {
            x.send("\r\n0\r\n\r\n");
        }
        After::Keep
    })
}

fn fetch_together(port: u16, sent: Sent, file: &[u8], clients: usize) {
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let client = Download::start(port, &format!("/{sent:?}"), file);
                assert_eq!(client.finish(), End::Whole, "{sent:?}");
            });
        }
    });
}

fn bodies_take_what_is_documented(clients: usize, size: usize) {
    let file = bytes(1, size);
    let origin = origin_of_rounds(&file, clients);
    let relay = Relay::start(Route::Plain, &origin, &["-t", &clients.to_string()]);
    let pid = relay.webproxy.pid();
    // With all its workers and their handles.
    fetch_together(relay.port, Sent::WithLength, &file, clients);
    let before = resident(pid);
    for sent in [Sent::Chunked, Sent::Gzip, Sent::Chunked] {
        fetch_together(relay.port, sent, &file, clients);
        let most = peak(pid) - before;
        assert!(most <= SPOOLS_KB + clients * WORKER_KB, "{most} kB more for {clients} bodies, {sent:?}");
        let deadline = Instant::now() + Duration::from_secs(20);
        while resident(pid) > before + clients * WORKER_KB {
            assert!(Instant::now() < deadline, "{} kB are kept of {before}, {sent:?}", resident(pid));
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn bodies_of_unknown_length_take_the_memory_that_is_documented_and_give_it_back() {
    bodies_take_what_is_documented(8, 8 << 20);
}

#[test]
fn many_bodies_of_unknown_length_take_no_more_than_few() {
    bodies_take_what_is_documented(100, 2 << 20);
}
