//! A body that breaks off is gone on with, if it is surely the same file, and never else.

use std::time::{Duration, Instant};

use getfile::Outcome;
use origin::Config;

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

/// The rest, by the right length and version, with another place as its own.
fn place(x: &mut Exchange<'_>, file: &[u8], first: usize, last: usize) -> After {
    let range = format!("Content-Range: bytes {first}-{last}/{}", file.len());
    x.answer("206 Partial Content", &[&range, "ETag: \"v1\""], &file[offset(x)..])
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
fn a_206_may_leave_out_the_total_and_a_date_beside_the_tag() {
    let file = pattern(SIZE);
    let fetched = break_then(&file, "ETag: \"v1\"\r\nLast-Modified: Tue, 15 Nov 1994 12:45:26 GMT", |x, file| {
        let range = format!("Content-Range: bytes {BREAK}-{}/*", SIZE - 1);
        x.answer("206 Partial Content", &[&range, "ETag: \"v1\""], &file[BREAK..])
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

/// Without a length of its own, libcurl takes any end of it for the end.
#[test]
fn a_rest_that_ends_early_is_no_end() {
    let file = pattern(SIZE);
    let fetched = break_then(&file, "ETag: \"v1\"", |x, file| {
        let first = offset(x);
        if x.request.number == 2 {
            return rest(x, file, "ETag: \"v1\"");
        }
        let range = format!("Content-Range: bytes {first}-{}/{SIZE}", SIZE - 1);
        x.send(format!(
            "HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n{range}\r\nETag: \"v1\"\r\n\r\n"
        ));
        x.send([b"400\r\n", &file[first..first + 1024], b"\r\n0\r\n\r\n"].concat());
        After::Keep
    });
    fetched.assert_whole(&file);
    assert_eq!(fetched.server.requests()[2].field("Range"), Some(format!("bytes={}-", BREAK + 1024).as_str()));
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
    let cases: [(&str, Second); 23] = [
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
        ("a byte too early", |x, file| place(x, file, BREAK - 1, SIZE - 1)),
        ("a byte too late", |x, file| place(x, file, BREAK + 1, SIZE - 1)),
        ("a byte too few", |x, file| place(x, file, BREAK, SIZE - 2)),
        ("no place", |x, file| x.answer("206 Partial Content", &["ETag: \"v1\""], &file[BREAK..])),
        ("two places", |x, file| {
            let other = format!("ETag: \"v1\"\r\nContent-Range: bytes 0-{}/{SIZE}", SIZE - BREAK - 1);
            rest(x, file, &other)
        }),
        ("a place and several parts", |x, file| {
            rest(x, file, "ETag: \"v1\"\r\nContent-Type: Multipart/ByteRanges; boundary=x")
        }),
        ("a place and another length", |x, file| {
            let range = format!("Content-Range: bytes {BREAK}-{}/{SIZE}", SIZE - 1);
            x.answer("206 Partial Content", &[&range, "ETag: \"v1\""], &file[BREAK..SIZE - 1])
        }),
        ("transformed", |x, file| x.answer("203 Non-Authoritative", &["ETag: \"v1\""], file)),
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

/// The origin ignores If-Range, as many do.
#[test]
fn all_that_tells_versions_apart_must_be_the_same() {
    const TAG: &str = "ETag: \"v1\"";
    const TAG_AND_DATE: &str = "ETag: \"v1\"\r\nLast-Modified: Tue, 15 Nov 1994 12:40:00 GMT";
    const LATER: &str = "Last-Modified: Tue, 15 Nov 1994 12:45:35 GMT\r\nDate: Tue, 15 Nov 1994 12:45:36 GMT";
    const NOW: &str = "Last-Modified: Tue, 15 Nov 1994 12:45:36 GMT\r\nDate: Tue, 15 Nov 1994 12:45:36 GMT";
    let file = pattern(SIZE);
    for (first, second) in [
        (TAG, "ETag: \"v2\""),
        (TAG, "ETag: W/\"v2\""),
        (TAG, "ETag: W/\"v1\""),
        (TAG, "ETag: v1"),
        (TAG, "ETag:"),
        (TAG, "ETag: \"V1\""),
        (TAG, "ETag: \"v1-gzip\""),
        (TAG, "ETag: \"v1\"\r\nETag: \"v2\""),
        (TAG, "ETag: \"v2\"\r\nETag: \"v1\""),
        (TAG, "X: y"),
        (TAG, NOW),
        (TAG, TAG_AND_DATE),
        (TAG, "ETag: \"v1\"\r\nContent-Encoding: gzip"),
        (TAG_AND_DATE, "ETag: \"v1\"\r\nLast-Modified: Tue, 15 Nov 1994 12:45:36 GMT"),
        (TAG_AND_DATE, "Last-Modified: Tue, 15 Nov 1994 12:40:00 GMT"),
        (OLD, LATER),
        (OLD, NOW),
        (OLD, "Date: Tue, 15 Nov 1994 12:45:36 GMT"),
        (OLD, "ETag: \"v1\"\r\nLast-Modified: Tue, 15 Nov 1994 12:45:26 GMT"),
        (OLD, "Last-Modified: Tue, 15 Nov 1994 12:45:26 GMT\r\nLast-Modified: Tue, 15 Nov 1994 12:45:36 GMT"),
    ] {
        for whole in [false, true] {
            let fetched = break_then(&file, first, move |x, file| {
                if whole { x.answer("200 OK", &[second], file) } else { rest(x, file, second) }
            });
            fetched.assert_cut(&file, "");
            assert_eq!(fetched.client.body.len(), BREAK, "{first} then {second}");
            assert_eq!(fetched.server.requests().len(), 2, "{first} then {second}");
        }
    }
}

/// A validator compares versions of one place. The query of a redirect may be a signature, which differs each time.
#[test]
fn a_redirect_to_another_place_leads_to_another_file() {
    let file = pattern(SIZE);
    for (second_place, same) in [("/mirror/2", false), ("/mirror/1?signature=2", true)] {
        let fetched = fetch({
            let file = file.clone();
            move |x| match x.request.number {
                0 => x.answer("302 Found", &["Location: /mirror/1?signature=1", "ETag: \"redirect\""], b""),
                1 => beginning(x, &file, "ETag: \"v1\""),
                2 => x.answer("302 Found", &[&format!("Location: {second_place}"), "ETag: \"redirect\""], b""),
                _ => rest(x, &file, "ETag: \"v1\""),
            }
        });
        if same {
            fetched.assert_whole(&file);
        } else {
            fetched.assert_cut(&file, "another version");
        }
        assert_eq!(fetched.server.requests()[2].field("If-Range"), Some("\"v1\""));
    }
}

/// More follows the redirect than is read at once, so another connection is used, and the redirect comes again.
#[test]
fn a_redirect_that_came_twice_leads_to_one_place() {
    let file = pattern(SIZE);
    let fetched = fetch({
        let file = file.clone();
        move |x| match x.request.number {
            0 => {
                x.answer("302 Found", &["Location: /place"], b"");
                x.send(vec![b'\n'; 1 << 20]);
                After::Close
            }
            1 | 3 => x.answer("302 Found", &["Location: /place"], b""),
            2 => beginning(x, &file, "ETag: \"v1\""),
            _ => rest(x, &file, "ETag: \"v1\""),
        }
    });
    fetched.assert_whole(&file);
    assert_eq!(fetched.server.requests().len(), 5);
}

#[test]
fn a_redirects_validator_is_not_the_files() {
    let file = pattern(SIZE);
    let fetched = fetch({
        let file = file.clone();
        move |x| match x.request.number {
            0 => x.answer("302 Found", &["Location: /elsewhere", "ETag: \"v1\""], b""),
            _ => beginning(x, &file, "X: y"),
        }
    });
    fetched.assert_cut(&file, "");
    assert_eq!(fetched.server.requests().len(), 2);
}

#[test]
fn an_answer_without_a_strong_validator_is_not_gone_on_with() {
    let file = pattern(SIZE);
    for weak in [
        "ETag: W/\"v1\"",
        "ETag: \"v1\"\r\nETag: \"v2\"",
        "Last-Modified: Tue, 15 Nov 1994 12:45:26 GMT",
        "Last-Modified: Tue, 15 Nov 1994 12:45:26 GMT\r\nDate: Tue, 15 Nov 1994 12:45:26 GMT",
        "X: y",
    ] {
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
        let range = format!("Content-Range: bytes {first}-{}/{SIZE}", SIZE - 1);
        x.answer("206 Partial Content", &[&range, "ETag: \"v1\""], &[&file[first..], b"x"].concat())
    });
    fetched.assert_cut(&file, "another range");
}

/// Each answer brings a part of `file` and breaks off.
fn in_parts(limits: Config, file: &[u8], part: usize) -> Fetched {
    let file = file.to_vec();
    fetch_with(limits, move |x| {
        let first = if x.request.number == 0 { 0 } else { offset(x) };
        let last = file.len() - 1;
        let head = match first {
            0 => "HTTP/1.1 200 OK\r\n".to_owned(),
            _ => format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{}\r\n", file.len()),
        };
        x.send(format!("{head}Content-Length: {}\r\nETag: \"v1\"\r\n\r\n", file.len() - first));
        x.send(&file[first..file.len().min(first + part)]);
        After::Close
    })
}

#[test]
fn progress_gives_the_resumes_back() {
    let file = pattern(SIZE);
    let fetched = in_parts(config(), &file, SIZE / 20);
    fetched.assert_whole(&file);
    assert_eq!(fetched.server.requests().len(), 21);
}

#[test]
fn three_resumes_that_bring_a_byte_each_are_enough() {
    let file = pattern(SIZE);
    for resumes in [0, 3] {
        let fetched = in_parts(Config { resumes, ..config() }, &file, 1);
        fetched.assert_cut(&file, "");
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
fn a_status_that_passes_counts_as_one_of_the_resumes() {
    let file = pattern(SIZE);
    for status in ["502 Bad Gateway", "503 Busy", "504 Gateway Timeout", "429 Too Many", "408 Timeout", "425 Early"] {
        for (times, whole) in [(2, true), (3, false)] {
            let fetched = break_then(&file, "ETag: \"v1\"", move |x, file| {
                if x.request.number <= times {
                    x.answer(status, &["ETag: \"page\""], b"later")
                } else {
                    rest(x, file, "ETag: \"v1\"")
                }
            });
            if whole {
                fetched.assert_whole(&file);
                assert_eq!(fetched.server.connections(), 2, "the connection of {status} is kept");
            } else {
                fetched.assert_cut(&file, &status[..3]);
            }
            assert_eq!(fetched.server.requests().len(), 4, "{status}");
        }
    }
}

/// Busy once, and then not.
fn busy_then_rest(limits: Config, file: &[u8], retry_after: &'static str) -> (Fetched, Duration) {
    let file = file.to_vec();
    let began = Instant::now();
    let fetched = fetch_with(limits, move |x| match x.request.number {
        0 => beginning(x, &file, "ETag: \"v1\""),
        1 => x.answer("503 Busy", &[retry_after], b""),
        _ => rest(x, &file, "ETag: \"v1\""),
    });
    (fetched, began.elapsed())
}

#[test]
fn the_origin_is_not_asked_again_before_the_time_it_told() {
    let file = pattern(SIZE);
    for told in ["Retry-After: 1", "Date: Tue, 15 Nov 1994 12:45:26 GMT\r\nRetry-After: Tue, 15 Nov 1994 12:45:27 GMT"]
    {
        let (fetched, took) = busy_then_rest(config(), &file, told);
        fetched.assert_whole(&file);
        assert!(took >= Duration::from_secs(1), "{took:?} {told}");
    }
}

#[test]
fn a_time_beyond_the_limits_is_not_waited_for() {
    let file = pattern(SIZE);
    let unlimited = Config { retry_within: Duration::ZERO, ..config() };
    for (limits, told) in [
        (config(), "Retry-After: 16"),
        (config(), "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"),
        (unlimited.clone(), "Retry-After: 61"),
        (unlimited, "Retry-After: 9223372036854775807"),
    ] {
        let (fetched, _) = busy_then_rest(limits, &file, told);
        fetched.assert_cut(&file, "503, and to come back in");
        assert_eq!(fetched.server.requests().len(), 2, "{told}");
    }
    let limits = Config { total_timeout: Duration::from_millis(300), ..config() };
    let (fetched, _) = busy_then_rest(limits, &file, "Retry-After: 10");
    fetched.assert_cut(&file, "503");
    assert_eq!(fetched.server.requests().len(), 2);
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
    let origin = origin::Origin::new(&server.url(), config()).expect("an origin");
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
