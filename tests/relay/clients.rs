//! Clients that read slowly, and clients that stop.

use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::download::{Download, End, download};
use crate::programs::bytes;
use crate::relay::{Relay, Route};
use crate::scripted::{After, ScriptedOrigin};

/// More than the buffers of a connection take.
const LARGE: usize = 12 << 20;
/// Receive buffers: one so small that it takes little at a time, one so large that the server sends large segments.
const WINDOWS: [usize; 2] = [4 << 10, 200 << 10];

fn origin(file: &[u8]) -> ScriptedOrigin {
    let file = file.to_vec();
    ScriptedOrigin::start(move |x| x.answer("200 OK", &[], &file))
}

/// Reads a little at a time, 50 times a second, and after `time` all the rest.
fn read_slowly(mut download: Download<'_>, time: Duration) -> End {
    let until = Instant::now() + time;
    let mut read = 0;
    while Instant::now() < until {
        read += 16 << 10;
        if let Some(end) = download.read_to(read) {
            return end;
        }
        thread::sleep(Duration::from_millis(20));
    }
    download.finish()
}

fn slow_and_fast(route: Route) {
    let file = bytes(1, LARGE);
    let origin = origin(&file);
    let relay = Relay::start(route, &origin, &["-t", "4", "--stall-ms", "800"]);
    let slow = WINDOWS.map(|window| Download::with_window(relay.port, "/file", &file, window));
    thread::scope(|scope| {
        // Longer than the limit several times over, and too slowly for the kernel to ask for more data meanwhile.
        let slow = slow.map(|download| scope.spawn(|| read_slowly(download, Duration::from_secs(8))));
        assert_eq!(download(relay.port, "/file", &file), End::Whole);
        assert!(slow.iter().all(|client| !client.is_finished()), "the fast client has waited for a slow one");
        slow.into_iter().for_each(|client| assert_eq!(client.join().expect("a download"), End::Whole));
    });
    assert_eq!(relay.stop().status.code(), Some(0));
}

#[test]
fn a_slow_client_gets_the_whole_file() {
    slow_and_fast(Route::Plain);
}

#[test]
fn a_slow_client_that_shares_a_request_gets_the_whole_file_and_holds_up_nobody() {
    slow_and_fast(Route::Coalesced);
}

fn stopped(route: Route) {
    let file = bytes(1, LARGE);
    let origin = origin(&file);
    let mut relay = Relay::start(route, &origin, &["-v", "-t", "4", "--stall-ms", "300"]);
    let mut stopped = Download::with_window(relay.port, "/file", &file, WINDOWS[0]);
    assert_eq!(stopped.read_to(1), None);
    assert_eq!(download(relay.port, "/file", &file), End::Whole);
    relay.webproxy.until("drops it", |webproxy| webproxy.stderr_so_far().contains(" CUT "));
    let end = stopped.finish();
    assert!(matches!(end, End::Short(_)), "{end:?}");
    assert_eq!(download(relay.port, "/file", &file), End::Whole);
    assert_eq!(relay.stop().status.code(), Some(0));
}

#[test]
fn a_client_that_stops_reading_is_dropped() {
    stopped(Route::Plain);
}

#[test]
fn a_client_that_shares_a_request_and_stops_reading_is_dropped_alone() {
    stopped(Route::Coalesced);
}

/// The origin sends nothing after the first byte until all clients have that.
#[test]
fn simultaneous_misses_are_one_request_to_the_origin() {
    const CLIENTS: usize = 6;
    let file = bytes(1, LARGE);
    let (go, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let origin = ScriptedOrigin::start({
        let file = file.clone();
        move |x| {
            x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len()));
            x.send(&file[..1]);
            wait.lock().expect("not poisoned").recv_timeout(Duration::from_secs(60)).expect("the test goes on");
            x.send(&file[1..]);
            After::Keep
        }
    });
    let relay = Relay::start(Route::Coalesced, &origin, &["-t", "8"]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Download::start(relay.port, "/file", &file)).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.read_to(1), None));
    // One for each request that there could be.
    (0..CLIENTS).for_each(|_| go.send(()).expect("the origin waits"));
    thread::scope(|scope| {
        clients.into_iter().for_each(|client| drop(scope.spawn(|| assert_eq!(client.finish(), End::Whole))));
    });
    assert_eq!(origin.requests().len(), 1);
}
