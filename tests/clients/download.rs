//! `gfclient_download` against a server that answers well, badly and not at all.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::getfile_client::{DOWNLOAD, Ended, MEASURE, directory, names, run};
use crate::getfile_server::{GetfileServer, Step, file};
use crate::programs::program;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket};
use nix::unistd::Pid;
use tempfile::TempDir;

/// One request for `path` in a fresh directory that is then handed to `check`.
fn one(server: &GetfileServer, path: &str, options: &[&str], check: impl FnOnce(Ended, &Path)) {
    let place = directory(&[path.as_bytes()]);
    let port = server.port();
    let arguments = [&["-s", "127.0.0.1", "-p", &port, "-r", "1"], options].concat();
    check(run(DOWNLOAD, place.path(), &arguments), place.path());
}

/// One request that must fail with exactly `error` and leave nothing behind.
fn fails(steps: Vec<Step>, error: &str) {
    fails_with(&[], steps, error);
}

/// The same where the server falls silent for longer than the client waits.
fn fails_in_silence(steps: Vec<Step>, error: &str) {
    fails_with(
        &["--read-timeout", "2"],
        [steps, vec![Step::Hold]].concat(),
        &format!("{error}: the server was silent for 2s"),
    );
}

fn fails_with(options: &[&str], steps: Vec<Step>, error: &str) {
    let server = GetfileServer::start([("/d/file", steps)]);
    one(&server, "/d/file", options, |ended, place| {
        assert_eq!(ended.one_line(), format!("gfclient_download: /d/file: {error}"));
        assert_eq!(ended.status, 1);
        assert!(ended.stdout.starts_with("0 of 1 requests served, 0 bytes"), "{}", ended.stdout);
        assert!(!place.join("d").exists() || names(&place.join("d")).is_empty(), "nothing may be left behind");
    });
}

fn send(bytes: &[u8]) -> Step {
    Step::Send(bytes.to_vec())
}

#[test]
fn files_of_every_kind_arrive_byte_for_byte_at_their_paths() {
    let binary: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let server = GetfileServer::start([("/a/b/c.bin", file(&binary)), ("/empty", file(b"")), ("/one", file(b"\n"))]);
    let place = directory(&[b"/a/b/c.bin", b"/empty", b"/one"]);
    let ended = run(DOWNLOAD, place.path(), &["-p", &server.port(), "-r", "3"]);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
    assert!(ended.stdout.starts_with("3 of 3 requests served, 300001 bytes"), "{}", ended.stdout);
    assert!(fs::read(place.path().join("a/b/c.bin")).unwrap() == binary);
    assert_eq!(fs::read(place.path().join("empty")).unwrap(), b"");
    assert_eq!(fs::read(place.path().join("one")).unwrap(), b"\n");
    assert_eq!(names(place.path()), ["a", "empty", "one"]);
    assert_eq!(names(&place.path().join("a/b")), ["c.bin"]);
    let mode = fs::metadata(place.path().join("one")).unwrap().permissions().mode();
    assert_eq!(
        mode & 0o444 & !umask(),
        0o444 & !umask(),
        "readable as far as the umask allows, not for the owner alone"
    );
}

fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(line.trim(), 8).unwrap()
}

#[test]
fn requests_go_round_the_workload_from_its_second_path_on() {
    let server = GetfileServer::start([("/a", file(b"A")), ("/b", file(b"B")), ("/c", file(b"C"))]);
    let place = directory(&[b"/a /b", b"", b"\t/c\r"]);
    let ended = run(DOWNLOAD, place.path(), &["-p", &server.port(), "-r", "2", "--rounds", "2"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    let expected = ["b", "c", "a", "b"].map(|path| format!("GETFILE GET /{path}\r\n\r\n").into_bytes());
    assert_eq!(server.requests(), expected);
}

#[test]
fn many_threads_share_the_requests_and_may_fetch_the_same_file_at_once() {
    let body = vec![b'x'; 1_000_000];
    let server = GetfileServer::start([("/same", file(&body))]);
    let place = directory(&[b"/same"]);
    let ended = run(DOWNLOAD, place.path(), &["-p", &server.port(), "-t", "100", "-r", "150"]);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
    assert_eq!(server.requests().len(), 150);
    assert!(fs::read(place.path().join("same")).unwrap() == body);
    assert_eq!(names(place.path()), ["same"]);
}

#[test]
fn an_answer_may_be_split_at_every_byte_of_its_header() {
    const ANSWERS: [(&str, &[u8], i32); 3] = [
        ("/ok", b"GETFILE OK 5 hello", 0),
        ("/missing", b"GETFILE FILE_NOT_FOUND 0\n", 1),
        ("/error", b"GETFILE ERROR 0\n", 1),
    ];
    for (path, answer, status) in ANSWERS {
        for split in 1..answer.len() {
            let steps = vec![send(&answer[..split]), Step::Drained, send(&answer[split..]), Step::Hold];
            let server = GetfileServer::start([(path, steps)]);
            one(&server, path, &[], |ended, place| {
                assert_eq!(ended.status, status, "split at {split}: {ended:?}");
                if status == 0 {
                    assert_eq!(fs::read(place.join("ok")).unwrap(), b"hello", "split at {split}");
                }
            });
        }
        let bytes = answer.iter().flat_map(|&byte| [send(&[byte]), Step::Drained]);
        let server = GetfileServer::start([(path, bytes.chain([Step::Hold]).collect())]);
        one(&server, path, &[], |ended, _| assert_eq!(ended.status, status, "{ended:?}"));
    }
}

#[test]
fn refusals_are_reported_by_name() {
    fails(vec![send(b"GETFILE FILE_NOT_FOUND 0\n"), Step::Hold], "FILE_NOT_FOUND");
    fails(vec![send(b"GETFILE ERROR 0\n")], "ERROR");
}

#[test]
fn a_short_file_is_an_error_that_names_got_and_expected() {
    let short = "short file: got 3 of 100 bytes: ";
    fails(vec![send(b"GETFILE OK 100 abc")], &format!("{short}the server closed the connection"));
    let reset = vec![send(b"GETFILE OK 100 abc"), Step::Drained, Step::Reset];
    fails(reset, &format!("{short}Connection reset by peer (os error 104)"));
    fails_in_silence(vec![send(b"GETFILE OK 100 abc")], "short file: got 3 of 100 bytes");
    fails(vec![send(b"GETFILE OK 1 ")], "short file: got 0 of 1 bytes: the server closed the connection");
}

#[test]
fn a_file_cut_short_does_not_replace_a_whole_one() {
    let server = GetfileServer::start([("/file", vec![send(b"GETFILE OK 100 abc")])]);
    let place = directory(&[b"/file"]);
    fs::write(place.path().join("file"), "from before").unwrap();
    let ended = run(DOWNLOAD, place.path(), &["-p", &server.port(), "-r", "1"]);
    assert_eq!(ended.status, 1);
    assert_eq!(fs::read(place.path().join("file")).unwrap(), b"from before");
    assert_eq!(names(place.path()), ["file"]);
}

#[test]
fn more_than_the_announced_length_is_an_error() {
    let long = |expected| format!("long file: the server sent more than the {expected} bytes that it announced");
    fails(vec![send(b"GETFILE OK 3 abcd"), Step::Hold], &long(3));
    fails(vec![send(b"GETFILE OK 3 abc"), Step::Drained, send(b"GETFILE ERROR 0\n"), Step::Hold], &long(3));
    fails(vec![send(b"GETFILE OK 0 x"), Step::Hold], &long(0));
}

#[test]
fn a_whole_file_stays_whole_however_its_connection_ends() {
    for ending in [vec![], vec![Step::Drained, Step::Reset], vec![Step::Hold]] {
        let server = GetfileServer::start([("/f", [vec![send(b"GETFILE OK 3 abc")], ending].concat())]);
        one(&server, "/f", &[], |ended, place| {
            assert_eq!(ended.status, 0, "{ended:?}");
            assert_eq!(fs::read(place.join("f")).unwrap(), b"abc");
        });
    }
}

#[test]
fn no_answer_is_an_error_and_never_a_hang() {
    fails(vec![], "no answer: the server closed the connection");
    fails(vec![send(b"GETFILE O")], "no answer: the server closed the connection");
    fails(vec![Step::Reset], "no answer: Connection reset by peer (os error 104)");
    fails_in_silence(vec![], "no answer");
    fails_in_silence(vec![send(b"GETFILE OK 12")], "no answer");
}

#[test]
fn what_is_no_getfile_answer_is_refused() {
    fails(vec![send(b"HTTP/1.1 400 Bad Request\r\n\r\n")], "malformed answer: it does not begin with GETFILE");
    let status = "malformed answer: its status is none of OK, FILE_NOT_FOUND and ERROR";
    fails(vec![send(b"GETFILE INVALID 0\n")], status);
    fails(vec![send(&[b'x'; 100_000])], "malformed answer: it does not begin with GETFILE");
    let length = "malformed answer: its length is not a number followed by one space";
    fails(vec![send(b"GETFILE OK -1 ")], length);
    fails(vec![send(b"GETFILE OK 99999999999999999999 abc")], length);
}

#[test]
fn paths_that_are_no_files_below_the_current_directory_never_reach_the_server() {
    let server = GetfileServer::start([("/fine", file(b"x"))]);
    let refused: [&[u8]; 8] = [b"/..", b"/../x", b"/a/../../x", b"/a/..", b"/", b"/a/", b"/a/.", b"/nul\0"];
    let place = directory(&[&[b"/fine" as &[u8]], &refused[..]].concat());
    let ended = run(DOWNLOAD, place.path(), &["-p", &server.port(), "-r", "9"]);
    assert_eq!(ended.status, 1);
    assert_eq!(ended.stderr.lines().count(), refused.len(), "{}", ended.stderr);
    assert!(ended.stderr.contains("/a/../../x: refused: .. could leave the current directory\n"), "{}", ended.stderr);
    assert!(ended.stderr.contains("/a/: refused: it names a directory, not a file\n"), "{}", ended.stderr);
    assert!(ended.stderr.contains("/nul\\x00: refused: a file name cannot hold a NUL byte\n"), "{}", ended.stderr);
    assert!(ended.stdout.starts_with("1 of 9 requests served"), "{}", ended.stdout);
    assert_eq!(server.requests(), [b"GETFILE GET /fine\r\n\r\n"]);
    assert_eq!(names(place.path()), ["fine"]);
}

#[test]
fn paths_are_bytes_of_any_value_and_long() {
    let long = "/".to_owned() + &"n".repeat(255);
    let deep = format!("/{}/f", ["d"; 500].join("/"));
    let server = GetfileServer::start([(&long, file(b"L")), (&deep, file(b"D")), ("//twice//slashed", file(b"S"))]);
    let place = directory(&[long.as_bytes(), deep.as_bytes(), b"//twice//slashed"]);
    let ended = run(DOWNLOAD, place.path(), &["-p", &server.port(), "-r", "3"]);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
    assert_eq!(fs::read(place.path().join(&long[1..])).unwrap(), b"L");
    assert_eq!(fs::read(place.path().join(&deep[1..])).unwrap(), b"D");
    assert_eq!(fs::read(place.path().join("twice/slashed")).unwrap(), b"S");

    let place = directory(&[b"/\xff\x1b"]);
    let ended = run(DOWNLOAD, place.path(), &["-p", &server.port(), "-r", "1"]);
    assert_eq!(server.requests()[3], b"GETFILE GET /\xff\x1b\r\n\r\n");
    assert!(ended.one_line().starts_with("gfclient_download: /\\xff\\x1b: no answer"), "{}", ended.stderr);
}

#[test]
fn a_file_name_of_any_bytes_is_written() {
    // No script fits a path that is not UTF-8, so the server is a plain one here.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let place = directory(&[b"/\xfe"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 19];
            std::io::Read::read_exact(&mut stream, &mut request[..b"GETFILE GET /\xfe\r\n\r\n".len()]).unwrap();
            std::io::Write::write_all(&mut stream, b"GETFILE OK 1 x").unwrap();
        });
        assert_eq!(run(DOWNLOAD, place.path(), &["-p", &port, "-r", "1"]).status, 0);
    });
    assert_eq!(fs::read(place.path().join(std::ffi::OsStr::from_bytes(b"\xfe"))).unwrap(), b"x");
}

#[test]
fn a_file_that_cannot_be_written_fails_by_name_and_the_others_arrive() {
    let overlong = "/".to_owned() + &"n".repeat(256);
    let server = GetfileServer::start([("/f/x", file(b"x")), (&overlong, file(b"x")), ("/good", file(b"x"))]);
    let place = directory(&[b"/f/x", overlong.as_bytes(), b"/good"]);
    fs::write(place.path().join("f"), "in the way").unwrap();
    let ended = run(DOWNLOAD, place.path(), &["-p", &server.port(), "-r", "3"]);
    assert_eq!(ended.status, 1);
    assert!(ended.stderr.contains("/f/x: cannot write f/x: "), "{}", ended.stderr);
    assert!(ended.stderr.contains("nnn: File name too long"), "{}", ended.stderr);
    assert_eq!(names(place.path()), ["f", "good"]);
}

/// A client of `server` in the middle of as many downloads as it has threads.
struct Begun {
    place: TempDir,
    client: Child,
}

impl Begun {
    /// `d/file` is there from before. `command` becomes the client once it has its options.
    fn start(mut command: Command, server: &GetfileServer, threads: usize) -> Self {
        let place = directory(&[b"/d/file"]);
        fs::create_dir(place.path().join("d")).unwrap();
        fs::write(place.path().join("d/file"), "old").unwrap();
        let threads = threads.to_string();
        command.current_dir(place.path()).args([
            "-s",
            "127.0.0.1",
            "-p",
            &server.port(),
            "-t",
            &threads,
            "-r",
            &threads,
        ]);
        Self { client: command.spawn().expect(DOWNLOAD), place }
    }

    /// Waits until the client has written to `count` files.
    fn until_begun(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.open_files() < count {
            assert!(Instant::now() < deadline, "not all of {count} began");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The files with bytes in them that the client has open below `d`, whether they have a name or not.
    fn open_files(&self) -> usize {
        let directory = self.place.path().join("d");
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.client.id())).into_iter().flatten();
        let paths = descriptors.filter_map(|entry| Some(entry.ok()?.path()));
        let ours = paths.filter(|path| fs::read_link(path).is_ok_and(|link| link.starts_with(&directory)));
        ours.filter(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0)).count()
    }

    /// How the client ends by `signal`; nothing but the older file is left, as it was.
    fn end(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.client.id().cast_signed()), signal).expect("kill");
        let status = self.client.wait().expect("wait");
        assert_eq!(names(&self.place.path().join("d")), ["file"], "{signal}");
        assert_eq!(fs::read(self.place.path().join("d/file")).unwrap(), b"old");
        status
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Fails where it has ended.
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

fn part() -> GetfileServer {
    GetfileServer::start([("/d/file", vec![Step::Send(b"GETFILE OK 100 part".to_vec()), Step::Hold])])
}

/// A client to which the file system, or the system, refuses `call`.
fn refusing(call: &str) -> Command {
    static SHIM: LazyLock<PathBuf> = LazyLock::new(|| {
        let shim = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("refuse-{}.so", process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/refuse.c");
        let mut gcc = Command::new("gcc");
        gcc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&shim).arg(source);
        assert!(gcc.arg("-ldl").status().expect("gcc").success());
        shim
    });
    let mut client = Command::new(program(DOWNLOAD));
    client.env("LD_PRELOAD", &*SHIM).env("REFUSE", call);
    client
}

/// Not even SIGKILL: the file has no name before it is whole.
#[test]
fn no_signal_leaves_a_part_of_a_file() {
    let server = part();
    for signal in [Signal::SIGKILL, Signal::SIGSYS, Signal::SIGTERM, Signal::SIGQUIT] {
        let begun = Begun::start(Command::new(program(DOWNLOAD)), &server, 4);
        begun.until_begun(4);
        let status = begun.end(signal);
        assert_eq!(status.signal(), Some(signal as i32), "{status}");
    }
}

#[test]
fn where_files_need_names_the_signals_that_can_be_caught_leave_none() {
    use Signal::{SIGABRT, SIGALRM, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU};
    let server = part();
    let signals = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU, SIGALRM, SIGVTALRM, SIGPROF, SIGUSR1, SIGUSR2, SIGABRT];
    for signal in signals {
        let begun = Begun::start(refusing("tmpfile"), &server, 4);
        begun.until_begun(4);
        assert_eq!(names(&begun.place.path().join("d")).len(), 5, "{signal}: each has a name");
        let status = begun.end(signal);
        assert_eq!(status.signal(), Some(signal as i32), "{status}");
    }
}

/// As nohup(1) makes it, and a shell without job control for what it starts with `&`: the download goes on.
#[test]
fn an_ignored_signal_ends_no_download() {
    let server = part();
    let mut sh = Command::new("sh");
    sh.args(["-c", r#"trap '' INT HUP; exec "$0" "$@""#]).arg(program(DOWNLOAD));
    let mut begun = Begun::start(sh, &server, 1);
    begun.until_begun(1);
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        kill(Pid::from_raw(begun.client.id().cast_signed()), signal).expect("kill");
    }
    // Nothing happens; what would, would at once.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(200) {
        assert!(begun.open_files() == 1 && begun.client.try_wait().expect("wait").is_none(), "it was ended");
    }
    let status = begun.end(Signal::SIGTERM);
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32), "{status}");
}

/// A quota over a network may be told of when the file is synchronised or closed, and not before.
#[test]
fn a_file_that_the_system_does_not_take_whole_gets_no_name() {
    let server = GetfileServer::start([("/new", file(b"new")), ("/old", file(b"new"))]);
    for call in ["fsync", "close"] {
        let place = directory(&[b"/new", b"/old"]);
        fs::write(place.path().join("old"), "old").unwrap();
        let mut client = refusing(call);
        client.current_dir(place.path()).args(["-s", "127.0.0.1", "-p", &server.port(), "-r", "2"]);
        let output = client.output().expect(DOWNLOAD);
        let told = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{call}: {told}");
        assert_eq!(told.matches(": Disk quota exceeded").count(), 2, "{call}: {told}");
        assert_eq!(names(place.path()), ["old"], "{call}");
        assert_eq!(fs::read(place.path().join("old")).unwrap(), b"old");
    }
}

#[test]
fn files_are_whole_and_get_their_names_where_they_need_one_from_the_start() {
    let server = GetfileServer::start([("/d/new", file(b"new")), ("/old", file(b"new"))]);
    let place = directory(&[b"/d/new", b"/old"]);
    fs::write(place.path().join("old"), "old").unwrap();
    let mut client = refusing("tmpfile");
    client.current_dir(place.path()).args(["-s", "127.0.0.1", "-p", &server.port(), "-r", "2"]);
    assert!(client.status().expect(DOWNLOAD).success());
    assert_eq!(
        (names(place.path()), names(&place.path().join("d"))),
        (vec!["d".into(), "old".into()], vec!["new".into()])
    );
    assert_eq!(fs::read(place.path().join("old")).unwrap(), b"new");
}

#[test]
fn a_file_that_outgrows_the_limit_of_the_shell_is_named_and_leaves_nothing() {
    let server = GetfileServer::start([("/large", file(&[7; 100_000])), ("/small", file(b"small"))]);
    for program in [DOWNLOAD, MEASURE] {
        let place = directory(&[b"/large", b"/small"]);
        // In blocks of 512 bytes.
        let limited = r#"ulimit -f 100; exec "$0" "$@""#;
        let rounds = if program == MEASURE { "5000" } else { "1" };
        let path = self::program(program);
        let path = path.to_str().expect("UTF-8");
        let ended =
            run("sh", place.path(), &["-c", limited, path, "-p", &server.port(), "-r", "2", "--rounds", rounds]);
        assert_eq!(ended.status, 1, "{program}");
        assert!(ended.stderr.contains(": File too large"), "{program}: {}", ended.stderr);
        let left = if program == MEASURE { ["metrics.txt"] } else { ["small"] };
        assert_eq!(names(place.path()), left, "{program}");
    }
}

#[test]
fn ipv6_and_names_reach_the_server() {
    let server = GetfileServer::start_on(TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap(), [("/f", file(b"six"))]);
    for address in ["::1", "[::1]", "localhost"] {
        let place = directory(&[b"/f"]);
        let ended = run(DOWNLOAD, place.path(), &["-s", address, "-p", &server.port(), "-r", "1"]);
        if address != "localhost" || ended.status == 0 {
            assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{address}");
            assert_eq!(fs::read(place.path().join("f")).unwrap(), b"six");
        }
    }
}

#[test]
fn a_server_that_refuses_connections_is_waited_for_so_long_and_not_longer() {
    // Bound and not listening: the port is this test's own, and refuses connections.
    let bound = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(bound.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let port = getsockname::<SockaddrIn>(bound.as_raw_fd()).unwrap().port().to_string();
    let place = directory(&[b"/f"]);
    let arguments = |limit| ["-s", "127.0.0.1", "-p", &port, "-r", "1", "--refused-timeout", limit];
    let ended = run(DOWNLOAD, place.path(), &arguments("0"));
    assert_eq!(ended.status, 1);
    let line = format!("gfclient_download: /f: cannot connect to 127.0.0.1:{port}: Connection refused (os error 111)");
    assert_eq!(ended.one_line(), line);

    std::thread::scope(|scope| {
        let client = scope.spawn(|| run(DOWNLOAD, place.path(), &arguments("60")));
        listen(&bound, Backlog::new(16).unwrap()).unwrap();
        let server = GetfileServer::start_on(TcpListener::from(bound), [("/f", file(b"late"))]);
        let ended = client.join().unwrap();
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
        drop(server);
    });
    assert_eq!(fs::read(place.path().join("f")).unwrap(), b"late");
}
