//! SIGHUP: the daemon loads its locals file again, all of it or nothing.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::pair::{LARGE, Pair, replace};
use crate::programs::{NOT_FOUND, bytes, ok, program};

#[test]
fn old_transfers_finish_on_the_old_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let (old, new, other) = (bytes(1, LARGE), bytes(2, LARGE), bytes(3, LARGE));
    fs::write(directory.path().join("a"), &old).expect("a");
    fs::write(directory.path().join("b"), &other).expect("b");
    fs::write(directory.path().join("small"), "small").expect("small");
    let mut pair = Pair::start(directory, "/a a\n/gone b\n/small small\n");

    // Parked, with its file replaced by rename, and its key given to another file; parked, with its key taken away.
    let replaced = pair.stall("/a", "/small");
    let gone = pair.stall("/gone", "/small");
    replace(&pair.path("a"), &new);
    fs::remove_file(pair.path("b")).expect("remove");
    pair.reload("/a a\n/new small\n");
    pair.until_served("/new", b"small");

    assert_eq!(pair.fetch("/small"), NOT_FOUND);
    pair.assert_serves("/a", &new);
    assert!(replaced.finish(LARGE) == old, "the transfer did not finish on the file that it began with");
    assert!(gone.finish(LARGE) == other, "the transfer did not finish on the file that it began with");
    pair.assert_serves("/a", &new);
}

#[test]
fn several_parked_transfers_of_one_file_all_finish_on_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let (old, new) = (bytes(1, LARGE), bytes(2, LARGE));
    fs::write(directory.path().join("a"), &old).expect("a");
    fs::write(directory.path().join("small"), "small").expect("small");
    let locals = "/a a\n/small small\n";
    let mut daemon = Command::new(program("simplecached_noasan"));
    daemon.args(["-t", "1"]);
    // One segment for all of them: each has it in turn.
    let mut proxy = Command::new(program("webproxy_noasan"));
    proxy.args(["-n", "1", "-z", "65536"]);
    let pair = Pair::start_with(directory, locals, daemon, proxy);
    let stalled: Vec<_> = (0..4).map(|_| pair.stall("/a", "/small")).collect();
    replace(&pair.path("a"), &new);
    pair.assert_serves("/a", &new);
    thread::scope(|scope| {
        let finishing: Vec<_> = stalled.into_iter().map(|stalled| scope.spawn(|| stalled.finish(LARGE))).collect();
        for finished in finishing {
            assert!(finished.join().expect("a client") == old, "a transfer did not finish on its file");
        }
    });
}

#[test]
fn a_broken_file_keeps_the_old_one_and_says_why() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("a"), "content").expect("a");
    let mut pair = Pair::start(directory, "/a a\n");
    let locals = pair.path("locals.txt");
    pair.assert_serves("/a", b"content");

    pair.reload("/b a\n/c\n");
    pair.until_told(&format!("{}:2: a key without a path: the files loaded before stay", locals.display()));
    pair.reload(b"/b a\n\0\xff garbage\n\"/x\n");
    pair.until_told(&format!("{}:2: a NUL byte (and 1 more bad line): the files loaded", locals.display()));
    fs::remove_file(&locals).expect("remove");
    pair.daemon.signal(Signal::SIGHUP);
    pair.until_told(&format!("{}: No such file or directory (os error 2): the files loaded", locals.display()));
    fs::create_dir(&locals).expect("a directory");
    pair.daemon.signal(Signal::SIGHUP);
    pair.until_told(&format!("{}: is a directory: the files loaded", locals.display()));
    pair.assert_serves("/a", b"content");
    assert_eq!(pair.fetch("/b"), NOT_FOUND);

    // And a good one is taken again.
    fs::remove_dir(&locals).expect("remove");
    pair.reload("/b a\n");
    pair.until_served("/b", b"content");
    assert_eq!(pair.fetch("/a"), NOT_FOUND);
    pair.reload("");
    pair.until_told("no entries");
    assert_eq!(pair.fetch("/b"), NOT_FOUND);
}

#[test]
fn under_load_each_answer_is_of_one_file() {
    const KEYS: usize = 8;
    let directory = tempfile::tempdir().expect("a directory");
    let mut locals = [String::new(), String::new()];
    let mut answers = Vec::new();
    for key in 0..KEYS {
        for (side, locals) in locals.iter_mut().enumerate() {
            let (name, content) = (format!("{key}-{side}"), bytes((2 * key + side) as u64, 300_000));
            fs::write(directory.path().join(&name), &content).expect("a file");
            *locals += &format!("/{key} {name}\n");
            answers.push(ok(&content));
        }
    }
    for (side, locals) in locals.iter_mut().enumerate() {
        *locals += &format!("/side {side}-0\n");
    }
    let mut daemon = Command::new(program("simplecached_noasan"));
    daemon.args(["-t", "4"]);
    let mut pair = Pair::start_with(directory, &locals[0], daemon, Command::new(program("webproxy_noasan")));
    let sides = [bytes(0, 300_000), bytes(2, 300_000)];
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let port = pair.port;
    let load = |first: usize| {
        for key in (0..KEYS).cycle().skip(first) {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let answer = crate::programs::fetch(port, &format!("/{key}"));
            let whole = answers[2 * key..2 * key + 2].contains(&answer);
            served.fetch_add(1, Ordering::Relaxed);
            assert!(whole, "/{key}: {} bytes that are neither file", answer.len());
        }
    };
    let load = &load;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..3).map(|first| scope.spawn(move || load(first))).collect();
        for round in 1..=10 {
            pair.reload(&locals[round % 2]);
            pair.until_served("/side", &sides[round % 2]);
            // At least one whole request of each client's falls between two reloads, as a rule.
            let before = served.load(Ordering::Relaxed);
            pair.daemon.until("serves", |_| {
                served.load(Ordering::Relaxed) > before + 3 || clients.iter().any(thread::ScopedJoinHandle::is_finished)
            });
        }
        over.store(true, Ordering::Relaxed);
    });
}
