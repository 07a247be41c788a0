//! Small files that stay in webproxy's segments: the daemon is asked each time, and no change is missed.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::pair::{Pair, replace};
use crate::programs::{ERROR, NOT_FOUND, fetch, ok, program};
use crate::scrape::{address, series};

fn directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["a", "b"] {
        fs::write(directory.path().join(name), format!("{name} 0000")).expect("a file");
        age(&directory.path().join(name));
    }
    directory
}

/// Makes a file old enough for each later write to change its time.
fn age(path: &Path) {
    let file = File::options().write(true).open(path).expect("it is there");
    file.set_modified(SystemTime::now() - Duration::from_secs(10)).expect("utimes");
}

/// A pair with so many segments, and where the daemon's metrics are.
fn pair(proxy_arguments: &[&str]) -> (Pair, String) {
    let mut daemon = Command::new(program("simplecached_noasan"));
    daemon.args(["-v", "-t", "2", "--metrics", "127.0.0.1:0"]);
    let mut proxy = Command::new(program("webproxy_noasan"));
    proxy.args(["-v", "--metrics", "127.0.0.1:0", "--cache-wait-ms", "500"]).args(proxy_arguments);
    let mut pair = Pair::start_with(directory(), "/a a\n/b b\n", daemon, proxy);
    let daemon = address(&mut pair.daemon);
    (pair, daemon)
}

fn count(daemon: &str, name: &str) -> f64 {
    series(daemon)[name]
}

#[test]
fn a_file_that_is_asked_for_again_is_confirmed_and_not_read() {
    let (pair, daemon) = pair(&["-n", "2"]);
    for _ in 0..50 {
        assert_eq!(pair.fetch("/a"), ok(b"a 0000"));
        assert_eq!(pair.fetch("/b"), ok(b"b 0000"));
    }
    let confirmed = count(&daemon, "simplecached_confirmed_total");
    assert!(confirmed > 0.0, "no two of 50 requests were made within a tenth of a second");
    assert_eq!(count(&daemon, r#"simplecached_requests_total{status="ok"}"#), 100.0, "the daemon is asked each time");
    assert_eq!(count(&daemon, "simplecached_read_bytes_total"), (100.0 - confirmed) * 6.0);
}

#[test]
fn no_change_is_missed() {
    let (pair, daemon) = pair(&["-n", "2"]);
    for round in 0..30 {
        let (written, renamed) = (format!("a {round:04}"), format!("A {round:04}"));
        fs::write(pair.path("a"), &written).expect("write");
        assert_eq!(pair.fetch("/a"), ok(written.as_bytes()));
        replace(&pair.path("a"), &renamed);
        age(&pair.path("a"));
        // Until it is held: then the write of the next round is to be seen.
        let before = count(&daemon, "simplecached_confirmed_total");
        let watchdog = Instant::now() + Duration::from_secs(60);
        while count(&daemon, "simplecached_confirmed_total") == before {
            assert!(Instant::now() < watchdog, "it is never confirmed");
            assert_eq!(pair.fetch("/a"), ok(renamed.as_bytes()));
            assert_eq!(pair.fetch("/a"), ok(renamed.as_bytes()));
        }
    }
    fs::remove_file(pair.path("a")).expect("remove");
    assert_eq!(pair.fetch("/a"), NOT_FOUND);
}

#[test]
fn a_change_that_leaves_size_and_time_as_they_were_is_seen_in_the_end() {
    let (mut pair, _) = pair(&["-n", "1"]);
    assert_eq!(pair.fetch("/a"), ok(b"a 0000"));
    let file = File::options().write(true).open(pair.path("a")).expect("it is there");
    let modified = file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
    fs::write(pair.path("a"), "a 0001").expect("write");
    file.set_modified(modified).expect("utimes");
    pair.until_served("/a", b"a 0001");
}

#[test]
fn an_answer_is_given_out_again_within_its_age_and_never_after_its_session() {
    let (mut pair, daemon) = pair(&["-n", "2", "--max-age-ms", "3600000"]);
    for _ in 0..10 {
        assert_eq!(pair.fetch("/a"), ok(b"a 0000"));
    }
    assert_eq!(count(&daemon, r#"simplecached_requests_total{status="ok"}"#), 1.0);
    let proxy = address(&mut pair.proxy);
    assert_eq!(count(&proxy, "gfproxy_cache_reuses_total"), 9.0);
    pair.daemon.freeze();
    assert_eq!(pair.fetch("/a"), ok(b"a 0000"));
    assert_eq!(pair.fetch("/b"), ERROR, "this one has to be asked for");
    pair.daemon.signal(Signal::SIGKILL);
    let port = pair.port;
    pair.proxy.until("asks for /a", |_| fetch(port, "/a") == ERROR);
}

#[test]
fn an_answer_older_than_its_age_is_asked_for_again() {
    let (mut pair, _) = pair(&["-n", "2", "--max-age-ms", "50"]);
    assert_eq!(pair.fetch("/a"), ok(b"a 0000"));
    replace(&pair.path("a"), "renamed");
    pair.until_served("/a", b"renamed");
}

#[test]
fn without_an_age_a_stopped_daemon_is_missed_at_once() {
    let (pair, _) = pair(&["-n", "2"]);
    assert_eq!(pair.fetch("/a"), ok(b"a 0000"));
    pair.daemon.freeze();
    assert_eq!(pair.fetch("/a"), ERROR);
}
