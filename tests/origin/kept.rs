//! Kept connections: what arrives on them unasked is never an answer.

use std::fs;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use getfile::Outcome;
use origin::{Config, Origin};

use crate::support::{After, Collector, Nginx, ScriptedOrigin, TlsOrigin, breaking_relay, config, pattern};

const LIMIT: Duration = Duration::from_secs(30);
const OTHER_FILE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nNOT YOUR FILE";

/// Waits until bytes, or the end, have come on a connection to `port` that nobody reads.
fn wait_for_arrival(port: u16) {
    let peer = format!("0100007F:{port:04X}");
    let deadline = Instant::now() + LIMIT;
    loop {
        let sockets = fs::read_to_string("/proc/net/tcp").expect("the sockets");
        let has_come = |line: &str| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            fields.get(2) == Some(&peer.as_str()) && (fields[3] == "08" || !fields[4].ends_with(":00000000"))
        };
        if sockets.lines().any(has_come) {
            return;
        }
        assert!(Instant::now() < deadline, "nothing has come");
        thread::yield_now();
    }
}

#[track_caller]
fn assert_serves(origin: &Origin, path: &str, expected: &[u8]) {
    let mut client = Collector::default();
    assert_eq!(origin.serve(path.as_bytes(), &mut client), Outcome::Sent(expected.len() as u64), "{path}");
    assert!(client.body == expected, "{path}: {:?}", String::from_utf8_lossy(&client.body));
}

#[test]
fn what_arrives_on_an_idle_connection_is_never_the_next_answer() {
    for stray in [
        OTHER_FILE,
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "\r\n",
        "garbage\0",
        "", // the end of the connection
    ] {
        let (tell, told) = mpsc::channel::<()>();
        let told = Mutex::new(told);
        let server = ScriptedOrigin::start(move |x| {
            x.answer("200 OK", &[], x.request.target.clone().as_bytes());
            if x.request.number > 0 {
                return After::Keep;
            }
            told.lock().expect("not poisoned").recv_timeout(LIMIT).expect("the client has the answer");
            x.send(stray);
            if stray.is_empty() { After::Close } else { After::Keep }
        });
        let limits = Config { retries: 0, ..config() };
        let origin = Origin::new(&server.url(), limits).expect("an origin");
        assert_serves(&origin, "/0", b"/0");
        tell.send(()).expect("the origin waits");
        wait_for_arrival(server.address().port());
        for n in 1..6 {
            assert_serves(&origin, &format!("/{n}"), format!("/{n}").as_bytes());
        }
        assert!(server.requests()[1..].iter().all(|request| request.connection > 0), "{stray:?}");
    }
}

/// A file that grows while it is served. Both sizes: in one read with the head, and in many.
#[test]
fn a_surplus_costs_its_connection_and_not_the_file() {
    for size in [1_000, 2 << 20] {
        for (version, field) in [("1.0", ""), ("1.1", "Connection: close\r\n"), ("1.1", "")] {
            let file = pattern(size);
            let server = ScriptedOrigin::start({
                let file = file.clone();
                move |x| {
                    let head = format!("HTTP/{version} 200 OK\r\nContent-Length: {}\r\n{field}\r\n", file.len());
                    // One write, so that the last byte never comes without the surplus.
                    x.send([head.as_bytes(), &file, OTHER_FILE.as_bytes()].concat());
                    if version == "1.1" && field.is_empty() { After::Keep } else { After::Close }
                }
            });
            let origin = Origin::new(&server.url(), config()).expect("an origin");
            (0..4).for_each(|_| assert_serves(&origin, "/file", &file));
            assert_eq!((server.requests().len(), server.connections()), (4, 4), "{version} {field}");
        }
    }
}

/// There is no body in which the surplus could show.
#[test]
fn what_follows_an_empty_body_is_not_the_next_answer() {
    for status in ["200 OK", "204 No Content"] {
        let server = ScriptedOrigin::start(move |x| {
            if x.request.number == 0 {
                x.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n{OTHER_FILE}"));
                return After::Keep;
            }
            x.answer("200 OK", &[], b"good")
        });
        let origin = Origin::new(&server.url(), config()).expect("an origin");
        for expected in [&b""[..], b"good"] {
            assert_serves(&origin, "/file", expected);
        }
    }
}

fn trusting() -> Config {
    Config { ca_file: Some(Nginx::ca_file()), retries: 0, ..config() }
}

/// The same record brings the end of the body and more: TLS has read it, and the socket is empty.
#[test]
fn a_surplus_that_tls_has_read_is_not_the_next_answer() {
    let server = TlsOrigin::start();
    let origin = Origin::new(&server.url(), trusting()).expect("an origin");
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(server.read_request());
            server.send("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n");
            server.send("x".repeat(4_000));
            server.send("x".repeat(1_000) + OTHER_FILE);
            // Asked in vain over the kept connection, then over another one.
            while server.read_request() {
                server.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
            }
        });
        let mut client = Collector::default();
        let first = origin.serve(b"/file", &mut client);
        let mut client = Collector::default();
        let second = origin.serve(b"/file", &mut client);
        server.stop();
        assert_eq!((first, second), (Outcome::Sent(5_000), Outcome::Sent(5)));
        assert_eq!(client.body, b"hello");
    });
}

#[test]
fn what_arrives_on_an_idle_tls_connection_is_not_the_next_answer() {
    let server = TlsOrigin::start();
    let origin = Origin::new(&server.url(), trusting()).expect("an origin");
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel::<()>();
        let server = &server;
        scope.spawn(move || {
            for n in 0..2 {
                server.read_request();
                server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{n}"));
                if n == 0 {
                    told.recv_timeout(LIMIT).expect("the client has the answer");
                    server.send(OTHER_FILE);
                }
            }
        });
        assert_serves(&origin, "/file", b"0");
        tell.send(()).expect("the origin waits");
        wait_for_arrival(server.port);
        assert_serves(&origin, "/file", b"1");
    });
}

/// What TLS 1.3 itself sends after the handshake does not spoil a connection.
#[test]
fn http_1_over_tls_keeps_its_connection() {
    let nginx = Nginx::start("");
    nginx.put("file", b"hello");
    let origin = Origin::new(&nginx.https_1(), trusting()).expect("an origin");
    (0..100).for_each(|_| assert_serves(&origin, "/file", b"hello"));
    let accesses = nginx.accesses(100);
    assert!(accesses.iter().all(|access| access.connection == accesses[0].connection), "{accesses:?}");
    assert!(accesses.iter().all(|access| access.protocol == "HTTP/1.1"), "{accesses:?}");
}

/// nginx closes in order; what stands between may not.
fn close_needs_close_notify(tls: &str) {
    let nginx = Nginx::start(&format!(
        "ssl_protocols {tls}; sub_filter nowhere there; sub_filter_types *; chunked_transfer_encoding off;
        absolute_redirect off; location /moved {{ return 302 /file; }}"
    ));
    let relay = breaking_relay(nginx.https_1_port);
    for size in [1, 100_000] {
        let file = pattern(size);
        nginx.put("file", &file);
        for path in ["/file", "/moved"] {
            assert_serves(&Origin::new(&nginx.https_1(), trusting()).expect("an origin"), path, &file);
            // HTTP/2 says itself where the body ends, and its connection stays.
            assert_serves(&Origin::new(&nginx.https(), trusting()).expect("an origin"), path, &file);
            let origin = Origin::new(&format!("https://localhost:{relay}"), trusting()).expect("an origin");
            let mut client = Collector::default();
            let outcome = origin.serve(path.as_bytes(), &mut client);
            let fails = matches!(&outcome, Outcome::Failed(reason) if reason.contains("TLS connection broke off"));
            assert!(fails, "{path}: {outcome:?}");
            assert_eq!(client.header, None);
        }
    }
}

#[test]
fn a_body_that_only_the_close_ends_needs_close_notify_in_tls_1_2() {
    close_needs_close_notify("TLSv1.2");
}

#[test]
fn a_body_that_only_the_close_ends_needs_close_notify_in_tls_1_3() {
    close_needs_close_notify("TLSv1.3");
}

/// libcurl believes what a status line says. Only frames of HTTP/2 name the request that they answer.
#[test]
fn what_only_calls_itself_http_2_may_bring_strays_too() {
    let (tell, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let server = ScriptedOrigin::start(move |x| {
        x.send(format!("HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n{}", x.request.target));
        if x.request.number == 0 {
            told.lock().expect("not poisoned").recv_timeout(LIMIT).expect("the client has the answer");
            x.send(OTHER_FILE);
        }
        After::Keep
    });
    let origin = Origin::new(&server.url(), config()).expect("an origin");
    assert_serves(&origin, "/0", b"/0");
    tell.send(()).expect("the origin waits");
    wait_for_arrival(server.address().port());
    (1..4).for_each(|n| assert_serves(&origin, &format!("/{n}"), format!("/{n}").as_bytes()));
}

#[test]
fn what_only_calls_itself_http_2_needs_close_notify_too() {
    let server = TlsOrigin::start();
    let origin = Origin::new(&server.url(), trusting()).expect("an origin");
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(server.read_request());
            server.send("HTTP/2 200 \r\n\r\nhalf of a file");
            server.stop();
        });
        let mut client = Collector::default();
        let outcome = origin.serve(b"/file", &mut client);
        assert!(matches!(&outcome, Outcome::Failed(reason) if reason.contains("broke off")), "{outcome:?}");
    });
}
