//! `simplecache.h` from C.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::programs::{Ended, Program, built};

/// Compiles `tests/c/<source>` and links it with the archive.
pub fn compile(source: &str, flags: &[&str], to: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = to.join("program");
    let curl = Command::new("pkg-config").args(["--libs", "libcurl"]).output().expect("pkg-config");
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g"]).args(flags).arg("-I").arg(root.join("include"));
    gcc.arg("-o").arg(&target).arg(root.join("tests/c").join(source)).arg(built("libgfproxy.a"));
    gcc.args(String::from_utf8(curl.stdout).expect("UTF-8").split_whitespace()).args(["-lpthread", "-ldl", "-lm"]);
    let ended = Program::run(&mut gcc);
    assert!(ended.status.success() && ended.stderr.is_empty(), "{source}:\n{}", ended.stderr);
    target
}

fn run_simplecache(flags: &[&str]) -> Ended {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    for (name, content) in [
        ("a", "first"),
        ("b c", "second"),
        ("locals.txt", "/a a\n\"/b c\" \"b c\"\n/vanished v\n/directory directory\n/fifo fifo\n"),
        ("broken.txt", "/a a\n/b\n"),
        ("other.txt", "/other \"b c\"\n"),
    ] {
        fs::write(path(name), content).expect("write");
    }
    fs::create_dir(path("directory")).expect("a directory");
    mkfifo(&path("fifo"), Mode::S_IRWXU).expect("a FIFO");
    let program = compile("simplecache.c", flags, directory.path());
    Program::run(Command::new(program).current_dir(directory.path()))
}

#[test]
fn a_c_program_gets_descriptors() {
    for flags in [&[][..], &["-fsanitize=address", "-static-libasan"]] {
        let ended = run_simplecache(flags);
        assert!(ended.status.success(), "{flags:?}: {ended:?}");
        assert_eq!(
            ended.stderr,
            "simplecache_init: absent.txt: No such file or directory (os error 2)\n\
             simplecache_init: no locals file was named\n\
             simplecache_init: broken.txt:2: a key without a path\n"
        );
    }
}

#[test]
fn cache_delay_of_the_program_is_honoured() {
    let ended = run_simplecache(&["-DDELAY=150000"]);
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn a_simplecache_of_the_programs_own_takes_the_place_of_ours() {
    let directory = tempfile::tempdir().expect("a directory");
    let ended = Program::run(&mut Command::new(compile("own_simplecache.c", &[], directory.path())));
    assert!(ended.status.success(), "{ended:?}");
}
