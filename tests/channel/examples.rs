//! c/examples, as `make` builds them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::programs::{Program, built};

fn consume(socket: &Path, keys: &[&str]) -> (bool, Vec<u8>, String) {
    let mut command = Command::new(built("consumer"));
    let ended = command.arg(socket).args(keys).stdin(Stdio::null()).output().expect("consumer");
    (ended.status.success(), ended.stdout, String::from_utf8(ended.stderr).expect("UTF-8"))
}

#[test]
fn the_examples_bring_files_byte_by_byte_between_two_processes() {
    let here = tempfile::tempdir().expect("a directory");
    let (socket, files) = (here.path().join("socket"), here.path().join("files"));
    fs::create_dir_all(files.join("deep")).expect("a directory");
    let large: Vec<u8> = (0..5_000_003u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(files.join("deep/large"), &large).expect("a file");
    fs::write(files.join("empty"), b"").expect("a file");
    fs::write(here.path().join("outside"), b"secret").expect("a file");

    let producer = Program::start(Command::new(built("producer")).arg(&socket).arg(&files));
    // The consumer waits for the producer by itself.
    let (done, bytes, errors) = consume(&socket, &["deep/large", "empty", "deep/large"]);
    assert!(done, "{errors}");
    assert!(bytes == [large.as_slice(), &large].concat(), "{} bytes differ", bytes.len());

    for key in ["none", "../outside", "deep/../../outside", "/etc/passwd", "deep"] {
        let (done, bytes, errors) = consume(&socket, &[key]);
        assert!(!done && bytes.is_empty() && errors.starts_with(key), "{key}: {errors}");
    }
    let ended = producer.stop();
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(0), "ready\n"), "{ended:?}");
    assert!(!socket.exists(), "the producer removes its socket");
}
