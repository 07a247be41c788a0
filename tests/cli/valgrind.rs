//! The pair under valgrind: no error and nothing lost, after both parts have served and SIGTERM has come.

use std::process::Command;

use crate::fixture::{Cache, Files, files};
use crate::programs::{NOT_FOUND, Program, fetch, has_own_gfserver, program, serves};
use crate::static_origin::StaticOrigin;

/// The status of a program in which valgrind found something.
const FOUND: &str = "99";

fn valgrind(name: &str) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--leak-check=full", &format!("--error-exitcode={FOUND}")]);
    // The threads of a provided gfserver live on to the end, each with a block that valgrind calls possibly lost.
    if name == "webproxy_noasan" && !has_own_gfserver() {
        command.args(["--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"]);
    }
    command.arg(program(name));
    command
}

/// Serves the files, ends the program, and looks at what valgrind says.
fn check(mut webproxy: Program, files: &Files) {
    let port = webproxy.port();
    for (path, file) in files {
        assert!(serves(port, path, file), "{path} differs");
    }
    assert_eq!(fetch(port, "/none"), NOT_FOUND);
    assert_clean(webproxy);
}

fn assert_clean(program: Program) {
    let ended = program.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
}

#[test]
fn part_1() {
    let files = files(&[0, 1, 65536, 1_048_599]);
    let origin = StaticOrigin::start(files.clone());
    let mut webproxy = valgrind("webproxy_noasan");
    check(Program::start(webproxy.args(["-p", "0", "-t", "2", "-s", origin.url()])), &files);
}

#[test]
fn part_2() {
    let files = files(&[0, 1, 65536, 1_048_599]);
    let cache = Cache::start_command(valgrind("simplecached_noasan"), &files);
    let mut webproxy = valgrind("webproxy_noasan");
    check(Program::start(webproxy.args(["-p", "0", "-t", "2", "-S"]).arg(cache.socket())), &files);
    let (daemon, _directory) = cache.into_parts();
    assert_clean(daemon);
}
