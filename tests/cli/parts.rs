//! The pair at work: every size of file through both parts, with and without AddressSanitizer, byte by byte.

use std::process::Command;
use std::sync::LazyLock;
use std::thread;

use crate::fixture::{Cache, Files, files};
use crate::programs::{ERROR, NOT_FOUND, Program, fetch, ok, program, serves};
use crate::static_origin::StaticOrigin;

/// Around every boundary: nothing, one byte, segments of 824 and 5,712 bytes, pages, an odd megabyte.
static SMALL: LazyLock<Files> = LazyLock::new(|| files(&[0, 1, 823, 824, 5712, 65536, 1_048_599]));
static LARGE: LazyLock<Files> = LazyLock::new(|| files(&[64 << 20]));

static ORIGIN: LazyLock<StaticOrigin> = LazyLock::new(|| StaticOrigin::start(all()));

fn all() -> Files {
    SMALL.iter().chain(LARGE.iter()).map(|(path, file)| (path.clone(), file.clone())).collect()
}

/// Runs `name` with `arguments`, downloads with 1 and with 50 clients, and stops it.
fn check(name: &str, arguments: &[&str]) {
    let mut webproxy = Program::start(Command::new(program(name)).args(["-p", "0"]).args(arguments));
    let port = webproxy.port();
    let get = |path: &str, file: &[u8]| assert!(serves(port, path, file), "{name} {arguments:?}: {path} differs");
    SMALL.iter().chain(LARGE.iter()).for_each(|(path, file)| get(path, file));
    thread::scope(|scope| {
        for client in 0..50 {
            scope.spawn(move || SMALL.iter().cycle().skip(client).take(SMALL.len()).for_each(|(p, f)| get(p, f)));
        }
        // The large file meanwhile, beside them.
        scope.spawn(|| LARGE.iter().for_each(|(path, file)| get(path, file)));
    });
    assert_eq!(fetch(port, "/none"), NOT_FOUND);
    let ended = webproxy.stop();
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "{name} {arguments:?}");
}

#[test]
fn part_1_with_asan() {
    check("webproxy", &["-s", ORIGIN.url()]);
}

#[test]
fn part_1_without_asan() {
    check("webproxy_noasan", &["-s", ORIGIN.url()]);
}

/// With the defaults and with the least there can be: one segment of 824 bytes.
fn part_2(webproxy: &str, simplecached: &str) {
    let cache = Cache::start(simplecached, &all());
    let socket = cache.socket();
    let socket = socket.to_str().expect("UTF-8");
    check(webproxy, &["-S", socket]);
    check(webproxy, &["-S", socket, "-n", "1", "-z", "824"]);
    let (daemon, _directory) = cache.into_parts();
    let ended = daemon.stop();
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn part_2_with_asan() {
    part_2("webproxy", "simplecached");
}

#[test]
fn part_2_without_asan() {
    part_2("webproxy_noasan", "simplecached_noasan");
}

/// `-s` with `-n` or `-z`: the cache is asked first, a miss goes to the origin.
#[test]
fn the_cache_in_front_of_an_origin() {
    let path = "/files/1.bin";
    let cache = Cache::start("simplecached", &Files::from([(path.to_owned(), b"from the cache".to_vec())]));
    let mut webproxy = Command::new(program("webproxy"));
    let mut webproxy =
        Program::start(webproxy.args(["-p", "0", "-s", ORIGIN.url(), "-n", "4", "-S"]).arg(cache.socket()));
    let port = webproxy.port();
    assert_eq!(fetch(port, path), ok(b"from the cache"));
    assert!(serves(port, "/files/824.bin", &SMALL["/files/824.bin"]), "a miss comes from the origin");
    assert_eq!(fetch(port, "/none"), NOT_FOUND);
}

/// A request that finds no daemon waits for it, and no longer than it was told.
#[test]
fn either_may_start_first() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut webproxy = Command::new(program("webproxy"));
    let webproxy = webproxy.args(["-p", "0", "--cache-wait-ms", "300", "-S"]).arg(directory.path().join("socket"));
    let mut webproxy = Program::start(webproxy);
    let port = webproxy.port();
    assert_eq!(fetch(port, "/files/1.bin"), ERROR);

    crate::fixture::write_locals(directory.path(), &SMALL);
    let daemon = || crate::fixture::daemon_command(Command::new(program("simplecached")), directory.path());
    for _ in 0..2 {
        // The second time it has come back, and is found again.
        let mut daemon = Program::start(&mut daemon());
        daemon.until("answers", |_| fetch(port, "/files/1.bin") == ok(&SMALL["/files/1.bin"]));
        assert_eq!(daemon.stop().status.code(), Some(0));
    }
}
