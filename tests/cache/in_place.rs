//! A file that is written while a transfer of it runs is cut, never mixed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::pair::{LARGE, Pair, replace};
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
fn overwritten_and_its_time_set_back() {
    assert_cut(|file| {
        let modified = file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
        file.write_all_at(&bytes(2, LARGE), 0).expect("write");
        file.set_modified(modified).expect("utimes");
    });
}

/// Stalls a transfer of a large file with another name, lets `change` happen, and finishes: all of it comes.
fn assert_whole(change: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir().expect("a directory");
    let old = bytes(1, LARGE);
    fs::write(directory.path().join("a"), &old).expect("a");
    fs::hard_link(directory.path().join("a"), directory.path().join("b")).expect("link");
    fs::write(directory.path().join("small"), "small").expect("small");
    let pair = Pair::start(directory, "/a a\n/small small\n");
    let stalled = pair.stall("/a", "/small");
    change(&pair.path("a"));
    assert!(stalled.finish(LARGE) == old);
}

#[test]
fn a_name_that_comes_or_goes_or_leads_elsewhere_cuts_nobody() {
    assert_whole(|path| fs::hard_link(path, path.with_extension("c")).expect("link"));
    assert_whole(|path| fs::remove_file(path).expect("remove"));
    assert_whole(|path| fs::rename(path, path.with_extension("d")).expect("rename"));
    assert_whole(|path| replace(path, "new"));
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
