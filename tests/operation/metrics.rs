//! `--metrics`, scraped as Prometheus does.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::pair::{LARGE, Pair};
use crate::programs::{NOT_FOUND, Program, bytes, ok, program};
use crate::scrape::{address, ask, series, text};
use crate::static_origin::StaticOrigin;

const METRICS: [&str; 3] = ["-v", "--metrics", "127.0.0.1:0"];

fn command(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program(name));
    command.args(METRICS).args(arguments);
    command
}

fn directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("a"), "content").expect("a");
    fs::write(directory.path().join("large"), bytes(1, LARGE)).expect("a file");
    directory
}

/// A pair that is scraped.
fn pair(proxy_arguments: &[&str]) -> (Pair, String, String) {
    let daemon = command("simplecached_noasan", &["-t", "3"]);
    let proxy = command("webproxy_noasan", proxy_arguments);
    let mut pair = Pair::start_with(directory(), "/a a\n/large large\n", daemon, proxy);
    let (daemon, proxy) = (address(&mut pair.daemon), address(&mut pair.proxy));
    (pair, daemon, proxy)
}

#[track_caller]
fn assert_series(address: &str, expected: &[(&str, f64)]) {
    let series = series(address);
    for &(name, value) in expected {
        assert_eq!(series.get(name), Some(&value), "{name} in {series:#?}");
    }
}

/// Waits until a series has this value.
fn until(program: &mut Program, address: &str, name: &str, value: f64) {
    program.until(&format!("has {name} = {value}"), |_| series(address).get(name) == Some(&value));
}

#[test]
fn webproxy_counts_requests_by_status_and_source() {
    let origin = StaticOrigin::start([("/o".to_owned(), vec![7; 1000])].into());
    let (mut pair, _, proxy) = pair(&["-s", origin.url(), "-n", "4"]);
    for _ in 0..3 {
        assert_eq!(pair.fetch("/a"), ok(b"content"));
    }
    assert_eq!(pair.fetch("/o"), ok(&[7; 1000]));
    assert_eq!(pair.fetch("/none"), NOT_FOUND);
    // A request is counted after its client has the answer.
    until(&mut pair.proxy, &proxy, r#"gfproxy_requests_total{source="origin",status="not_found"}"#, 1.0);
    assert_series(
        &proxy,
        &[
            (r#"gfproxy_requests_total{source="cache",status="ok"}"#, 3.0),
            (r#"gfproxy_requests_total{source="cache",status="not_found"}"#, 0.0),
            (r#"gfproxy_requests_total{source="cache",status="error"}"#, 0.0),
            (r#"gfproxy_requests_total{source="origin",status="ok"}"#, 1.0),
            (r#"gfproxy_sent_bytes_total{source="cache"}"#, 21.0),
            (r#"gfproxy_sent_bytes_total{source="origin"}"#, 1000.0),
            (r#"gfproxy_request_duration_seconds_count{source="cache"}"#, 3.0),
            (r#"gfproxy_request_duration_seconds_bucket{source="origin",le="+Inf"}"#, 2.0),
            (r#"gfproxy_segments{state="free"}"#, 4.0),
            (r#"gfproxy_segments{state="used"}"#, 0.0),
            (r#"gfproxy_segments{state="quarantined"}"#, 0.0),
            ("gfproxy_segment_waiters", 0.0),
            ("gfproxy_requests_in_flight", 0.0),
            ("gfproxy_cache_connected", 1.0),
            ("gfproxy_cache_reconnects_total", 0.0),
            ("gfproxy_log_lines_dropped_total", 0.0),
        ],
    );
}

#[test]
fn a_stalled_transfer_a_lost_daemon_and_a_client_that_leaves_show() {
    let (mut pair, daemon, proxy) = pair(&[]);
    let stalled = pair.stall("/large", "/a");
    until(&mut pair.daemon, &daemon, "simplecached_parked_files", 1.0);
    until(&mut pair.daemon, &daemon, "simplecached_workers_idle", 3.0);
    let told = series(&daemon);
    assert!(told["simplecached_parks_total"] >= 1.0, "{told:#?}");
    assert_eq!(told["simplecached_workers"], 3.0);
    assert_series(&proxy, &[("gfproxy_requests_in_flight", 1.0)]);
    // A client that does not read keeps no segment.
    until(&mut pair.proxy, &proxy, r#"gfproxy_segments{state="free"}"#, 32.0);

    pair.replace_daemon(command("simplecached_noasan", &[]));
    assert!(stalled.finish(LARGE) == bytes(1, LARGE), "the file differs");
    until(&mut pair.proxy, &proxy, r#"gfproxy_resumes_total{source="cache"}"#, 1.0);
    assert_series(&proxy, &[("gfproxy_cache_reconnects_total", 1.0), ("gfproxy_cache_connected", 1.0)]);
    let daemon = address(&mut pair.daemon);
    assert!(series(&daemon)["simplecached_resumes_total"] >= 1.0);

    drop(pair.stall("/large", "/a"));
    until(&mut pair.proxy, &proxy, r#"gfproxy_requests_total{source="cache",status="cut"}"#, 1.0);
    until(&mut pair.proxy, &proxy, "gfproxy_requests_in_flight", 0.0);
}

#[test]
fn simplecached_tells_of_its_catalog_and_its_proxies() {
    let (mut pair, daemon, _) = pair(&[]);
    assert_eq!(pair.fetch("/a"), ok(b"content"));
    assert_eq!(pair.fetch("/none"), NOT_FOUND);
    assert_series(
        &daemon,
        &[
            (r#"simplecached_requests_total{status="ok"}"#, 1.0),
            (r#"simplecached_requests_total{status="not_found"}"#, 1.0),
            ("simplecached_read_bytes_total", 7.0),
            ("simplecached_lookup_duration_seconds_count", 2.0),
            ("simplecached_peers", 1.0),
            ("simplecached_sessions_total", 1.0),
            ("simplecached_sessions_dropped_total", 0.0),
            ("simplecached_open_files", 1.0),
            ("simplecached_catalog_entries", 2.0),
            (r#"simplecached_reloads_total{result="ok"}"#, 0.0),
        ],
    );
    pair.reload("/a a\n/b a\n/c a\n");
    until(&mut pair.daemon, &daemon, "simplecached_catalog_entries", 3.0);
    pair.reload("/broken\n");
    until(&mut pair.daemon, &daemon, r#"simplecached_reloads_total{result="refused"}"#, 1.0);
    assert_series(
        &daemon,
        &[(r#"simplecached_reloads_total{result="ok"}"#, 1.0), ("simplecached_catalog_entries", 3.0)],
    );
}

#[test]
fn the_process_is_as_linux_sees_it() {
    let (pair, daemon, _) = pair(&[]);
    let told = series(&daemon);
    let of_proc = |what: &str| fs::read_dir(format!("/proc/{}/{what}", pair.daemon.pid())).expect("alive").count();
    assert_eq!(told["process_threads"] as usize, of_proc("task"));
    // A scrape takes one for its connection.
    assert!((told["process_open_fds"] as usize).abs_diff(of_proc("fd")) <= 2, "{told:#?}");
    assert!(told["process_resident_memory_bytes"] > 1e6 && told["process_resident_memory_bytes"] < 1e9);
    assert!(told["process_cpu_seconds_total"] >= 0.0 && told["process_max_fds"] > 0.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let age = now - told["process_start_time_seconds"];
    assert!((-2.0..600.0).contains(&age), "started {age} s ago");
}

#[test]
fn the_server_speaks_http() {
    let (_pair, daemon, _) = pair(&[]);
    let status = |request: &str| ask(&daemon, request).lines().next().unwrap_or_default().to_owned();
    assert_eq!(status("GET /metrics HTTP/1.0\r\n\r\n"), "HTTP/1.1 200 OK");
    assert_eq!(status("GET /metrics?x=y HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 200 OK");
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
    assert_eq!(status("GET /metricsx HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
    assert_eq!(status("POST /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(status("\u{1}\u{2}garbage\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(9000));
    assert_eq!(status(&long), "HTTP/1.1 431 Request Header Fields Too Large");
    let head = ask(&daemon, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn a_scraper_that_says_nothing_is_left() {
    let (mut pair, daemon, _) = pair(&[]);
    let mut silent = TcpStream::connect(&daemon).expect("connect");
    silent.write_all(b"GET /metr").expect("write");
    // The next scrapers are served all the same.
    until(&mut pair.daemon, &daemon, "simplecached_peers", 1.0);
    assert_eq!(silent.read(&mut [0]).expect("the end"), 0);
    // One that is there at the end does not keep the program from it.
    let _silent = TcpStream::connect(&daemon).expect("connect");
    assert_eq!(pair.daemon.stop().status.code(), Some(0));
}

/// More than the exporter keeps, too: who asks is answered at once.
#[test]
fn scrapers_that_say_nothing_keep_nobody_waiting() {
    let (pair, daemon, proxy) = pair(&[]);
    for address in [daemon, proxy] {
        for count in [20, 200] {
            let silent: Vec<_> = (0..count).map(|_| TcpStream::connect(&address).expect("connect")).collect();
            let begun = Instant::now();
            assert!(text(&address).contains("process_threads"));
            // In turn, 20 of 2 s each would come first.
            assert!(begun.elapsed() < Duration::from_secs(20), "{count}: {:?}", begun.elapsed());
            drop(silent);
        }
    }
    drop(pair);
}

#[test]
fn an_address_that_cannot_be_had_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let taken = taken.local_addr().expect("an address").to_string();
    let directory = directory();
    fs::write(directory.path().join("locals.txt"), "").expect("locals.txt");
    for name in ["simplecached_noasan", "webproxy_noasan"] {
        for address in [taken.as_str(), ":1:2"] {
            let mut command = Command::new(program(name));
            command.current_dir(directory.path()).args(["--metrics", address, "-S", "socket"]);
            if name.starts_with("webproxy") {
                command.args(["-p", "0"]);
            }
            let ended = Program::run(&mut command);
            assert_eq!(ended.status.code(), Some(1), "{ended:?}");
            let last = ended.stderr.lines().last().unwrap_or_default();
            assert!(last.contains(&format!("metrics address '{address}': ")), "{}", ended.stderr);
        }
    }
}
