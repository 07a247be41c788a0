//! A million entries.

use std::fmt::Write;
use std::fs;

use crate::pair::Pair;
use crate::programs::NOT_FOUND;

const ENTRIES: usize = 1_000_000;
const LIMIT_KB: usize = 250 << 10;

/// A field of /proc/PID/status, in kB.
fn status_kb(pair: &Pair, field: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", pair.daemon.pid())).expect("a live process");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field of status");
    line.trim_start_matches(':').trim_end_matches("kB").trim().parse().expect("a number")
}

#[test]
fn a_million_entries_take_less_than_250_mb_even_while_they_are_loaded_again() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("a"), "content").expect("a");
    let mut locals = String::new();
    for i in 0..ENTRIES - 1 {
        writeln!(locals, "/courses/ud923/filecorpus/{i:07}.jpg cached_files/{i:07}.jpg").expect("to a string");
    }
    locals += "/last a\n";
    let mut pair = Pair::start(directory, &locals);
    pair.until_served("/last", b"content");
    assert_eq!(pair.fetch("/courses/ud923/filecorpus/0000000.jpg"), NOT_FOUND, "there is no such file");
    assert!(status_kb(&pair, "VmRSS") < LIMIT_KB, "{} kB resident", status_kb(&pair, "VmRSS"));
    for round in 0..3 {
        // The old table serves until the new one takes its place: both are there for a moment.
        let key = format!("/round-{round}");
        pair.reload(format!("{locals}{key} a\n"));
        pair.until_served(&key, b"content");
        let (resident, peak) = (status_kb(&pair, "VmRSS"), status_kb(&pair, "VmHWM"));
        assert!(resident < LIMIT_KB && peak < LIMIT_KB, "{resident} kB resident, {peak} kB at most");
    }
}
