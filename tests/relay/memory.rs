//! What a body costs webproxy while it passes: memory of a fixed size, and no wait.

use std::fs;
use std::io::Read;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

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

/// The most memory that a process has had, in kB.
fn peak(pid: Pid) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
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
