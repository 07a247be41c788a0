//! Relative paths mean what they meant at the start.

use std::fs;
use std::process::Command;

use crate::c_interface::compile;
use crate::programs::{Program, built, fetch, ok};

#[test]
fn relative_paths_of_locals_file_and_socket_outlive_a_change_of_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("a"), "content").expect("a file");
    fs::write(directory.path().join("locals.txt"), "/a a\n").expect("a locals file");
    let gfserver = built("gfserver_noasan.o");
    let program = compile("moved.c", &[gfserver.to_str().expect("UTF-8")], directory.path());
    let mut program = Program::start(Command::new(program).current_dir(directory.path()));
    let port = program.port();
    assert_eq!(fetch(port, "/a"), ok(b"content"));
}
