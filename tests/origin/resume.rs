//! A body that breaks off is gone on with, if it is surely the same file, and never else.

use std::time::Duration;

use gfproxy::origin::Config;
use gfproxy::reply::Outcome;

use crate::support::{After, Exchange, Fetched, config, fetch, fetch_with, pattern};

const SIZE: usize = 3 << 20;
/// Where the first answer breaks off.
const BREAK: usize = 1 << 20;
const OLD: &str = "Last-Modified: Tue, 15 Nov 1994 12:45:26 GMT\r\nDate: Tue, 15 Nov 1994 12:45:36 GMT";

/// The first answer, which breaks off.
fn beginning(x: &mut Exchange<'_>, file: &[u8], validator: &str) -> After {
    x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{validator}\r\n\r\n", file.len()));
    x.send(&file[..BREAK]);
    After::Close
}

/// The offset that a request for the rest names.
fn offset(x: &Exchange<'_>) -> usize {
    let range = x.request.field("Range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    range.expect("a range to the end").parse().expect("a number")
}

fn rest(x: &mut Exchange<'_>, file: &[u8], validator: &str) -> After {
    let first = offset(x);
    let range = format!("Content-Range: bytes {first}-{}/{}", file.len() - 1, file.len());
    x.answer("206 Partial Content", &[&range, validator], &file[first..])
}

/// Breaks off once, then answers with `second`.
fn break_then(
    file: &[u8],
    validator: &'static str,
    second: impl Fn(&mut Exchange<'_>, &[u8]) -> After + Send + Sync + 'static,
) -> Fetched {
    let file = file.to_vec();
    fetch(move |x| if x.request.number == 0 { beginning(x, &file, validator) } else { second(x, &file) })
}

#[test]
fn the_rest_is_fetched_by_range() {
    let file = pattern(SIZE);
    for (validator, if_range) in
        [("ETag: \"v1\"", "\"v1\""), (OLD, "Tue, 15 Nov 1994 12:45:26 GMT"), ("ETag: \"v1\"\r\nX: y", "\"v1\"")]
    {
        let fetched = break_then(&file, validator, move |x, file| rest(x, file, validator));
        fetched.assert_whole(&file);
        let requests = fetched.server.requests();
        assert_eq!(requests.len(), 2);
        assert_eq!((requests[0].field("Range"), requests[0].field("If-Range")), (None, None));
        assert_eq!(requests[1].field("Range"), Some(format!("bytes={BREAK}-").as_str()));
        assert_eq!(requests[1].field("If-Range"), Some(if_range));
    }
}

#[test]
fn a_206_may_leave_out_the_validator_and_the_total() {
    let file = pattern(SIZE);
    let fetched = break_then(&file, "ETag: \"v1\"", |x, file| {
        let range = format!("Content-Range: bytes {BREAK}-{}/*", SIZE - 1);
        x.answer("206 Partial Content", &[&range], &file[BREAK..])
    });
    fetched.assert_whole(&file);
}

/// As many bytes as are missing, up to the end, and not those that were asked for.
#[test]
fn a_rest_that_begins_elsewhere_is_not_gone_on_with() {
    let file = pattern(SIZE);
    for first in [0, BREAK - 1, BREAK + 1] {
        let fetched = break_then(&file, "ETag: \"v1\"", move |x, file| {
            let range = format!("Content-Range: bytes {first}-{}/{SIZE}", SIZE - 1);
            let body: Vec<u8> = file.iter().copied().cycle().skip(first).take(SIZE - BREAK).collect();
            x.answer("206 Partial Content", &[&range, "ETag: \"v1\""], &body)
        });
        fetched.assert_cut(&file, "");
        assert_eq!(fetched.client.body.len(), BREAK, "from {first} on");
    }
}

#[test]
fn an_origin_without_ranges_sends_the_same_version_again() {
    let file = pattern(SIZE);
    let fetched = break_then(&file, "ETag: \"v1\"", |x, file| x.answer("200 OK", &["ETag: \"v1\""], file));
    fetched.assert_whole(&file);
}

#[test]
fn versions_are_never_mixed() {
    let file = pattern(SIZE);
    type Second = fn(&mut Exchange<'_>, &[u8]) -> After;
    let cases: [(&str, Second); 15] = [
        ("another version, whole", |x, file| x.answer("200 OK", &["ETag: \"v2\""], file)),
        ("no version, whole", |x, file| x.answer("200 OK", &[], file)),
        ("another length", |x, file| x.answer("200 OK", &["ETag: \"v1\""], &file[1..])),
        ("another version's rest", |x, file| rest(x, file, "ETag: \"v2\"")),
        ("another place", |x, file| {
            let range = format!("Content-Range: bytes 0-{}/{SIZE}", SIZE - BREAK - 1);
            x.answer("206 Partial Content", &[&range, "ETag: \"v1\""], &file[..SIZE - BREAK])
        }),
        ("another total", |x, file| {
            let range = format!("Content-Range: bytes {BREAK}-{}/{}", SIZE - 1, SIZE + 1);
            x.answer("206 Partial Content", &[&range, "ETag: \"v1\""], &file[BREAK..])
        }),
        ("a part of the rest", |x, file| {
            let range = format!("Content-Range: bytes {BREAK}-{}/{SIZE}", SIZE - 2);
            x.answer("206 Partial Content", &[&range, "ETag: \"v1\""], &file[BREAK..SIZE - 1])
        }),
        ("several parts", |x, file| {
            let kind = "Content-Type: multipart/byteranges; boundary=x";
            x.answer("206 Partial Content", &[kind, "ETag: \"v1\""], &file[BREAK..])
        }),
        ("encoded", |x, file| rest(x, file, "ETag: \"v1\"\r\nContent-Encoding: gzip")),
        ("encoded, whole", |x, file| x.answer("200 OK", &["ETag: \"v1\"", "Content-Encoding: gzip"], file)),
        ("two lengths", |x, file| rest(x, file, "ETag: \"v1\"\r\nContent-Length: 5")),
        ("out of range", |x, _| x.answer("416 Range Not Satisfiable", &["Content-Range: bytes */5"], b"")),
        ("gone", |x, _| x.answer("404 Not Found", &[], b"not here")),
        ("broken", |x, _| x.answer("500 Oops", &[], b"oops")),
        ("empty", |x, _| {
            x.send("HTTP/1.1 204 No Content\r\n\r\n");
            After::Close
        }),
    ];
    for (name, second) in cases {
        let fetched = break_then(&file, "ETag: \"v1\"", second);
        fetched.assert_cut(&file, "");
        assert_eq!(fetched.client.body.len(), BREAK, "{name}");
        assert_eq!(fetched.server.requests().len(), 2, "{name}");
    }
}

#[test]
fn a_weak_validator_names_no_version() {
    let file = pattern(SIZE);
    for weak in ["ETag: W/\"v1\"", "Last-Modified: Tue, 15 Nov 1994 12:45:26 GMT", "X: y"] {
        let fetched = break_then(&file, weak, move |x, file| rest(x, file, weak));
        fetched.assert_cut(&file, "");
        assert_eq!(fetched.server.requests().len(), 1, "{weak}");
    }
}

#[test]
fn a_rest_that_is_longer_than_its_range_is_cut() {
    let file = pattern(SIZE);
    let fetched = break_then(&file, "ETag: \"v1\"", |x, file| {
        let first = offset(x);
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{}/{SIZE}\r\n\r\n",
            SIZE - first + 1,
            SIZE - 1
        );
        x.send([head.as_bytes(), &file[first..], b"x"].concat());
        After::Keep
    });
    fetched.assert_cut(&file, "more than the length");
}

#[test]
fn three_times_is_enough() {
    let file = pattern(SIZE);
    // Each answer brings a part; the fourth would bring the last.
    let part = SIZE / 5 + 1;
    for resumes in [3, 4] {
        let fetched = fetch_with(Config { resumes, ..config() }, {
            let file = file.clone();
            move |x| {
                let first = if x.request.number == 0 { 0 } else { offset(x) };
                let head = match first {
                    0 => format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n"),
                    _ => format!(
                        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{}/{SIZE}\r\n",
                        SIZE - first,
                        SIZE - 1
                    ),
                };
                x.send(format!("{head}ETag: \"v1\"\r\n\r\n"));
                x.send(&file[first..SIZE.min(first + part)]);
                After::Close
            }
        });
        if resumes == 4 {
            fetched.assert_whole(&file);
        } else {
            fetched.assert_cut(&file, "");
            assert_eq!(fetched.client.body.len(), 4 * part);
        }
        assert_eq!(fetched.server.requests().len(), resumes as usize + 1);
    }
}

#[test]
fn an_origin_that_is_away_for_a_while_is_waited_for() {
    let file = pattern(SIZE);
    let fetched = break_then(&file, "ETag: \"v1\"", |x, file| {
        if x.request.number < 3 { After::Reset } else { rest(x, file, "ETag: \"v1\"") }
    });
    fetched.assert_whole(&file);
}

#[test]
fn a_resumed_request_leaves_nothing_behind() {
    let file = pattern(SIZE);
    let server = crate::support::ScriptedOrigin::start({
        let file = file.clone();
        move |x| match x.request.number {
            0 => beginning(x, &file, "ETag: \"v1\""),
            1 => rest(x, &file, "ETag: \"v1\""),
            _ => x.answer("200 OK", &[], &file),
        }
    });
    let origin = gfproxy::origin::Origin::new(&server.url(), config()).expect("an origin");
    for _ in 0..2 {
        let mut client = crate::support::Collector::default();
        assert_eq!(origin.serve(b"/file", &mut client), Outcome::Sent(SIZE as u64));
        assert!(client.body == file);
    }
    let last = &server.requests()[2];
    assert_eq!((last.field("Range"), last.field("If-Range")), (None, None));
}

#[test]
fn a_stalled_body_is_gone_on_with_over_another_connection() {
    let file = pattern(SIZE);
    let limits = Config { low_speed_limit: 1000, low_speed_time: Duration::from_millis(300), ..config() };
    let fetched = fetch_with(limits, {
        let file = file.clone();
        move |x| {
            if x.request.number > 0 {
                return rest(x, &file, "ETag: \"v1\"");
            }
            beginning(x, &file, "ETag: \"v1\"");
            x.pause(Duration::from_secs(60));
            After::Close
        }
    });
    fetched.assert_whole(&file);
}
