//! Files that stay in webproxy's segments: it looks at the file each time, or asks the daemon, and misses no change.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use gfproxy::daemon::{Config, Daemon};
use nix::sys::signal::Signal;
use shm_channel::{Client, ClientConfig, ServerConfig};
use tempfile::TempDir;

use crate::pair::{Pair, replace};
use crate::programs::{ERROR, NOT_FOUND, ok, program};
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

/// A pair with these options, and where the daemon's metrics are.
fn pair(proxy_arguments: &[&str]) -> (Pair, String) {
    pair_with(&[], proxy_arguments)
}

fn pair_with(daemon_arguments: &[&str], proxy_arguments: &[&str]) -> (Pair, String) {
    let mut daemon = Command::new(program("simplecached_noasan"));
    daemon.args(["-v", "-t", "2", "--metrics", "127.0.0.1:0"]).args(daemon_arguments);
    let mut proxy = Command::new(program("webproxy_noasan"));
    proxy.args(["-v", "--metrics", "127.0.0.1:0", "--cache-wait-ms", "500"]).args(proxy_arguments);
    let mut pair = Pair::start_with(directory(), "/a a\n/b b\n", daemon, proxy);
    let daemon = address(&mut pair.daemon);
    (pair, daemon)
}

fn count(address: &str, name: &str) -> f64 {
    series(address)[name]
}

/// Asks again and again until `probe` says yes.
#[track_caller]
fn until(what: &str, mut probe: impl FnMut() -> bool) {
    let watchdog = Instant::now() + Duration::from_secs(60);
    while !probe() {
        assert!(Instant::now() < watchdog, "{what}: not within a minute");
    }
}

const SERVED: &str = r#"simplecached_requests_total{status="ok"}"#;
const CONFIRMED: &str = "simplecached_confirmed_total";
const READ: &str = "simplecached_read_bytes_total";
const REUSES: &str = "gfproxy_cache_reuses_total";

/// Fetches `/a` until webproxy gives it out without asking the daemon.
fn fetch_until_reused(pair: &Pair, proxy: &str, content: &[u8]) {
    let before = count(proxy, REUSES);
    until("a reuse", || {
        for _ in 0..4 {
            assert_eq!(pair.fetch("/a"), ok(content));
        }
        count(proxy, REUSES) > before
    });
}

#[test]
fn a_file_that_is_asked_for_again_is_looked_at_and_not_read() {
    let (mut pair, daemon) = pair(&["-n", "2"]);
    let proxy = address(&mut pair.proxy);
    let mut fetched = 0.0;
    until("reuses", || {
        assert_eq!(pair.fetch("/a"), ok(b"a 0000"));
        assert_eq!(pair.fetch("/b"), ok(b"b 0000"));
        fetched += 2.0;
        count(&proxy, REUSES) >= 20.0
    });
    let (served, confirmed) = (count(&daemon, SERVED), count(&daemon, CONFIRMED));
    assert!(confirmed > 0.0, "a witness is asked for with an offer");
    assert_eq!(served + count(&proxy, REUSES), fetched);
    assert_eq!(count(&daemon, READ), (served - confirmed) * 6.0);
}

#[test]
fn a_file_of_several_segments_that_is_asked_for_again_is_not_read_and_no_change_is_missed() {
    let (mut pair, daemon) = pair(&["-n", "8", "-z", "65536"]);
    let proxy = address(&mut pair.proxy);
    for round in 0..10 {
        let content = vec![round; 200_000];
        replace(&pair.path("a"), &content);
        age(&pair.path("a"));
        until("a fetch without a read", || {
            let before = (count(&daemon, READ), count(&proxy, REUSES));
            assert_eq!(pair.fetch("/a"), ok(&content));
            before.0 == count(&daemon, READ) && before.1 < count(&proxy, REUSES)
        });
    }
}

#[test]
fn with_a_delay_the_daemon_is_asked_each_time() {
    let (mut pair, daemon) = pair_with(&["-d", "1000"], &["-n", "2"]);
    until("confirmations", || {
        assert_eq!(pair.fetch("/a"), ok(b"a 0000"));
        count(&daemon, CONFIRMED) >= 20.0
    });
    assert_eq!(count(&address(&mut pair.proxy), REUSES), 0.0);
}

#[test]
fn a_key_that_leads_elsewhere_after_a_reload_is_asked_for_again() {
    let (mut pair, daemon) = pair(&["-n", "2"]);
    let proxy = address(&mut pair.proxy);
    for (round, (name, content)) in [("a", b"a 0000"), ("b", b"b 0000")].into_iter().cycle().take(10).enumerate() {
        if round > 0 {
            pair.reload(format!("/a {name}\n"));
            let reloads = r#"simplecached_reloads_total{result="ok"}"#;
            until("a reload", || count(&daemon, reloads) == round as f64);
        }
        assert_eq!(pair.fetch("/a"), ok(content), "after reload {round}");
        fetch_until_reused(&pair, &proxy, content);
    }
    pair.reload("/b b\n");
    pair.until_served("/b", b"b 0000");
    assert_eq!(pair.fetch("/a"), NOT_FOUND);
}

#[test]
fn nobody_is_given_the_old_file_of_a_symbolic_link_that_was_turned() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    let turn = |name: &str| {
        symlink(path(name), path("new")).expect("a link");
        fs::rename(path("new"), path("link")).expect("rename");
    };
    turn("a");
    fs::write(path("locals.txt"), "/a link\n/b link\n").expect("locals.txt");
    let server = ServerConfig { socket: path("socket"), threads: 2, inherit: false };
    let config = Config { locals: path("locals.txt"), delay: Duration::ZERO, server };
    let _daemon = Daemon::start(config).expect("a daemon");
    let clients = [(); 2].map(|()| {
        let config =
            ClientConfig { socket: path("socket"), segments: 3, segment_size: 1000, ..ClientConfig::default() };
        Client::start(config).expect("a client")
    });
    // Two keys of one client, and one of another.
    let all: [(&Client, &[u8]); 3] = [(&clients[0], b"/a"), (&clients[0], b"/b"), (&clients[1], b"/a")];
    let get = |(client, key): (&Client, &[u8])| {
        let mut transfer = client.open(key).expect("open");
        let chunk = transfer.next_chunk().expect("a chunk").expect("all of it");
        let file = tempfile::tempfile().expect("a file");
        chunk.write_to(&file).expect("write");
        let mut first = [0];
        file.read_exact_at(&mut first, 0).expect("read");
        first[0]
    };
    for name in ["b", "a", "b", "a"] {
        // All look for themselves, and have done so when the link is turned.
        let before: Vec<_> = clients.iter().map(|client| client.stats().reused).collect();
        until("reuses", || {
            all.into_iter().for_each(|one| assert_ne!(get(one), 0));
            clients.iter().zip(&before).all(|(client, before)| client.stats().reused > before + 10)
        });
        turn(name);
        (0..30).flat_map(|_| all).for_each(|one| assert_eq!(get(one), name.as_bytes()[0]));
    }
}

#[test]
fn no_change_is_missed() {
    let (mut pair, _) = pair(&["-n", "2"]);
    let proxy = address(&mut pair.proxy);
    for round in 0..30 {
        let (written, renamed) = (format!("a {round:04}"), format!("A {round:04}"));
        fs::write(pair.path("a"), &written).expect("write");
        assert_eq!(pair.fetch("/a"), ok(written.as_bytes()));
        replace(&pair.path("a"), &renamed);
        age(&pair.path("a"));
        // The write of the next round is to be seen by webproxy itself.
        fetch_until_reused(&pair, &proxy, renamed.as_bytes());
    }
    fs::remove_file(pair.path("a")).expect("remove");
    assert_eq!(pair.fetch("/a"), NOT_FOUND);
}

#[test]
fn a_write_whose_time_is_set_back_is_missed_by_nobody() {
    let (mut pair, _) = pair(&["-n", "2"]);
    let proxy = address(&mut pair.proxy);
    for round in 0..10 {
        let content = format!("a {round:04}");
        let file = File::options().write(true).open(pair.path("a")).expect("it is there");
        let modified = file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
        file.write_all_at(content.as_bytes(), 0).expect("write");
        file.set_modified(modified).expect("utimes");
        assert_eq!(pair.fetch("/a"), ok(content.as_bytes()));
        fetch_until_reused(&pair, &proxy, content.as_bytes());
    }
}

#[test]
fn a_stopped_daemon_is_missed_at_once_or_when_it_is_to_read_again() {
    let (mut pair, _) = pair(&["-n", "2"]);
    assert_eq!(pair.fetch("/b"), ok(b"b 0000"));
    let proxy = address(&mut pair.proxy);
    fetch_until_reused(&pair, &proxy, b"a 0000");
    pair.daemon.freeze();
    assert_eq!(pair.fetch("/b"), ERROR, "there is no witness of what was asked for once");
    until("/a is asked for", || pair.fetch("/a") == ERROR);
}

#[test]
fn a_daemon_that_has_ended_is_missed() {
    let (mut pair, _) = pair(&["-n", "2"]);
    let proxy = address(&mut pair.proxy);
    fetch_until_reused(&pair, &proxy, b"a 0000");
    pair.daemon.signal(Signal::SIGKILL);
    until("/a is asked for", || pair.fetch("/a") == ERROR);
}
