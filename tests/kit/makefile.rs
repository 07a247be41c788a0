//! What make says before it builds anything.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::programs::{Ended, Program};

fn make(arguments: &[&str]) -> Ended {
    let mut make = Command::new("make");
    make.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).args(["--no-print-directory"]).args(arguments);
    // Those of the make that runs the tests.
    Program::run(make.env_remove("MAKEFLAGS").env_remove("KIT"))
}

#[test]
fn a_directory_without_the_objects_is_no_kit() {
    let kit = tempfile::tempdir().expect("a directory");
    let name = kit.path().to_str().expect("UTF-8");
    for object in ["gfserver.o", "gfserver_noasan.o"] {
        let ended = make(&["-n", &format!("KIT={name}")]);
        let words = format!(
            "KIT=DIR wants the directory that holds gfserver.o and gfserver_noasan.o: there is no {name}/{object}."
        );
        assert!(ended.stderr.contains(&words), "{ended:?}");
        assert_eq!((ended.status.code(), ended.stderr.lines().count()), (Some(2), 1), "{ended:?}");
        fs::write(kit.path().join(object), "").expect(object);
    }
    assert_eq!(make(&["-n", &format!("KIT={name}"), "help"]).status.code(), Some(0));
}

#[test]
fn help_lists_the_goals() {
    let ended = make(&["help"]);
    for goal in ["make ", "make KIT=DIR", "make demo", "make test", "make install", "make check", "make clean"] {
        assert!(ended.stdout.lines().any(|line| line.starts_with(goal)), "no {goal} in {}", ended.stdout);
    }
    assert!(ended.stdout.lines().all(|line| line.starts_with("make ")), "{}", ended.stdout);
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""));
}
