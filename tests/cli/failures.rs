//! What stops a program at its start: status 1 and one line that names the thing.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use crate::fixture::{Cache, files};
use crate::programs::{ERROR, Program, fetch, ok, program, skipped};

/// Runs the program, which must fail with one line that contains all of `parts`.
pub fn fails(command: &mut Command, parts: &[&str]) {
    let ended = Program::run(command);
    assert_eq!(ended.status.code(), Some(1), "{command:?}: {ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{command:?}: {ended:?}");
    for part in parts {
        assert!(ended.stderr.contains(part), "{command:?}: no {part:?} in {ended:?}");
    }
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("0.0.0.0:0").expect("bind");
    let port = taken.local_addr().expect("an address").port().to_string();
    for name in ["webproxy", "webproxy_noasan", "fileserver"] {
        let ended = Program::run(Command::new(program(name)).args(["-p", &port]));
        assert!(ended.stderr.contains(&port) && ended.stderr.lines().count() == 1, "{name}: {ended:?}");
        // A provided gfserver.o ends the process itself, with its own words and status 255.
        assert!(matches!(ended.status.code(), Some(1 | 255)), "{name}: {ended:?}");
    }
}

#[test]
fn a_variable_of_the_origin_that_is_no_number() {
    let mut command = Command::new(program("webproxy"));
    command.args(["-p", "0", "-s", "http://example.org"]).env("GFPROXY_ORIGIN_CONNECT_MS", "5s");
    fails(&mut command, &["GFPROXY_ORIGIN_CONNECT_MS", "5s", "milliseconds"]);
}

#[test]
fn a_locals_file_that_cannot_be_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    for name in ["simplecached", "simplecached_noasan"] {
        let run = || {
            let mut command = Command::new(program(name));
            command.arg("-S").arg(path("socket"));
            command
        };
        fails(run().args(["-c", &path("none")]), &[&path("none"), "No such file"]);
        fails(run().args(["-c", &path(".")]), &[&path("."), "directory"]);
        // The default, locals.txt in the current directory, is not there either.
        fails(run().current_dir(directory.path()), &["locals.txt", "No such file"]);
    }
}

#[test]
fn a_socket_that_cannot_be_had() {
    let mut cache = Cache::start("simplecached", &files(&[1]));
    let (socket, locals) = (cache.socket(), cache.locals());
    cache.daemon().until("listens", |_| socket.exists());
    let run = |socket: &str| {
        let mut command = Command::new(program("simplecached"));
        command.arg("-c").arg(&locals).args(["-S", socket]);
        command
    };
    // A second daemon on a live socket.
    let live = socket.to_str().expect("UTF-8");
    fails(&mut run(live), &[live]);
    // The first one is untouched.
    assert!(socket.exists());

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, "not a socket").expect("write");
    let (file, below) = (file.to_str().expect("UTF-8"), directory.path().to_str().expect("UTF-8"));
    for (path, reason) in [
        ("/nonexistent/socket", "No such file"),
        (&format!("{file}/socket"), "Not a directory"),
        (file, "is not a socket"),
        (below, "is not a socket"),
    ] {
        // The path as it was given, not that of the lock.
        fails(&mut run(path), &[&format!("simplecached: {path}: "), reason]);
        assert!(!Path::new(&format!("{path}.lock")).exists(), "{path}.lock was left behind");
    }
    assert_eq!(fs::read(file).expect("it is still there"), b"not a socket");
}

/// Whoever tidies up may take the lock file of a live daemon, or the socket with it.
#[test]
fn a_daemon_that_lost_its_lock_keeps_its_socket_and_leaves_its_successor_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    crate::fixture::write_locals(directory.path(), &files(&[1]));
    let command = || crate::fixture::daemon_command(Command::new(program("simplecached")), directory.path());
    let [socket, lock] = ["socket", "socket.lock"].map(|name| directory.path().join(name));
    let mut first = Program::start(&mut command());
    first.until("listens", |_| is_seqpacket_listener(&socket));

    fs::remove_file(&lock).expect("the lock file");
    fails(&mut command(), &["another simplecached serves this socket"]);
    assert!(is_seqpacket_listener(&socket));
    assert!(!lock.exists());

    fs::remove_file(&socket).expect("the socket");
    let mut second = Program::start(&mut command());
    second.until("listens", |_| is_seqpacket_listener(&socket));
    assert_eq!(first.stop().status.code(), Some(0));
    assert!(is_seqpacket_listener(&socket) && lock.exists());
    assert_eq!(second.stop().status.code(), Some(0));
    assert!(!socket.exists() && !lock.exists());
}

/// The reason is in the log of the request, and where waiting does not help also in that of the start.
#[test]
fn a_cache_daemon_that_cannot_be_reached() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    for (socket, reason, at_the_start) in
        [(path("none"), "No such file", false), (path("."), "it is not a socket", true)]
    {
        let mut webproxy = Command::new(program("webproxy"));
        let mut webproxy = Program::start(
            webproxy.args(["-p", "0", "--cache-wait-ms", "50", "-S", &socket]).env_remove("GFPROXY_LOG"),
        );
        if at_the_start {
            let words = format!("no cache daemon at {socket}: {reason}");
            webproxy.until("warns", |webproxy| webproxy.stderr_so_far().contains(&words));
        }
        assert_eq!(fetch(webproxy.port(), "/a"), ERROR);
        let told = webproxy.stop().stderr;
        let words = format!("no answer from the cache daemon at {socket} within 0.05 s: {reason}");
        assert!(told.contains(&words), "{told}");
        assert_eq!(told.lines().count(), if at_the_start { 2 } else { 1 }, "{told}");
    }
}

/// The socket file of a daemon that was killed is replaced.
#[test]
fn a_stale_socket_is_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    crate::fixture::write_locals(directory.path(), &files(&[1]));
    drop(UnixListener::bind(directory.path().join("socket")).expect("bind"));
    let daemon = crate::fixture::daemon_command(Command::new(program("simplecached")), directory.path());
    let mut daemon = Program::start(&mut { daemon });
    let socket = directory.path().join("socket");
    daemon.until("listens", |_| is_seqpacket_listener(&socket));
    assert_eq!(daemon.stop().status.code(), Some(0));
}

/// Whether somebody takes connections there.
fn is_seqpacket_listener(path: &std::path::Path) -> bool {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd;

    let client = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    connect(client.as_raw_fd(), &UnixAddr::new(path).expect("short")).is_ok()
}

/// The webproxy, with limits of its own that a shell sets.
fn limited(limits: &str, arguments: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{limits} && exec \"$0\" -p 0 \"$@\"")]).arg(program("webproxy_noasan"));
    shell.args(["-S", "/nonexistent/socket"]).args(arguments);
    shell
}

#[test]
fn segments_that_cannot_be_had() {
    let bytes = "bytes of shared memory";
    fails(&mut limited("ulimit -f 1000", &[]), &["gfproxy: ", bytes, "File too large"]);
    fails(&mut limited("ulimit -v 100000", &["-n", "256"]), &["gfproxy: ", bytes, "Cannot allocate memory"]);
}

#[test]
fn more_memory_than_the_cgroup_allows() {
    // Version 1 and 2, as root with a hierarchy of its own.
    let groups = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(Path::new);
    let files = ["memory.limit_in_bytes", "memory.max"];
    let group = groups.into_iter().zip(files).find_map(|(root, file)| {
        let group = root.join(format!("gfproxy-test-{}", std::process::id()));
        fs::create_dir(&group).ok()?;
        if fs::write(group.join(file), "25165824").is_err() {
            fs::remove_dir(&group).expect("the group that was just made");
            return None;
        }
        Some(group)
    });
    let Some(group) = group else {
        return skipped("no memory cgroup can be made here: it takes root and a writable /sys/fs/cgroup");
    };
    let join = format!("echo $$ > {}/cgroup.procs", group.display());
    let ended = Program::run(&mut limited(&join, &[]));
    // Of a group whose process has just ended the kernel may say that it is busy.
    while fs::remove_dir(&group).is_err() {
        std::thread::yield_now();
    }
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("allows 25165824 bytes"), "{ended:?}");
}

#[test]
fn a_command_socket_that_was_removed_from_under_its_daemon_comes_back() {
    let files = files(&[1000]);
    let mut cache = Cache::start("simplecached_noasan", &files);
    let (path, file) = files.first_key_value().expect("one");
    let (socket, locals) = (cache.socket(), cache.locals());
    let lock = socket.with_extension("lock");
    let aside = locals.with_file_name("aside");
    cache.daemon().until("serves", |_| socket.exists());
    for round in 0..3 {
        if round == 1 {
            fs::remove_file(&lock).expect("the lock");
        }
        if round == 2 {
            fs::rename(&socket, &aside).expect("rename");
        } else {
            fs::remove_file(&socket).expect("the socket");
        }
        let begun = |daemon: &Program| daemon.stderr_so_far().matches("was removed, and is made anew").count();
        cache.daemon().until("is there again", |daemon| begun(daemon) == round + 1 && socket.exists() && lock.exists());
        let mut webproxy =
            Program::start(Command::new(program("webproxy_noasan")).args(["-p", "0", "-S"]).arg(&socket));
        let port = webproxy.port();
        assert_eq!(fetch(port, path), ok(file));
        let mut second = Command::new(program("simplecached_noasan"));
        fails(second.arg("-c").arg(&locals).arg("-S").arg(&socket), &["another simplecached serves this socket"]);
    }
}
