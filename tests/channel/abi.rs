//! The C interface as C sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::{Program, built};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_export_takes_nulls_and_edge_values() {
    let here = tempfile::tempdir().expect("a directory");
    let program = here.path().join("abi");
    let curl = Command::new("pkg-config").args(["--libs", "libcurl"]).output().expect("pkg-config");
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I"]).arg(root("include")).arg("-o").arg(&program);
    gcc.arg(root("tests/c/abi.c")).arg(built("libgfproxy.a")).args(["-lpthread", "-ldl", "-lm", "-lrt"]);
    let ended = Program::run(gcc.args(String::from_utf8(curl.stdout).expect("UTF-8").split_whitespace()));
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");

    let ended = Program::run(Command::new(program).current_dir(here.path()));
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.stdout, "every export answered\n");
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
