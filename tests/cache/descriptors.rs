//! Descriptors are opened on demand and closed before they run out.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::pair::{LARGE, Pair, Stalled};
use crate::programs::program;

/// A simplecached that may have so many descriptors.
fn limited(limit: usize, threads: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {limit}; exec \"$@\"")).arg("sh").arg(program("simplecached_noasan"));
    command.args(["-t", threads]);
    command
}

/// A webproxy for so many clients that do not read, and some that do.
fn proxy(stalled: usize) -> Command {
    let mut command = Command::new(program("webproxy_noasan"));
    command.args(["-t", &(stalled + 4).to_string()]);
    command
}

fn open_descriptors(pair: &Pair) -> usize {
    fs::read_dir(format!("/proc/{}/fd", pair.daemon.pid())).expect("a live process").count()
}

/// Files `/small/<i>` with their number in them, and `/large/<i>` that end with it and are else nothing but holes.
fn locals(directory: &Path, small: usize, large: usize) -> String {
    let mut locals = String::new();
    for i in 0..small {
        fs::write(directory.join(format!("small-{i}")), i.to_string()).expect("a file");
        locals += &format!("/small/{i} small-{i}\n");
    }
    for i in 0..large {
        let file = File::create(directory.join(format!("large-{i}"))).expect("a file");
        file.write_all_at(&[i as u8], LARGE as u64 - 1).expect("write");
        locals += &format!("/large/{i} large-{i}\n");
    }
    locals
}

fn stall(pair: &Pair, large: usize) -> Vec<Stalled> {
    (0..large).map(|i| pair.stall(&format!("/large/{i}"), "/small/0")).collect()
}

fn assert_finish(stalled: Vec<Stalled>) {
    for (i, stalled) in stalled.into_iter().enumerate() {
        let got = stalled.finish(LARGE);
        assert_eq!(got.len(), LARGE, "transfer {i} broke");
        assert!(
            got[..LARGE - 1].iter().all(|&b| b == 0) && got[LARGE - 1] == i as u8,
            "transfer {i} is of another file"
        );
    }
}

#[test]
fn thousands_of_files_within_1024_descriptors() {
    const SMALL: usize = 3000;
    const STALLED: usize = 8;
    let directory = tempfile::tempdir().expect("a directory");
    let locals = locals(directory.path(), SMALL, STALLED);
    let pair = Pair::start_with(directory, locals, limited(1024, "1"), proxy(STALLED));
    let all_small = |round: usize| {
        thread::scope(|scope| {
            for part in 0..4 {
                let pair = &pair;
                scope.spawn(move || {
                    for i in (part..SMALL).step_by(4) {
                        pair.assert_serves(&format!("/small/{i}"), i.to_string().as_bytes());
                    }
                });
            }
        });
        let open = open_descriptors(&pair);
        assert!((513..600).contains(&open), "{open} descriptors are open after round {round}: not half of 1024");
    };
    all_small(0);
    // Transfers hold their files while kept ones come and go.
    let stalled = stall(&pair, STALLED);
    all_small(1);
    assert_finish(stalled);
    all_small(2);
}

#[test]
fn files_of_transfers_take_the_place_of_kept_ones() {
    const STALLED: usize = 24;
    let directory = tempfile::tempdir().expect("a directory");
    let locals = locals(directory.path(), 100, STALLED);
    let pair = Pair::start_with(directory, locals, limited(64, "2"), proxy(STALLED));
    let stalled = stall(&pair, STALLED);
    for i in 0..100 {
        pair.assert_serves(&format!("/small/{i}"), i.to_string().as_bytes());
        assert!(open_descriptors(&pair) <= 64);
    }
    assert_finish(stalled);
    let told = pair.daemon.stop().stderr;
    assert!(!told.contains("Too many open files"), "{told}");
}

#[test]
fn more_stalled_transfers_than_descriptors() {
    const STALLED: usize = 40;
    let directory = tempfile::tempdir().expect("a directory");
    let locals = locals(directory.path(), 50, STALLED);
    let pair = Pair::start_with(directory, locals, limited(48, "2"), proxy(STALLED));
    // Those that are parked longest lose their descriptor, and open their file again when they go on.
    let stalled = stall(&pair, STALLED);
    for i in 0..50 {
        pair.assert_serves(&format!("/small/{i}"), i.to_string().as_bytes());
    }
    assert_finish(stalled);
}
