//! Time limits: an origin that is too slow is given up, and a slow client is not held against it.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use getfile::Outcome;
use origin::{Config, Origin};

use crate::support::{After, Collector, Exchange, OnChunk, ScriptedOrigin, config, fetch_with, pattern};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

/// Sends `text` byte by byte, far too slowly.
fn trickle(x: &mut Exchange<'_>, text: &[u8]) -> After {
    for byte in text {
        x.send([*byte]);
        if !x.pause(Duration::from_millis(50)) {
            break;
        }
    }
    After::Close
}

#[test]
fn an_origin_that_does_not_answer_is_given_up() {
    type Script = fn(&mut Exchange<'_>) -> After;
    let silent: Script = |x| {
        x.pause(LONG);
        After::Close
    };
    let slow_head: Script = |x| trickle(x, "HTTP/1.1 200 OK\r\nX: yyyyyyyyyyyyyyyyyyy\r\n".repeat(50).as_bytes());
    let head_only: Script = |x| {
        x.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        x.pause(LONG);
        After::Close
    };
    let slow_redirect: Script = |x| {
        x.send("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 1000\r\n\r\n");
        trickle(x, &[b'x'; 1000])
    };
    for script in [silent, slow_head, head_only, slow_redirect] {
        let began = Instant::now();
        let fetched = fetch_with(Config { first_byte_timeout: SHORT, ..config() }, script);
        fetched.assert_failed("no body within 300ms");
        assert_eq!(fetched.server.requests().len(), 1, "a timeout is not tried again");
        assert!(began.elapsed() < LONG, "waited for the script, not for the limit");
    }
}

#[test]
fn a_body_that_trickles_is_given_up() {
    let limits = Config { low_speed_limit: 1000, low_speed_time: SHORT, retries: 0, ..config() };
    let fetched = fetch_with(limits.clone(), |x| {
        x.send("HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n");
        trickle(x, &pattern(10_000))
    });
    fetched.assert_cut(&pattern(10_000), "fewer than 1000 bytes a second");
    let fetched = fetch_with(limits, |x| {
        x.send("HTTP/1.0 200 OK\r\n\r\n");
        trickle(x, &pattern(10_000))
    });
    fetched.assert_failed("fewer than 1000 bytes a second");
}

#[test]
fn the_total_time_ends_a_transfer_that_goes_on() {
    let fetched = fetch_with(Config { total_timeout: SHORT, ..config() }, |x| {
        x.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\nETag: \"v1\"\r\n\r\n");
        while x.try_send(pattern(10_000)) && x.pause(Duration::from_millis(10)) {}
        After::Close
    });
    assert!(matches!(&fetched.outcome, Outcome::Cut(reason) if reason.contains("total")), "{:?}", fetched.outcome);
    assert_eq!(fetched.server.requests().len(), 1);
}

#[test]
fn a_connection_that_does_not_come_about_is_given_up() {
    // A listener whose queue is full takes no more connections.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).expect("a backlog")).expect("listen");
    let address = listener.local_addr().expect("an address");
    let fillers: Vec<_> =
        (0..4).map(|_| std::net::TcpStream::connect_timeout(&address, SHORT)).take_while(Result::is_ok).collect();
    assert!(fillers.len() < 4, "the queue is not full");
    let limits = Config { connect_timeout: SHORT, retries: 1, ..config() };
    let origin = Origin::new(&format!("http://{address}"), limits).expect("an origin");
    let outcome = origin.serve(b"/file", &mut Collector::default());
    // libcurl has several words for it, by where it notices.
    let Outcome::Failed(reason) = &outcome else { panic!("{outcome:?}") };
    let reason = reason.to_lowercase();
    assert!(reason.contains("timed out") || reason.contains("timeout"), "{outcome:?}");
}

#[test]
fn a_slow_client_is_not_the_origins_fault() {
    let file = pattern(2 << 20);
    let server = ScriptedOrigin::start({
        let file = file.clone();
        move |x| x.answer("200 OK", &[], &file)
    });
    let limits = Config { low_speed_limit: 10 << 20, low_speed_time: Duration::from_millis(500), ..config() };
    let origin = Origin::new(&server.url(), limits).expect("an origin");
    // A tenth of the limit.
    let began = Instant::now();
    let on_chunk = move |len| {
        let due = began + Duration::from_secs_f64(len as f64 / f64::from(1 << 20));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    };
    let mut client = Collector { on_chunk: Some(OnChunk(Box::new(on_chunk))), ..Collector::default() };
    assert_eq!(origin.serve(b"/file", &mut client), Outcome::Sent(2 << 20));
    assert!(client.body == file);
}
