//! A file that is written while a transfer of it runs is cut, never mixed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::pair::{LARGE, Pair};
use crate::programs::bytes;

/// Stalls a transfer of a large file, lets `change` happen to the file, and finishes.
fn assert_cut(change: impl FnOnce(&File)) {
    let directory = tempfile::tempdir().expect("a directory");
    let old = bytes(1, LARGE);
    fs::write(directory.path().join("a"), &old).expect("a");
    fs::write(directory.path().join("small"), "small").expect("small");
    let pair = Pair::start(directory, "/a a\n/small small\n");
    let stalled = pair.stall("/a", "/small");
    change(&File::options().write(true).open(pair.path("a")).expect("it is there"));
    let got = stalled.finish(LARGE);
    assert!(got.len() < LARGE, "the whole file came, though it changed");
    assert!(old.starts_with(&got), "{} bytes came, not all of them of the file as it was", got.len());
    // The next transfer is of the file as it is now.
    let new = fs::read(pair.path("a")).expect("it is there");
    pair.assert_serves("/a", &new);
}

#[test]
fn overwritten() {
    assert_cut(|file| file.write_all_at(&bytes(2, LARGE), 0).expect("write"));
}

#[test]
fn one_byte_at_the_end() {
    assert_cut(|file| file.write_all_at(b"!", LARGE as u64 - 1).expect("write"));
}

#[test]
fn grown() {
    assert_cut(|file| file.write_all_at(b"more", LARGE as u64).expect("write"));
}

#[test]
fn truncated() {
    assert_cut(|file| file.set_len(LARGE as u64 - 1).expect("truncate"));
}

#[test]
fn emptied() {
    assert_cut(|file| file.set_len(0).expect("truncate"));
}
