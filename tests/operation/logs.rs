//! `docs/reference/logging.md`, line by line.

use std::fs;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::pair::{LARGE, Pair};
use crate::programs::{ERROR, NOT_FOUND, bytes, ok, program};
use crate::static_origin::StaticOrigin;

fn directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("a"), "content").expect("a");
    directory
}

fn daemon() -> Command {
    Command::new(program("simplecached_noasan"))
}

fn proxy(arguments: &[&str]) -> Command {
    let mut command = Command::new(program("webproxy_noasan"));
    command.args(arguments);
    command
}

/// A path without blanks that tries to end the line, to colour the terminal and to end a JSON string.
const HOSTILE: &str = "/x\u{1b}[31m\u{9b}\u{b}\"},{\"\\\u{7f}\u{202e}";

#[test]
fn each_request_leaves_one_line() {
    let origin = StaticOrigin::start([("/o".to_owned(), b"origin's".to_vec())].into());
    let pair = Pair::start_with(directory(), "/a a\n", daemon(), proxy(&["-v", "-s", origin.url()]));
    assert_eq!(pair.fetch("/a"), ok(b"content"));
    assert_eq!(pair.fetch("/o"), ok(b"origin's"));
    assert_eq!(pair.fetch("/none"), NOT_FOUND);
    assert_eq!(pair.fetch(HOSTILE), NOT_FOUND);
    drop(origin);
    assert_eq!(pair.fetch("/o"), ERROR);
    let told = pair.proxy.stop().stderr;
    let lines: Vec<&str> = told.lines().filter(|line| line.contains(" via ")).collect();
    assert_eq!(lines.len(), 5, "{told}");
    for (line, level, words, end) in [
        (lines[0], "INFO", " /a OK 7 B ", " ms via cache"),
        (lines[1], "INFO", " /o OK 8 B ", " ms via origin"),
        (lines[2], "INFO", " /none FILE_NOT_FOUND 0 B ", " ms via origin"),
        (lines[3], "INFO", r#" /x\x1b[31m\xc2\x9b\x0b\"},{\"\\\x7f\xe2\x80\xae FILE_NOT_FOUND 0 B "#, " ms via origin"),
        (lines[4], "WARN", " /o ERROR 0 B ", ""),
    ] {
        let head = line.split(words).next().expect("split never yields nothing");
        assert!(line.contains(words) && line.ends_with(end), "{line:?} is not about {words:?}");
        assert!(head.contains(&format!(" {level} [")) && head.contains("127.0.0.1:"), "{line:?}");
    }
    assert!(lines[4].contains(" ms via origin: "), "the reason is missing: {}", lines[4]);
    assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
}

#[test]
fn json_lines_are_objects_with_the_same_fields() {
    let mut webproxy = proxy(&["-vvv"]);
    webproxy.env("GFPROXY_LOG_FORMAT", "json");
    let pair = Pair::start_with(directory(), "/a a\n", daemon(), webproxy);
    assert_eq!(pair.fetch("/a"), ok(b"content"));
    assert_eq!(pair.fetch(HOSTILE), NOT_FOUND);
    let pid = pair.proxy.pid().as_raw();
    let told = pair.proxy.stop().stderr;
    let lines: Vec<Value> =
        told.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"))).collect();
    for line in &lines {
        assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
        assert_eq!(line["pid"], pid);
        assert!(line["level"].is_string() && line["target"].is_string() && line["message"].is_string(), "{line}");
    }
    let requests: Vec<&Value> = lines.iter().filter(|line| line["target"] == "gfproxy::request").collect();
    assert_eq!(requests.len(), 2, "{told}");
    let request = requests[0];
    for (field, value) in [
        ("level", Value::from("info")),
        ("path", "/a".into()),
        ("status", "OK".into()),
        ("bytes", 7.into()),
        ("via", "cache".into()),
        ("resumed", 0.into()),
        ("reason", "".into()),
    ] {
        assert_eq!(request[field], value, "{field} of {request}");
    }
    assert!(request["ms"].is_number(), "{request}");
    assert!(request["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1:")), "{request}");
    assert_eq!(requests[1]["path"], r#"/x\x1b[31m\xc2\x9b\x0b\"},{\"\\\x7f\xe2\x80\xae"#);
    assert_eq!(requests[1]["status"], "FILE_NOT_FOUND");
}

#[test]
fn gfproxy_log_says_more_precisely_what_to_log() {
    let cases: [(&str, &[&str]); 3] = [("off", &[]), ("off,gfproxy::request=info", &["/a OK"]), ("error", &[])];
    for (filters, expected) in cases {
        let mut webproxy = proxy(&["-vvv"]);
        webproxy.env("GFPROXY_LOG", filters);
        let pair = Pair::start_with(directory(), "/a a\n", daemon(), webproxy);
        assert_eq!(pair.fetch("/a"), ok(b"content"));
        let told = pair.proxy.stop().stderr;
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{filters}: {told}");
        assert!(lines.iter().zip(expected).all(|(line, words)| line.contains(words)), "{filters}: {told}");
    }
}

#[test]
fn what_cannot_be_used_of_the_environment_is_named() {
    let mut webproxy = proxy(&[]);
    webproxy.env("GFPROXY_LOG", "a=b=c").env("GFPROXY_LOG_FORMAT", "xml");
    let pair = Pair::start_with(directory(), "/a a\n", daemon(), webproxy);
    assert_eq!(pair.fetch("/a"), ok(b"content"));
    let told = pair.proxy.stop().stderr;
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(
        told.contains("GFPROXY_LOG=\"a=b=c\": ") && told.contains("GFPROXY_LOG_FORMAT=\"xml\" is neither"),
        "{told}"
    );
}

/// A level that is misspelt is the name of a target to the filter, and one that no line has.
#[test]
fn what_nothing_in_the_log_matches_is_named() {
    for (filters, stranger) in [
        ("inof", Some("inof")),
        ("nonsense=debug", Some("nonsense")),
        ("gfproxy=warn,webproxy=info", Some("webproxy")),
        ("==", None),
        ("gfproxy=inof", None),
    ] {
        let mut webproxy = proxy(&[]);
        webproxy.env("GFPROXY_LOG", filters);
        let told = Pair::start_with(directory(), "/a a\n", daemon(), webproxy).proxy.stop().stderr;
        let words = stranger.map_or(": not used".to_owned(), |name| format!(": '{name}' is neither a level nor "));
        assert_eq!(told.lines().count(), 1, "{filters}: {told}");
        assert!(told.contains(&format!("GFPROXY_LOG={filters:?}: ")) && told.contains(&words), "{filters}: {told}");
    }
    for filters in ["warn", "WARN", "gfproxy", "shm_channel=debug, gfproxy::request=off", "error/text", "=info"] {
        let mut webproxy = proxy(&[]);
        webproxy.env("GFPROXY_LOG", filters);
        let told = Pair::start_with(directory(), "/a a\n", daemon(), webproxy).proxy.stop().stderr;
        assert!(!told.contains("GFPROXY_LOG="), "{filters}: {told}");
    }
}

#[test]
fn a_transfer_that_went_on_with_another_daemon_says_so() {
    let directory = directory();
    let large = bytes(1, LARGE);
    fs::write(directory.path().join("large"), &large).expect("a file");
    let mut pair = Pair::start_with(directory, "/a a\n/large large\n", daemon(), proxy(&["-v"]));
    let stalled = pair.stall("/large", "/a");
    pair.replace_daemon(daemon());
    assert!(stalled.finish(LARGE) == large, "the file differs");
    let words = format!(" /large OK {LARGE} B ");
    pair.proxy.until("tells of the request", |proxy| proxy.stderr_so_far().contains(&words));
    let told = pair.proxy.stop().stderr;
    assert!(told.lines().any(|line| line.contains(&words) && line.ends_with(" via cache, resumed (1)")), "{told}");
}

#[test]
fn a_client_that_leaves_is_logged_with_what_it_got() {
    let directory = directory();
    fs::write(directory.path().join("large"), bytes(1, LARGE)).expect("a file");
    let mut pair = Pair::start_with(directory, "/a a\n/large large\n", daemon(), proxy(&["-v"]));
    drop(pair.stall("/large", "/a"));
    pair.proxy.until("tells of the cut", |proxy| proxy.stderr_so_far().contains(" /large CUT "));
    let told = pair.proxy.stop().stderr;
    let line = told.lines().find(|line| line.contains(" /large CUT ")).expect("it was there");
    let sent: usize = line.split(" CUT ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("bytes");
    assert!(sent > 0 && sent < LARGE, "{line}");
    assert!(line.contains(" 127.0.0.1:"), "{line}");
}

/// Without `-v`, where only failures are told of.
#[test]
fn a_client_that_fails_at_will_leaves_a_few_lines() {
    const REQUESTS: usize = 300;
    let directory = directory();
    fs::write(directory.path().join("large"), bytes(1, LARGE)).expect("a file");
    let pair = Pair::start_with(directory, "/a a\n/large large\n", daemon(), proxy(&["-t", "8"]));
    let begun = Instant::now();
    for _ in 0..REQUESTS {
        let mut client = crate::programs::request(pair.port, "/large");
        std::io::Read::read_exact(&mut client, &mut [0; 20]).expect("the beginning");
    }
    // One more a second.
    let most = 32 + begun.elapsed().as_secs() as usize + 10;
    let told = pair.proxy.stop().stderr;
    let lines = told.lines().filter(|line| line.contains(" /large CUT ")).count();
    assert!((32..=most).contains(&lines), "{lines} lines, {most} at most");
}
