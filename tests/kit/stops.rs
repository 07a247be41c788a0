//! Foreign mains, which stop the server from their signal handler, stopped in the middle of their work.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::fixture::{Cache, files};
use crate::load::{answers, is_whole, stops, under_load};
use crate::mains::{Kit, Part, kits};
use crate::programs::Program;

/// An AddressSanitizer that reports a fault of the kit's while it looks for leaks at the exit waits for itself without
/// end.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn foreign_mains_that_are_stopped_end_without_a_fault_of_ours() {
    let files = files(&[1, 300_000, 1_000_000]);
    let (answers, cache) = (answers(&files), Cache::start("simplecached_noasan", &files));
    for kit in kits(Part::Cache) {
        let to = tempfile::tempdir().expect("a directory");
        let programs = [true, false].map(|asan| kit.link(asan, to.path()));
        for round in 0..stops(8) {
            let mut webproxy = Command::new(&programs[round % 2]);
            webproxy.args(["-p", "0", "-t", "6"]).env("GFPROXY_SOCKET", cache.socket());
            stop(&kit, Program::start(&mut webproxy), &answers, round);
        }
    }
}

fn stop(kit: &Kit, mut webproxy: Program, answers: &crate::load::Answers, round: usize) {
    let port = webproxy.port();
    let end = || {
        webproxy.signal(Signal::SIGTERM);
        webproxy.wait_for(PATIENCE)
    };
    if !kit.is_foreign() {
        let ended = under_load(port, answers, 1 + round % 64, is_whole, end).expect("it ends");
        assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(15), ""), "round {round}");
        return;
    }
    // The kit's gfserver_stop frees the contexts of handlers that run. What comes of that is its own: a cut file, a
    // report of AddressSanitizer on its functions, a wait without end. Never an abort in a handler of ours.
    let Some(ended) = under_load(port, answers, 1 + round % 64, |_, _, _| (), end) else { return };
    assert_ne!(ended.status.signal(), Some(Signal::SIGABRT as i32), "round {round}: {ended:?}");
    for words in ["panicked at", "fatal runtime error", "Rust cannot catch"] {
        assert!(!ended.stderr.contains(words), "round {round}: {ended:?}");
    }
}
