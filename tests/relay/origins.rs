//! An origin that misbehaves in every way we know of, before a webproxy with AddressSanitizer, one without, and one
//! under valgrind: each client gets what docs/reference/origin.md says, byte for byte, and the program ends clean.

use std::process::Command;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use crate::download::{End, download};
use crate::programs::{ERROR, NOT_FOUND, bytes, fetch, program};
use crate::relay::{Relay, Route};
use crate::scripted::{After, Exchange, ScriptedOrigin};

/// Larger than one read of libcurl.
static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| bytes(1, 600_000));
const HALF: usize = 300_000;
/// Longer than any limit of the webproxy.
const LONG: Duration = Duration::from_secs(100);
/// Small enough for the slowest webproxy, the one under valgrind, to end soon.
const LIMITS: [(&str, &str); 4] = [
    ("GFPROXY_ORIGIN_RETRIES", "1"),
    ("GFPROXY_ORIGIN_FIRST_BYTE_MS", "3000"),
    ("GFPROXY_ORIGIN_LOW_SPEED", "1000"),
    ("GFPROXY_ORIGIN_LOW_SPEED_MS", "1000"),
];

/// What a client of `handle_with_curl` is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Whole,
    /// A part of the file and then the end of the connection.
    Cut,
    NotFound,
    Error,
}

use Answer::{Cut, Error, NotFound, Whole};

type Script = fn(&mut Exchange<'_>) -> After;

const CASES: &[(&str, Answer, Script)] = &[
    ("whole", Whole, |x| x.answer("200 OK", &[], &FILE)),
    ("interim", Whole, |x| {
        x.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
        x.answer("200 OK", &[], &FILE)
    }),
    ("chunked", Whole, |x| {
        x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in FILE.chunks(7_001) {
            x.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        x.send("0\r\nX-Trailer: y\r\n\r\n");
        After::Keep
    }),
    ("up to the close", Whole, |x| {
        x.send("HTTP/1.0 200 OK\r\n\r\n");
        x.send(&*FILE);
        After::Close
    }),
    ("in small pieces", Whole, |x| {
        x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", FILE.len()));
        FILE.chunks(997).for_each(|piece| x.send(piece));
        After::Keep
    }),
    ("one redirect", Whole, |x| match x.request.target.as_str() {
        "/there" => x.answer("200 OK", &[], &FILE),
        _ => x.answer("302 Found", &["Location: /there"], b"moved"),
    }),
    ("broken off, gone on with", Whole, |x| match x.request.field("Range") {
        None => {
            x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"v\"\r\n\r\n", FILE.len()));
            x.send(&FILE[..HALF]);
            After::Close
        }
        Some(range) => {
            let first: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().expect("an offset");
            let range = format!("Content-Range: bytes {first}-{}/{}", FILE.len() - 1, FILE.len());
            x.answer("206 Partial Content", &[&range, "ETag: \"v\""], &FILE[first..])
        }
    }),
    ("closed in the middle", Cut, |x| {
        x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", FILE.len()));
        x.send(&FILE[..HALF]);
        After::Close
    }),
    ("reset in the middle", Cut, |x| {
        x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", FILE.len()));
        x.send(&FILE[..HALF]);
        After::Reset
    }),
    ("broken off, another version", Cut, |x| match x.request.field("Range") {
        None => {
            x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"v\"\r\n\r\n", FILE.len()));
            x.send(&FILE[..HALF]);
            After::Close
        }
        Some(_) => x.answer("200 OK", &["ETag: \"w\""], &FILE),
    }),
    ("trickles", Cut, |x| {
        x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", FILE.len()));
        for byte in &*FILE {
            x.send([*byte]);
            if !x.pause(Duration::from_millis(100)) {
                break;
            }
        }
        After::Close
    }),
    ("longer than its length", Whole, |x| {
        x.send(
            [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", FILE.len()).as_bytes(), &FILE, b"more"].concat(),
        );
        After::Keep
    }),
    ("silent", Error, |x| {
        x.pause(LONG);
        After::Close
    }),
    ("slow head", Error, |x| {
        for byte in "HTTP/1.1 200 OK\r\nX: y\r\n".bytes().cycle() {
            if !x.try_send([byte]) || !x.pause(Duration::from_millis(100)) {
                break;
            }
        }
        After::Close
    }),
    ("closed at once", Error, |_| After::Close),
    ("reset at once", Error, |_| After::Reset),
    ("half a head", Error, |x| {
        x.send("HTTP/1.1 200 OK\r\nContent-Le");
        After::Close
    }),
    ("chunked, broken off", Error, |x| {
        x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        After::Close
    }),
    ("bad chunk", Error, |x| {
        x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n");
        After::Close
    }),
    ("two lengths", Error, |x| {
        x.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi");
        After::Close
    }),
    ("negative length", Error, |x| {
        x.send("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhi");
        After::Close
    }),
    ("damaged gzip", Error, |x| x.answer("200 OK", &["Content-Encoding: gzip"], b"\x1f\x8b\x08no more")),
    ("unknown encoding", Error, |x| x.answer("200 OK", &["Content-Encoding: rot13"], b"uryyb")),
    ("no HTTP", Error, |x| {
        x.send("SSH-2.0-OpenSSH_9.2\r\n");
        After::Close
    }),
    ("binary", Error, |x| {
        x.send(&FILE[..1000]);
        After::Close
    }),
    ("huge head", Error, |x| {
        x.send("HTTP/1.1 200 OK\r\n");
        let field = format!("X: {}\r\n", "x".repeat(1_000));
        (0..10_000).take_while(|_| x.try_send(&field)).for_each(drop);
        After::Close
    }),
    ("redirect loop", Error, |x| {
        let location = format!("Location: {}", x.request.target);
        x.answer("302 Found", &[&location], b"round and round")
    }),
    ("redirect to a file", Error, |x| x.answer("302 Found", &["Location: file:///etc/passwd"], b"")),
    ("redirect without a target", Error, |x| x.answer("302 Found", &[], b"somewhere")),
    ("416", Error, |x| x.answer("416 Range Not Satisfiable", &[], b"page")),
    ("429", Error, |x| x.answer("429 Too Many Requests", &["Retry-After: 1"], b"page")),
    ("500", Error, |x| x.answer("500 Oops", &[], b"page")),
    ("503", Error, |x| x.answer("503 Away", &[], &[b'x'; 100_000])),
    ("401", NotFound, |x| x.answer("401 Unauthorized", &["WWW-Authenticate: Basic"], b"page")),
    ("403", NotFound, |x| x.answer("403 Forbidden", &[], b"page")),
    ("404", NotFound, |x| x.answer("404 Not Found", &[], &[b'x'; 100_000])),
    ("410", NotFound, |x| x.answer("410 Gone", &[], b"page")),
    ("451", NotFound, |x| x.answer("451 Unavailable For Legal Reasons", &[], b"page")),
];

/// Case `n` is what is at `/n`; where a redirect leads belongs to its case, too.
fn play(x: &mut Exchange<'_>) -> After {
    let case = match x.request.target.strip_prefix('/').expect("a path") {
        "there" => CASES.iter().position(|(name, ..)| *name == "one redirect").expect("a case"),
        number => number.parse().expect("a case"),
    };
    (CASES[case].2)(x)
}

fn check(route: Route, mut command: Command) {
    let origin = ScriptedOrigin::start(play);
    command.args(["-t", "16", "-s", &origin.url()]).envs(LIMITS);
    let relay = Relay::start_command(route, command);
    thread::scope(|scope| {
        for (number, &(name, expected, _)) in CASES.iter().enumerate() {
            scope.spawn(move || {
                let path = format!("/{number}");
                match expected {
                    Whole => assert_eq!(download(relay.port, &path, &FILE), End::Whole, "{name}"),
                    Cut => {
                        let end = download(relay.port, &path, &FILE);
                        assert!(matches!(end, End::Short(_)), "{name}: {end:?}");
                    }
                    // Byte for byte the same, whatever the reason.
                    NotFound => assert_eq!(fetch(relay.port, &path), NOT_FOUND, "{name}"),
                    Error => assert_eq!(fetch(relay.port, &path), ERROR, "{name}"),
                }
            });
        }
    });
    assert_eq!(download(relay.port, "/0", &FILE), End::Whole);
    let ended = relay.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
}

#[test]
fn with_asan() {
    check(Route::Plain, Command::new(program("webproxy")));
}

#[test]
fn without_asan() {
    check(Route::Plain, Command::new(program("webproxy_noasan")));
}

#[test]
fn shared_requests_with_asan() {
    check(Route::Coalesced, Command::new(program("webproxy")));
}

#[test]
fn under_valgrind() {
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite"]);
    command.args(["--show-leak-kinds=definite", "--fair-sched=yes"]).arg(program("webproxy_noasan"));
    check(Route::Plain, command);
}

/// As from an origin that appends to a file while it serves it.
#[test]
fn a_surplus_is_told_of_once_and_costs_no_file() {
    let origin = ScriptedOrigin::start(|x| {
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", FILE.len());
        x.send([head.as_bytes(), &FILE, b"more"].concat());
        After::Close
    });
    let relay = Relay::start(Route::Plain, &origin, &[]);
    for _ in 0..20 {
        assert_eq!(download(relay.port, "/growing", &FILE), End::Whole);
    }
    let log = relay.stop().stderr;
    let warnings: Vec<_> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    assert!(matches!(warnings[..], [line] if line.contains("belong to no answer")), "{warnings:?}");
}
