//! Origins that break off, lie about lengths, or speak no HTTP.

use std::net::TcpListener;
use std::time::Duration;

use getfile::Outcome;
use origin::{Config, Origin};

use crate::support::{After, Collector, Exchange, ScriptedOrigin, config, fetch, fetch_with, pattern};

/// The small size fits into one read with the head, the large one does not.
const SIZES: [usize; 2] = [1_000, 2 << 20];

fn head(x: &mut Exchange<'_>, length: usize, more: &str) {
    x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{more}\r\n"));
}

#[test]
fn a_body_shorter_than_its_length_is_cut() {
    for size in SIZES {
        for after in [|| After::Close, || After::Reset] {
            let file = pattern(size);
            let fetched = fetch({
                let file = file.clone();
                move |x| {
                    head(x, file.len(), "");
                    x.send(&file[..file.len() / 2]);
                    // A reset would overtake what the client has not read yet.
                    x.pause(Duration::from_millis(100));
                    after()
                }
            });
            fetched.assert_cut(&file, "");
            assert_eq!(fetched.server.requests().len(), 1, "no validator, so nothing to go on with");
        }
    }
}

#[test]
fn a_connection_that_ends_before_the_body_is_tried_again() {
    let file = pattern(10_000);
    type Fault = fn(&mut Exchange<'_>) -> After;
    let faults: [Fault; 7] = [
        |_| After::Close,
        |_| After::Reset,
        |x| {
            x.send("HTTP/1.1 200");
            After::Close
        },
        |x| {
            x.send("HTTP/1.1 200 OK\r\nContent-Le");
            After::Close
        },
        |x| {
            x.send("HTTP/1.1 103 Early Hints\r\n\r\n");
            After::Close
        },
        |x| {
            head(x, 10_000, "");
            After::Close
        },
        |x| {
            x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
            After::Close
        },
    ];
    for fault in faults {
        let file = file.clone();
        let good = file.clone();
        // Two bad answers, then a good one.
        let fetched = fetch(move |x| if x.request.number < 2 { fault(x) } else { x.answer("200 OK", &[], &good) });
        fetched.assert_whole(&file);
        let fetched = fetch_with(Config { retries: 2, ..config() }, fault);
        fetched.assert_failed("");
        assert_eq!(fetched.server.connections(), 3);
    }
}

#[test]
fn a_refused_connection_fails_with_its_reason() {
    // Bound and not listening: nobody else gets the port, and connections to it are refused.
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::empty(),
        None,
    )
    .expect("a socket");
    let address = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, 0);
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address).expect("a port");
    let address = TcpListener::from(socket).local_addr().expect("an address");
    let origin = Origin::new(&format!("http://{address}"), config()).expect("an origin");
    let outcome = origin.serve(b"/file", &mut Collector::default());
    assert!(matches!(&outcome, Outcome::Failed(reason) if reason.contains("onnect")), "{outcome:?}");
}

#[test]
fn what_is_no_http_is_no_file() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "<html>not found</html>",
        "HTTP/7.3 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2junk\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 1\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: rot13\r\nContent-Length: 2\r\n\r\nhi",
        "\0\0\0\0",
    ] {
        let fetched = fetch(move |x| {
            x.send(garbage);
            After::Close
        });
        assert!(matches!(fetched.outcome, Outcome::Failed(_)), "{garbage:?}: {:?}", fetched.outcome);
        assert_eq!(fetched.client.header, None, "{garbage:?}");
    }
}

#[test]
fn header_fields_are_bounded() {
    // One that is too long, too many, and interim responses without end.
    type Fields = fn() -> String;
    let cases: [(Fields, Fields); 3] = [
        (|| "HTTP/1.1 200 OK\r\nX: ".to_owned(), || "x".repeat(10_000)),
        (|| "HTTP/1.1 200 OK\r\n".to_owned(), || format!("X: {}\r\n", "x".repeat(1_000))),
        (String::new, || "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".to_owned()),
    ];
    for (start, more) in cases {
        let fetched = fetch(move |x| {
            x.send(start());
            // Far more than would be taken; the other side closes.
            (0..100_000).take_while(|_| x.try_send(more())).for_each(drop);
            After::Close
        });
        assert!(matches!(fetched.outcome, Outcome::Failed(_)), "{:?}", fetched.outcome);
        assert_eq!(fetched.server.requests().len(), 1, "there is no use in trying again");
    }
}

#[test]
fn many_header_fields_and_interim_responses_are_fine() {
    let file = pattern(1_000);
    let fetched = fetch({
        let file = file.clone();
        move |x| {
            x.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\nETag: \"x\"\r\n\r\n");
            let many: Vec<String> = (0..500).map(|n| format!("X-{n}: {}", "x".repeat(100))).collect();
            x.answer("200 OK", &many.iter().map(String::as_str).collect::<Vec<_>>(), &file)
        }
    });
    fetched.assert_whole(&file);
}

#[test]
fn a_client_that_leaves_ends_the_transfer() {
    let file = pattern(8 << 20);
    let server = ScriptedOrigin::start({
        let file = file.clone();
        move |x| x.answer("200 OK", &["ETag: \"v1\""], &file)
    });
    let origin = Origin::new(&server.url(), config()).expect("an origin");
    let mut client = Collector { leaves_after: Some(100_000), ..Collector::default() };
    let outcome = origin.serve(b"/file", &mut client);
    assert!(matches!(&outcome, Outcome::Cut(reason) if reason.contains("client")), "{outcome:?}");
    assert!(client.body.len() < file.len());
    // The next client is served as if nothing had been.
    let mut client = Collector::default();
    assert_eq!(origin.serve(b"/file", &mut client), Outcome::Sent(file.len() as u64));
    assert!(client.body == file);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_panic_of_the_client_side_passes_through_and_breaks_nothing() {
    let file = pattern(100_000);
    let server = ScriptedOrigin::start({
        let file = file.clone();
        move |x| x.answer("200 OK", &[], &file)
    });
    let origin = Origin::new(&server.url(), config()).expect("an origin");
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let on_chunk = crate::support::OnChunk(Box::new(|_| panic!("injected")));
        origin.serve(b"/file", &mut Collector { on_chunk: Some(on_chunk), ..Collector::default() })
    }));
    assert_eq!(panics.expect_err("a panic").downcast_ref(), Some(&"injected"));
    let mut client = Collector::default();
    assert_eq!(origin.serve(b"/file", &mut client), Outcome::Sent(100_000));
    assert!(client.body == file);
}

#[test]
fn a_kept_connection_that_died_is_replaced_unnoticed() {
    for after in [|| After::Close, || After::Reset] {
        let server = ScriptedOrigin::start(move |x| match x.request.number {
            // Ends the kept connection just as the next request comes over it.
            1 => after(),
            _ => x.answer("200 OK", &[], b"hello"),
        });
        let origin = Origin::new(&server.url(), Config { retries: 1, ..config() }).expect("an origin");
        for _ in 0..2 {
            let mut client = Collector::default();
            assert_eq!(origin.serve(b"/file", &mut client), Outcome::Sent(5));
        }
        let connections: Vec<_> = server.requests().iter().map(|request| request.connection).collect();
        assert_eq!(connections, [0, 0, 1]);
    }
}
