//! The C interface as C sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::{Program, compile};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_export_takes_nulls_and_edge_values() {
    let here = tempfile::tempdir().expect("a directory");
    let program = compile("tests/c/abi.c", here.path());
    let ended = Program::run(Command::new(program).current_dir(here.path()));
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.stdout, "every export answered\n");
}

#[test]
fn a_programs_own_handlers_take_the_place_of_ours() {
    let here = tempfile::tempdir().expect("a directory");
    let program = compile("tests/c/own_handlers.c", here.path());
    let ended = Program::run(Command::new(program).current_dir(here.path()));
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(0), "1 2 3\n"), "{ended:?}");
}

#[test]
fn threads_are_cancelled_before_a_call_or_after_it_and_never_in_between() {
    let here = tempfile::tempdir().expect("a directory");
    fs::write(here.path().join("file"), vec![7; 50_000]).expect("a file");
    fs::write(here.path().join("locals.txt"), "/file file\n").expect("locals.txt");
    let program = compile("tests/c/cancel.c", here.path());
    let ended = Program::run(Command::new(program).arg("socket").current_dir(here.path()));
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(0), "every thread ended\n"), "{ended:?}");
}

#[test]
fn the_program_calls_every_function_of_the_headers() {
    let program = read(&root("tests/c/abi.c"));
    let mut functions = 0;
    for header in ["gfproxy.h", "shm_channel.h"] {
        for line in read(&root("include").join(header)).lines() {
            let is_declaration = line.starts_with(|c: char| c.is_ascii_lowercase()) && !line.starts_with("typedef");
            let Some((before, _)) = line.split_once('(').filter(|_| is_declaration) else { continue };
            let name = before.rsplit([' ', '*']).next().expect("a name");
            assert!(program.contains(&format!("{name}(")), "tests/c/abi.c does not call {name} of {header}");
            functions += 1;
        }
    }
    assert!(functions > 20, "only {functions} declarations were found");
}

/// A panic that leaves an `extern "C"` function aborts the process.
#[test]
fn every_export_has_a_panic_guard() {
    let mut sources: Vec<PathBuf> = Vec::new();
    let mut folders = vec![root("src/ffi")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src/ffi") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { sources.push(path) }
        }
    }
    let mut exports = 0;
    for source in sources {
        let text = read(&source);
        for export in text.split("#[unsafe(no_mangle)]").skip(1) {
            let end = export.find("\n}\n").expect("the end of a function");
            let body = &export[..end];
            let name = body.split_once("fn ").expect("a function").1.split('(').next().expect("a name");
            // `status` is `guard` with an error number; `handle` catches by itself, to cut the client's connection;
            // two look a text up in a table, to be had in a signal handler.
            let guarded = ["guard(", "status(", "handle("].iter().any(|call| body.contains(call));
            assert!(
                guarded || ["shm_channel_strerror", "gfproxy_version"].contains(&name),
                "{name} in {} has no panic guard",
                source.display()
            );
            exports += 1;
        }
    }
    assert!(exports > 20, "only {exports} exports were found");
}
