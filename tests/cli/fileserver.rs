//! `fileserver`, the example of how the gfserver library is used, must itself be right.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::programs::{NOT_FOUND, Program, bytes, fetch, has_own_gfserver, ok, program, request};

fn fileserver(directory: &Path) -> Program {
    let mut command = Command::new(program("fileserver"));
    Program::start(command.args(["-p", "0", "-t", "2", "-d"]).arg(directory))
}

#[test]
fn files_of_every_size() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut server = fileserver(directory.path());
    let port = server.port();
    fs::create_dir(directory.path().join("sub")).expect("mkdir");
    for size in [0, 1, 65535, 65536, 65537, 1_048_599] {
        let file = bytes(size as u64, size);
        fs::write(directory.path().join("sub/file..bin"), &file).expect("write");
        assert!(fetch(port, "/sub/file..bin") == ok(&file), "{size} bytes");
        assert!(fetch(port, "//sub/./file..bin") == ok(&file), "{size} bytes");
    }
}

/// Our gfserver tells; a provided one has no log.
#[test]
fn the_port_that_was_free_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(program("fileserver"));
    let mut server = Program::start(command.args(["-v", "-p", "0", "-d"]).arg(directory.path()));
    let told = format!(":{}\n", server.port());
    if has_own_gfserver() {
        server.until("tells its port", |server| server.stderr_so_far().ends_with(&told));
    }
}

#[test]
fn what_is_no_file_is_not_found() {
    let outer = tempfile::tempdir().expect("a directory");
    let inner = outer.path().join("inner");
    fs::create_dir_all(inner.join("directory")).expect("mkdir");
    fs::write(outer.path().join("secret"), "secret").expect("write");
    fs::write(inner.join("file"), "file").expect("write");
    mkfifo(&inner.join("fifo"), Mode::S_IRWXU).expect("mkfifo");
    symlink("loop", inner.join("loop")).expect("symlink");
    let mut server = fileserver(&inner);
    let port = server.port();
    let long = format!("/{}", "x".repeat(90));
    let refused = [
        "/none",
        "/directory",
        "/directory/",
        "/",
        "/fifo",
        "/loop",
        "/file/below",
        "/../secret",
        "/directory/../../secret",
        "/..",
        "/.././secret",
        "//../secret",
        &long,
    ];
    for path in refused {
        assert_eq!(fetch(port, path), NOT_FOUND, "{path}");
    }
    assert_eq!(fetch(port, "/file"), ok(b"file"));
}

/// Access denied and not found look the same. Root may read everything, so there this shows nothing.
#[test]
fn no_access_is_not_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("private");
    fs::write(&path, "private").expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).expect("chmod");
    let expected = if File::open(&path).is_ok() { ok(b"private") } else { NOT_FOUND.to_vec() };
    let mut server = fileserver(directory.path());
    assert_eq!(fetch(server.port(), "/private"), expected);
}

/// A file that shrinks under the transfer ends in a short file: no error text, no padding.
#[test]
fn a_file_that_shrinks_is_cut_short() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    let file = bytes(1, 64 << 20);
    fs::write(&path, &file).expect("write");
    let mut server = fileserver(directory.path());
    // More than the sockets hold is outstanding until this reads, so the server is still in the middle.
    let mut stream = request(server.port(), "/file");
    let mut head = [0; 20];
    std::io::Read::read_exact(&mut stream, &mut head).expect("the header");
    assert_eq!(&head, b"GETFILE OK 67108864 ");
    File::options().write(true).open(&path).expect("open").set_len(1000).expect("truncate");
    let mut body = Vec::new();
    // The cut may arrive as an end or as a reset.
    let _ = std::io::Read::read_to_end(&mut stream, &mut body);
    assert!(body.len() < file.len(), "all of it arrived");
    assert!(body == file[..body.len()], "the bytes before the cut differ");
    // It goes on serving.
    assert!(fetch(server.port(), "/file") == ok(&file[..1000]));
}

#[test]
fn a_client_that_leaves_ends_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("big"), bytes(1, 16 << 20)).expect("write");
    fs::write(directory.path().join("file"), "file").expect("write");
    let mut server = fileserver(directory.path());
    let port = server.port();
    for _ in 0..8 {
        drop(request(port, "/big"));
    }
    assert_eq!(fetch(port, "/file"), ok(b"file"));
}

#[test]
fn a_directory_that_cannot_be_opened() {
    for (path, reason) in [("/nonexistent/dir", "No such file or directory"), ("/dev/null", "Not a directory")] {
        let ended = Program::run(Command::new(program("fileserver")).args(["-d", path]));
        assert_eq!(ended.stderr, format!("fileserver: {path}: {reason}\n"));
        assert_eq!(ended.status.code(), Some(1));
    }
}
