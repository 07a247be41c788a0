//! Foreign mains, which never call `gfproxy_stop`, under valgrind: at exit(3) the library ends what it owns.

use std::path::Path;
use std::process::Command;
use std::thread;

use crate::fixture::{Cache, Files, files};
use crate::mains::{Kit, Part, kits};
use crate::memcheck::Report;
use crate::programs::{NOT_FOUND, Program, built, compile, fetch, program, serves};
use crate::static_origin::StaticOrigin;

/// Fetches everything several times, from several clients at once, and ends the main with SIGTERM.
fn check(kit: &Kit, files: &Files, variable: &str, value: impl AsRef<std::ffi::OsStr>) {
    let (to, report) = (tempfile::tempdir().expect("a directory"), Report::new());
    let mut command = report.command(&kit.link(false, to.path()));
    let mut webproxy = Program::start(command.args(["-p", "0", "-t", "4"]).env(variable, value));
    let port = webproxy.port();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (path, file) in files.iter().cycle().take(3 * files.len()) {
                    assert!(serves(port, path, file), "{path} of {kit:?} differs");
                }
                assert_eq!(fetch(port, "/files/none"), NOT_FOUND);
            });
        }
    });
    assert_eq!(webproxy.stop().status.code(), Some(15), "{kit:?}");
    report.assert_clean(kit.is_foreign());
}

#[test]
fn part_1_mains_lose_nothing() {
    let files = files(&[0, 1, 65536, 262_145]);
    let origin = StaticOrigin::start(files.clone());
    for kit in kits(Part::Origin) {
        check(&kit, &files, "GFPROXY_ORIGIN", origin.url());
    }
}

#[test]
fn part_2_mains_lose_nothing() {
    let files = files(&[0, 1, 65536, 262_145]);
    let cache = Cache::start("simplecached_noasan", &files);
    for kit in kits(Part::Cache) {
        check(&kit, &files, "GFPROXY_SOCKET", cache.socket());
    }
}

/// As the kit's does before anything is added to it, and as a daemon does that leaves the library to itself.
#[test]
fn daemons_that_just_exit_lose_nothing() {
    let here = tempfile::tempdir().expect("a directory");
    std::fs::write(here.path().join("locals.txt"), format!("/file {}\n", here.path().join("file").display()))
        .expect("locals");
    std::fs::write(here.path().join("file"), "content").expect("a file");
    let report = Report::new();
    let mut command = report.command(&compile("tests/c/exits.c", here.path()));
    let ended = Program::run(command.current_dir(here.path()));
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    report.assert_clean(false);
    assert!(!here.path().join("socket").exists(), "the end of the process is that of its daemon");
}

/// The programs of `make`, loaded, under both of valgrind's tools for threads.
#[test]
fn with_the_suppressions_helgrind_and_drd_have_nothing_to_say() {
    let files = files(&[1, 262_145]);
    let suppressions = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/valgrind.supp");
    let under = |tool: &str, name: &str| {
        let mut command = Command::new("valgrind");
        command.args(["--quiet", "--error-exitcode=99", "--num-callers=40", &format!("--tool={tool}")]);
        command.arg(format!("--suppressions={}", suppressions.display())).arg(program(name));
        command
    };
    if !crate::programs::has_own_gfserver() {
        return eprintln!("SKIPPED: a provided gfserver has races of its own ({})", built("linked-with").display());
    }
    for tool in ["helgrind", "drd"] {
        let cache = Cache::start_command(under(tool, "simplecached_noasan"), &files);
        let mut webproxy = under(tool, "webproxy_noasan");
        let mut webproxy = Program::start(webproxy.args(["-p", "0", "-t", "2", "-S"]).arg(cache.socket()));
        let port = webproxy.port();
        for (path, file) in files.iter().cycle().take(2 * files.len()) {
            assert!(serves(port, path, file), "{path} differs");
        }
        let (daemon, _directory) = cache.into_parts();
        for program in [webproxy, daemon] {
            let ended = program.stop();
            assert_eq!(ended.status.code(), Some(0), "{tool}: {}", ended.stderr);
        }
    }
}
