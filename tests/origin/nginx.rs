//! Against a real nginx: kept connections, TLS, HTTP/2, ranges.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use getfile::Outcome;
use origin::{Config, Origin};

use crate::support::{Collector, Nginx, OnChunk, config, pattern};

fn trusting() -> Config {
    Config { ca_file: Some(Nginx::ca_file()), ..config() }
}

#[track_caller]
fn assert_serves(origin: &Origin, path: &str, file: &[u8]) {
    let mut client = Collector::default();
    assert_eq!(origin.serve(path.as_bytes(), &mut client), Outcome::Sent(file.len() as u64));
    assert!(client.body == file, "the file differs");
}

#[test]
fn ten_thousand_requests_use_a_connection_for_each_worker() {
    const WORKERS: usize = 8;
    let nginx = Nginx::start("");
    let file = pattern(1_000);
    nginx.put("file", &file);
    let origin = Origin::new(&nginx.http(), config()).expect("an origin");
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| (0..10_000 / WORKERS).for_each(|_| assert_serves(&origin, "/file", &file)));
        }
    });
    let accesses = nginx.accesses(10_000);
    let connections: HashSet<_> = accesses.iter().map(|access| &access.connection).collect();
    assert_eq!(accesses.len(), 10_000);
    assert!(connections.len() <= WORKERS, "{} connections", connections.len());
}

#[test]
fn connections_that_the_origin_ends_are_replaced_unnoticed() {
    let nginx = Nginx::start("keepalive_requests 3;");
    let file = pattern(10_000);
    nginx.put("file", &file);
    let origin = Origin::new(&nginx.http(), config()).expect("an origin");
    (0..20).for_each(|_| assert_serves(&origin, "/file", &file));
    assert_eq!(nginx.accesses(20).len(), 20, "every request reached nginx once");
}

#[test]
fn files_come_over_http_2_and_tls() {
    let nginx = Nginx::start("");
    let origin = Origin::new(&nginx.https(), trusting()).expect("an origin");
    for size in [0, 1, 1_000, 3 << 20] {
        let file = pattern(size);
        nginx.put("file", &file);
        assert_serves(&origin, "/file", &file);
    }
    assert_eq!(origin.serve(b"/missing", &mut Collector::default()), Outcome::NotFound);
    let accesses = nginx.accesses(1);
    assert!(accesses.iter().all(|access| access.protocol == "HTTP/2.0"), "{accesses:?}");
    let connections: HashSet<_> = accesses.iter().map(|access| &access.connection).collect();
    assert_eq!(connections.len(), 1);
}

#[test]
fn a_length_that_http_2_leaves_out_is_found() {
    // A filter takes the length away.
    let nginx = Nginx::start("sub_filter nowhere there; sub_filter_types *;");
    let file = pattern(2 << 20);
    nginx.put("file", &file);
    for base in [nginx.https(), nginx.http()] {
        assert_serves(&Origin::new(&base, trusting()).expect("an origin"), "/file", &file);
    }
}

#[test]
fn a_compressing_origin_is_not_asked_to() {
    let nginx = Nginx::start("gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;");
    let file = vec![b'a'; 100_000];
    nginx.put("file.html", &file);
    assert_serves(&Origin::new(&nginx.http(), config()).expect("an origin"), "/file.html", &file);
}

#[test]
fn certificates_are_checked() {
    let nginx = Nginx::start("");
    nginx.put("file", b"secret");
    let by_address = format!("https://127.0.0.1:{}", nginx.https_port);
    for (base, config) in [(nginx.https(), config()), (by_address, trusting())] {
        let mut client = Collector::default();
        let outcome = Origin::new(&base, config).expect("an origin").serve(b"/file", &mut client);
        assert!(matches!(&outcome, Outcome::Failed(reason) if reason.contains("SSL")), "{outcome:?}");
        assert_eq!(client.header, None);
    }
}

#[test]
fn redirects_may_lead_to_tls_and_not_away_from_it() {
    let nginx = Nginx::start(
        "location /up { return 302 https://localhost:HTTPS/file; }
        location /down { return 302 http://127.0.0.1:HTTP/file; }
        location /across { return 302 /file; }",
    );
    nginx.put("file", b"there");
    let secure = Origin::new(&nginx.https(), trusting()).expect("an origin");
    let plain = Origin::new(&nginx.http(), trusting()).expect("an origin");
    assert_serves(&plain, "/up", b"there");
    assert_serves(&plain, "/down", b"there");
    assert_serves(&secure, "/up", b"there");
    assert_serves(&secure, "/across", b"there");
    let outcome = secure.serve(b"/down", &mut Collector::default());
    assert!(matches!(&outcome, Outcome::Failed(reason) if reason.contains("http")), "{outcome:?}");
}

#[test]
fn handles_share_tls_sessions() {
    let nginx = Nginx::start("");
    nginx.put("file", b"hello");
    let origin = Origin::new(&nginx.https(), trusting()).expect("an origin");
    // Twice, as a session that TLS 1.3 can take up again comes after the first answer.
    (0..2).for_each(|_| assert_serves(&origin, "/file", b"hello"));
    // A request inside of a request has another handle, and another connection.
    thread::scope(|scope| {
        let (enter, entered) = std::sync::mpsc::channel::<()>();
        let (leave, left) = std::sync::mpsc::channel::<()>();
        let origin = &origin;
        scope.spawn(move || {
            let on_chunk = OnChunk(Box::new(move |_| {
                enter.send(()).expect("the test waits");
                left.recv().expect("the test ends");
            }));
            origin.serve(b"/file", &mut Collector { on_chunk: Some(on_chunk), ..Collector::default() });
        });
        entered.recv().expect("a first request");
        assert_serves(origin, "/file", b"hello");
        leave.send(()).expect("the first request waits");
    });
    let accesses = nginx.accesses(2);
    let mut connections: Vec<_> = accesses.iter().map(|a| (&a.connection, &a.session)).collect();
    connections.sort();
    connections.dedup_by_key(|(connection, _)| *connection);
    assert_eq!(connections.iter().map(|(_, session)| session.as_str()).collect::<Vec<_>>(), [".", "r"]);
}

/// Passes connections on to nginx; of the first one's answer only so many bytes.
fn breaking_relay(port: u16, limit: u64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let relay_port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for (number, client) in listener.incoming().take(2).enumerate() {
            let mut client = client.expect("a connection");
            let server = TcpStream::connect(("127.0.0.1", port)).expect("nginx");
            thread::spawn({
                let (mut client, mut server) = (client.try_clone().expect("dup"), server.try_clone().expect("dup"));
                move || {
                    let _ = io::copy(&mut client, &mut server);
                    let _ = server.shutdown(Shutdown::Both);
                }
            });
            let limit = if number == 0 { limit } else { u64::MAX };
            let _ = io::copy(&mut server.take(limit), &mut client);
            let _ = client.flush();
            let _ = client.shutdown(Shutdown::Both);
        }
    });
    relay_port
}

#[test]
fn a_broken_body_is_gone_on_with() {
    let file = pattern(4 << 20);
    for change in [false, true] {
        let nginx = Nginx::start("");
        nginx.put("file", &file);
        let relay = breaking_relay(nginx.http_port, 1 << 20);
        let origin = Origin::new(&format!("http://127.0.0.1:{relay}"), config()).expect("an origin");
        // Changed while the first part is on its way; the old file is opened already.
        let mut to_change = change.then(|| nginx.http());
        let path = nginx.path("file");
        let on_chunk = OnChunk(Box::new(move |_| {
            if to_change.take().is_some() {
                let other = path.with_extension("new");
                std::fs::write(&other, pattern((4 << 20) + 1)).expect("a file");
                std::fs::rename(&other, &path).expect("another file of that name");
            }
        }));
        let mut client = Collector { on_chunk: Some(on_chunk), ..Collector::default() };
        let outcome = origin.serve(b"/file", &mut client);
        if change {
            assert!(matches!(&outcome, Outcome::Cut(reason) if reason.contains("changed")), "{outcome:?}");
            assert!(client.body.len() < file.len() && file.starts_with(&client.body));
        } else {
            assert_eq!(outcome, Outcome::Sent(4 << 20));
            assert!(client.body == file);
            let accesses = nginx.accesses(2);
            let last = accesses.last().expect("two requests");
            assert_eq!((last.status.as_str(), last.target.as_str()), ("206", "/file"));
            assert!(last.range.starts_with("bytes="), "{last:?}");
        }
    }
}
