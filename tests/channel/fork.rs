//! fork(2): the parent is not harmed by what a child does with what it inherited, and the child makes its own of it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::programs::{Program, built, compile};

/// What each file of the server has.
const LEN: usize = 300_000;

struct Setup {
    here: TempDir,
    program: PathBuf,
    _server: Program,
}

impl Setup {
    /// Files `a` to `h`, of their letter, a server for them, and the C program.
    fn new() -> Self {
        let here = tempfile::tempdir().expect("a directory");
        let (socket, files) = (here.path().join("socket"), here.path().join("files"));
        fs::create_dir(&files).expect("a directory");
        for letter in b'a'..=b'h' {
            fs::write(files.join(char::from(letter).to_string()), vec![letter; LEN]).expect("a file");
        }
        let server = Program::start(Command::new(built("producer")).arg(&socket).arg(&files));
        let program = compile("tests/c/fork.c", here.path());
        Self { here, program, _server: server }
    }

    fn socket(&self) -> PathBuf {
        self.here.path().join("socket")
    }

    fn run(&self, mode: &str, segments: u32) {
        let ended = Program::run(Command::new(&self.program).arg(mode).arg(self.socket()).arg(segments.to_string()));
        assert!(ended.status.success() && ended.stderr.is_empty(), "{mode}, {segments} segments: {ended:?}");
    }
}

#[test]
fn children_use_what_they_inherited_and_the_parent_has_its_own_bytes() {
    let setup = Setup::new();
    for segments in [1, 2, 8] {
        setup.run("children", segments);
    }
    setup.run("raw children", 2);
}

#[test]
fn children_that_free_what_they_inherited_or_leave_it_end_in_silence() {
    Setup::new().run("unused", 2);
}

#[test]
fn a_transfer_goes_on_in_parent_and_child() {
    Setup::new().run("open transfer", 2);
}

#[test]
fn children_of_a_process_with_busy_threads_hang_on_no_lock() {
    let setup = Setup::new();
    for segments in [2, 8] {
        setup.run("threads", segments);
    }
}

#[test]
fn a_child_goes_on_when_its_parent_has_left() {
    Setup::new().run("parent exits", 2);
}

#[test]
fn a_child_closes_no_descriptor_that_it_did_not_inherit() {
    Setup::new().run("other descriptors", 2);
}
