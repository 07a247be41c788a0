//! What is served, and what is not, of all that a path can lead to.

use std::env;
use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::{Uid, mkfifo};
use tempfile::TempDir;

use crate::pair::{Pair, replace};
use crate::programs::{ERROR, NOT_FOUND, Program, ok, program, skipped};

fn directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("a"), "content").expect("a");
    directory
}

/// One that every user can reach and write to.
fn directory_for_everybody() -> Option<TempDir> {
    let is_reachable = |place: &Path| {
        let mode = |part: &Path| fs::metadata(part).map_or(0, |metadata| metadata.permissions().mode());
        place.ancestors().all(|part| mode(part) & 0o001 != 0)
    };
    let places = [env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
    let place = places.into_iter().find(|place| is_reachable(place))?;
    let directory = tempfile::tempdir_in(place).expect("a directory");
    fs::write(directory.path().join("a"), "content").expect("a");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("chmod");
    Some(directory)
}

#[test]
fn only_regular_files_are_served() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("directory")).expect("a directory");
    fs::write(path("empty"), "").expect("a file");
    fs::write(path("with space"), "spaced").expect("a file");
    mkfifo(&path("fifo"), Mode::S_IRWXU).expect("a FIFO");
    for (link, to) in [("link", "a"), ("dangling", "nothing"), ("loop", "loop"), ("to-directory", "directory")] {
        symlink(to, path(link)).expect("a symlink");
    }
    let long = format!("/long {}\n", "n".repeat(300));
    let absolute = format!("/absolute {}\n", path("a").display());
    let locals = [
        "\u{feff}/a a\r\n\r\n# /comment a\r\n  /indented\t\t a \t\r\n\"/quoted\" \"with space\"\r\n",
        "/link link\n/empty empty\n/twice a\n/twice empty\n/dots directory/../a\n",
        "/directory directory\n/directory/ directory/\n/to-directory to-directory\n",
        "/fifo fifo\n/zero /dev/zero\n/tty /dev/tty\n/null /dev/null\n",
        "/dangling dangling\n/loop loop\n/under-a-file a/b\n/absent absent\n",
        &long,
        &absolute,
        "/last a",
    ]
    .concat();
    let pair = Pair::start(directory, locals);
    for key in ["/a", "/indented", "/link", "/twice", "/dots", "/absolute", "/last"] {
        assert_eq!(pair.fetch(key), ok(b"content"), "{key}");
    }
    assert_eq!(pair.fetch("/quoted"), ok(b"spaced"));
    assert_eq!(pair.fetch("/empty"), ok(b""));
    let refused = ["/directory", "/directory/", "/to-directory", "/fifo", "/zero", "/tty", "/null"];
    let absent = ["/dangling", "/loop", "/under-a-file", "/absent", "/long", "/comment", "/nowhere", "/A", "/a/"];
    for key in refused.into_iter().chain(absent) {
        assert_eq!(pair.fetch(key), NOT_FOUND, "{key}");
    }
    let told = pair.daemon.stop().stderr;
    assert!(told.contains("locals.txt:9: a key that an earlier line has: line skipped"), "{told}");
    assert!(told.contains("/fifo: not a regular file"), "{told}");
    assert!(told.contains("/absent: No such file or directory"), "{told}");
}

#[test]
fn files_that_come_go_and_change() {
    let pair = Pair::start(directory(), "/a a\n/link link\n");
    pair.assert_serves("/a", b"content");
    fs::remove_file(pair.path("a")).expect("remove");
    assert_eq!(pair.fetch("/a"), NOT_FOUND);
    fs::write(pair.path("a"), "back").expect("write");
    assert_eq!(pair.fetch("/a"), ok(b"back"));
    fs::write(pair.path("a"), "longer than before").expect("write");
    assert_eq!(pair.fetch("/a"), ok(b"longer than before"));
    replace(&pair.path("a"), "renamed");
    assert_eq!(pair.fetch("/a"), ok(b"renamed"));
    // A link that leads to another file leaves the one before with its name.
    symlink("a", pair.path("link")).expect("a symlink");
    assert_eq!(pair.fetch("/link"), ok(b"renamed"));
    fs::write(pair.path("b"), "linked").expect("write");
    symlink("b", pair.path("link.new")).expect("a symlink");
    fs::rename(pair.path("link.new"), pair.path("link")).expect("rename");
    assert_eq!(pair.fetch("/link"), ok(b"linked"));
}

#[test]
fn a_file_without_permission_looks_like_none() {
    let is_root = Uid::effective().is_root();
    let Some(directory) = (if is_root { directory_for_everybody() } else { Some(directory()) }) else {
        return skipped("no temporary directory that another user than root can reach");
    };
    fs::write(directory.path().join("secret"), "secret").expect("a file");
    fs::set_permissions(directory.path().join("secret"), Permissions::from_mode(0o000)).expect("chmod");
    let [daemon, proxy] = ["simplecached_noasan", "webproxy_noasan"].map(|name| {
        if !is_root {
            return Command::new(program(name));
        }
        // Root may read everything, so the two are somebody else, who perhaps cannot reach where they were built.
        let copy = directory.path().join(name);
        fs::copy(program(name), &copy).expect("copy");
        let mut command = Command::new(copy);
        command.uid(65534);
        command
    });
    let pair = Pair::start_with(directory, "/a a\n/secret secret\n", daemon, proxy);
    pair.assert_serves("/a", b"content");
    assert_eq!(pair.fetch("/secret"), NOT_FOUND);
    assert!(pair.daemon.stop().stderr.contains("/secret: Permission denied"));
}

#[test]
fn lookups_are_delayed_hits_and_misses_alike() {
    let mut daemon = Command::new(program("simplecached_noasan"));
    daemon.args(["-d", "150000"]);
    let pair = Pair::start_with(directory(), "/a a\n", daemon, Command::new(program("webproxy_noasan")));
    for (key, answer) in [("/a", ok(b"content")), ("/nowhere", NOT_FOUND.to_vec())] {
        let begun = Instant::now();
        assert_eq!(pair.fetch(key), answer);
        assert!(begun.elapsed() >= Duration::from_millis(150), "{key}");
    }
}

#[test]
fn a_locals_file_that_is_none_ends_the_start() {
    let directory = directory();
    let fifo = directory.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).expect("a FIFO");
    for (locals, reason) in [
        (directory.path().join("absent"), "No such file or directory (os error 2)"),
        (directory.path().to_owned(), "is a directory"),
        (fifo, "not a regular file"),
        ("/dev/zero".into(), "not a regular file"),
    ] {
        let mut command = Command::new(program("simplecached_noasan"));
        command.arg("-c").arg(&locals).arg("-S").arg(directory.path().join("socket"));
        let ended = Program::run(&mut command);
        assert_eq!(ended.status.code(), Some(1));
        assert_eq!(ended.stderr, format!("simplecached: {}: {reason}\n", locals.display()));
    }
}

#[test]
fn the_daemon_starts_with_what_it_can_read_of_a_locals_file() {
    let mut bad = String::new();
    for i in 0..25 {
        bad += &format!("/bad-{i}\n");
    }
    let pair = Pair::start(directory(), format!("{bad}/a a\n"));
    pair.assert_serves("/a", b"content");
    assert_eq!(pair.fetch("/bad-0"), NOT_FOUND);
    let told = pair.daemon.stop().stderr;
    assert!(told.contains("locals.txt:20: a key without a path: line skipped"), "{told}");
    assert!(!told.contains("locals.txt:21:"), "{told}");
    assert!(told.contains("locals.txt: 5 more lines skipped"), "{told}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    // Both have a length of 0. Reading memory at address 0 fails with EIO; opening it does not. The other has bytes.
    let pair = Pair::start(directory(), "/a a\n/mem /proc/self/mem\n/version /proc/version\n");
    assert_eq!(["/mem", "/version"].map(|key| pair.fetch(key)), [ERROR, ERROR]);
    pair.assert_serves("/a", b"content");
}

/// Takes a write lease on a file, or gives it up. While it is held, whoever opens the file with O_NONBLOCK is refused.
#[allow(unsafe_code)]
fn lease(file: &File, kind: i32) {
    // The holder is asked by SIGIO to give it up, which would end this process.
    // SAFETY: SIG_IGN runs no code of ours, and fcntl gets a descriptor and a number.
    let failed = unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
        libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind)
    };
    assert_eq!(failed, 0, "F_SETLEASE: {}", std::io::Error::last_os_error());
}

#[test]
fn a_file_under_a_lease_is_waited_for_and_then_an_error_and_never_missing() {
    let pair = Pair::start(directory(), "/a a\n/b b\n");
    fs::write(pair.path("b"), "content").expect("b");
    let [a, b] = ["a", "b"].map(|name| File::options().write(true).open(pair.path(name)).expect("it is there"));
    lease(&a, libc::F_WRLCK);
    assert_eq!(pair.fetch("/a"), ERROR);
    lease(&a, libc::F_UNLCK);
    assert_eq!(pair.fetch("/a"), ok(b"content"));
    // One that is given up when the kernel asks for that, as by Samba.
    lease(&b, libc::F_WRLCK);
    let answer = thread::scope(|scope| {
        let asking = scope.spawn(|| pair.fetch("/b"));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !fs::read_to_string("/proc/locks").expect("/proc/locks").contains("LEASE  BREAKING") {
            assert!(Instant::now() < deadline, "nobody asks for the file");
        }
        lease(&b, libc::F_UNLCK);
        asking.join().expect("no panic")
    });
    assert!([&ok(b"content")[..], ERROR].contains(&answer.as_slice()));
}

#[test]
fn keys_that_no_request_can_have_are_warned_of_and_kept() {
    let pair = Pair::start(directory(), "/a a\nb a\n\"c d\" a\n");
    pair.assert_serves("/a", b"content");
    let told = pair.daemon.stop().stderr;
    assert!(told.contains("locals.txt:2: a key that does not begin with /"), "{told}");
    assert!(told.contains("(and 1 more)") && !told.contains("skipped"), "{told}");
}
