//! The pair under valgrind: no error and nothing lost, after both parts have served and SIGTERM has come.

use crate::fixture::{Cache, Files, files};
use crate::memcheck::Report;
use crate::programs::{NOT_FOUND, Program, fetch, has_own_gfserver, program, serves};
use crate::static_origin::StaticOrigin;

/// Serves the files, ends the program, and looks at what valgrind says.
fn check(mut webproxy: Program, report: &Report, files: &Files) {
    let port = webproxy.port();
    for (path, file) in files {
        assert!(serves(port, path, file), "{path} differs");
    }
    assert_eq!(fetch(port, "/none"), NOT_FOUND);
    assert_clean(webproxy, report);
}

fn assert_clean(program: Program, report: &Report) {
    let ended = program.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    report.assert_clean(!has_own_gfserver());
}

#[test]
fn part_1() {
    let files = files(&[0, 1, 65536, 1_048_599]);
    let origin = StaticOrigin::start(files.clone());
    let report = Report::new();
    let mut webproxy = report.command(&program("webproxy_noasan"));
    check(Program::start(webproxy.args(["-p", "0", "-t", "2", "-s", origin.url()])), &report, &files);
}

#[test]
fn part_2() {
    let files = files(&[0, 1, 65536, 1_048_599]);
    let daemons = Report::new();
    let cache = Cache::start_command(daemons.command(&program("simplecached_noasan")), &files);
    let report = Report::new();
    let mut webproxy = report.command(&program("webproxy_noasan"));
    check(Program::start(webproxy.args(["-p", "0", "-t", "2", "-S"]).arg(cache.socket())), &report, &files);
    let (daemon, _directory) = cache.into_parts();
    assert_clean(daemon, &daemons);
}
