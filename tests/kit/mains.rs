//! The archive under mains that know nothing of it: in the shape of the course kit's, and, where `KIT_DIR` names an
//! unpacked kit (with `server/` and `cache/`), the kit's own mains, objects and client, unmodified.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use crate::fixture::{Cache, files};
use crate::programs::{ERROR, NOT_FOUND, Program, built, fetch, ok, program};
use crate::static_origin::StaticOrigin;

/// Around every boundary: nothing, one byte, one segment of 824 bytes, of 5,712, several, and an odd megabyte.
const SIZES: [usize; 8] = [0, 1, 823, 824, 5712, 65536, 262_145, 1_048_599];

#[derive(Clone, Copy, Debug)]
pub enum Part {
    Origin,
    Cache,
}

/// What is linked with the archive.
#[derive(Clone, Debug)]
pub struct Kit {
    main: PathBuf,
    /// What our main is told of the part; the kit has a main for each.
    defines: &'static [&'static str],
    /// Where its gfserver.h, gfserver.o and gfserver_noasan.o are.
    objects: PathBuf,
    headers: PathBuf,
    steque: Option<PathBuf>,
    client: PathBuf,
}

/// Ours, and the one in `KIT_DIR`.
pub fn kits(part: Part) -> Vec<Kit> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (defines, folder): (&[_], _) = match part {
        Part::Origin => (&["-DHANDLER=handle_with_file", "-DARG=\"arg\""], "server"),
        Part::Cache => (&["-DHANDLER=handle_with_cache", "-DARG=\"data\""], "cache"),
    };
    let ours = Kit {
        main: root.join("tests/c/kit_main.c"),
        defines,
        objects: built("gfserver.o").parent().expect("a directory").to_owned(),
        headers: root.join("include"),
        steque: None,
        client: program("gfclient_download"),
    };
    let theirs = std::env::var_os("KIT_DIR").map(|kit| {
        let kit = fs::canonicalize(kit).expect("KIT_DIR").join(folder);
        Kit {
            main: kit.join("webproxy.c"),
            defines: &[],
            objects: kit.clone(),
            headers: kit.clone(),
            steque: Some(kit.join("steque.c")),
            client: kit.join("gfclient_download"),
        }
    });
    [ours].into_iter().chain(theirs).collect()
}

impl Kit {
    /// Whether its gfserver.o is not ours.
    pub fn is_foreign(&self) -> bool {
        self.steque.is_some()
    }

    /// Links as the kit's Makefile does once `libgfproxy.a` stands in the place of the handler's object: before
    /// gfserver.o, which must win all the same.
    pub fn link(&self, asan: bool, to: &Path) -> PathBuf {
        let target = to.join(if asan { "webproxy" } else { "webproxy_noasan" });
        let object = self.objects.join(if asan { "gfserver.o" } else { "gfserver_noasan.o" });
        let curl = Command::new("pkg-config").args(["--cflags", "--libs", "libcurl"]).output().expect("pkg-config");
        let mut gcc = Command::new("gcc");
        gcc.args(["-Wall", "--std=gnu99", "-g3", "-Werror", "-fPIC", "-I"]).arg(&self.headers).arg("-o").arg(&target);
        gcc.args(self.defines).arg(&self.main).args(&self.steque).arg(built("libgfproxy.a")).arg(object);
        gcc.args(["-lpthread", "-lrt"]).args(String::from_utf8(curl.stdout).expect("UTF-8").split_whitespace());
        if asan {
            gcc.args(["-fsanitize=address", "-fno-omit-frame-pointer", "-static-libasan"]);
        }
        let ended = Program::run(&mut gcc);
        assert!(ended.status.success() && ended.stderr.is_empty(), "{self:?}:\n{}", ended.stderr);
        target
    }
}

/// Runs `webproxy` and fetches every file from it, byte-exact, then one that is missing; ends it with SIGTERM.
fn serves(webproxy: &mut Command, kit: &Kit) {
    let mut webproxy = Program::start(webproxy.args(["-p", "0", "-t", "4"]));
    let port = webproxy.port();
    for (path, file) in files(&SIZES) {
        assert!(fetch(port, &path) == ok(&file), "{path} of {kit:?} differs");
    }
    assert_eq!(fetch(port, "/files/none"), NOT_FOUND);
    downloads(port, kit);
    // The mains exit with the signal's number.
    assert_eq!(webproxy.stop().status.code(), Some(15), "{kit:?}");
}

/// The kit's client fetches the files too, several at once.
fn downloads(port: u16, kit: &Kit) {
    let here = tempfile::tempdir().expect("a directory");
    let workload: Vec<_> = files(&SIZES).into_keys().collect();
    fs::write(here.path().join("workload.txt"), workload.join("\n") + "\n").expect("workload.txt");
    // A copy, since an unpacked kit may have lost its file modes.
    let client = here.path().join("client");
    fs::copy(&kit.client, &client).expect("copy");
    fs::set_permissions(&client, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut client = Command::new(client);
    client.current_dir(here.path()).args(["-s", "127.0.0.1", "-t", "4", "-r", "40", "-w", "workload.txt", "-p"]);
    let ended = Program::run(client.arg(port.to_string()));
    assert!(ended.status.success(), "{ended:?}");
    for (path, file) in files(&SIZES) {
        assert!(fs::read(here.path().join(&path[1..])).expect(&path) == file, "{path} of {kit:?} differs");
    }
}

#[test]
fn part_1_mains_relay_to_the_origin_of_the_environment() {
    let origin = StaticOrigin::start(files(&SIZES));
    for kit in kits(Part::Origin) {
        let to = tempfile::tempdir().expect("a directory");
        for asan in [false, true] {
            serves(Command::new(kit.link(asan, to.path())).env("GFPROXY_ORIGIN", origin.url()), &kit);
        }
    }
}

#[test]
fn part_1_mains_without_an_origin_answer_error() {
    for kit in kits(Part::Origin) {
        let to = tempfile::tempdir().expect("a directory");
        let mut webproxy = Command::new(kit.link(false, to.path()));
        let mut webproxy = Program::start(webproxy.args(["-p", "0"]).env_remove("GFPROXY_ORIGIN"));
        assert_eq!(fetch(webproxy.port(), "/files/1.bin"), ERROR);
        assert!(webproxy.stop().stderr.contains("GFPROXY_ORIGIN"), "the log says what is missing");
    }
}

/// Whose threads block no signals under a provided gfserver, and whose origins announce no length.
#[test]
fn a_body_that_outgrows_the_limit_of_files_is_an_error_and_no_end() {
    let origin = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}", origin.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in origin.incoming() {
            let mut stream = stream.expect("a connection");
            let len = stream.read(&mut [0; 4096]).expect("a request");
            assert!(len > 0);
            // Fails where it is not taken.
            let _ = stream.write_all(&[b"HTTP/1.0 200 OK\r\n\r\n", &[7; 1 << 20][..]].concat());
        }
    });
    for kit in kits(Part::Origin) {
        let to = tempfile::tempdir().expect("a directory");
        let mut sh = Command::new("sh");
        // In blocks of 512 bytes, or of 1024: less than the file has in any case.
        sh.args(["-c", r#"ulimit -f 1000; exec "$0" -p 0"#]).arg(kit.link(false, to.path()));
        sh.env("GFPROXY_ORIGIN", &url).env("GFPROXY_ORIGIN_SPOOL_MEMORY_KB", "10");
        let mut webproxy = Program::start(&mut sh);
        let port = webproxy.port();
        for _ in 0..2 {
            assert_eq!(fetch(port, "/file"), ERROR, "{kit:?}");
        }
        let told = webproxy.stop().stderr;
        assert_eq!(told.matches("File too large").count(), 2, "{kit:?}: {told}");
    }
}

#[test]
fn the_number_of_a_worker_is_no_address() {
    let origin = StaticOrigin::start(files(&SIZES));
    let cache = Cache::start("simplecached_noasan", &files(&SIZES));
    let main = |part, defines| Kit { defines, ..kits(part).remove(0) };
    for kit in [
        // None is one that anybody may read.
        main(Part::Cache, &["-DHANDLER=handle_with_cache", "-DARG=(void *)(long)(i + 1)"]),
        main(Part::Cache, &["-DHANDLER=handle_with_cache", "-DARG=(void *)-1L"]),
        main(Part::Cache, &["-DHANDLER=handle_with_cache", "-DARG=(void *)(12345678L + i)"]),
        main(Part::Origin, &["-DHANDLER=handle_with_curl", "-DARG=(void *)(long)(i + 1)"]),
        main(Part::Origin, &["-DHANDLER=handle_with_curl", "-DARG=NULL"]),
    ] {
        let to = tempfile::tempdir().expect("a directory");
        let mut webproxy = Command::new(kit.link(false, to.path()));
        webproxy.env("GFPROXY_ORIGIN", origin.url()).env("GFPROXY_SOCKET", cache.socket());
        serves(&mut webproxy, &kit);
    }
}

#[test]
fn a_variable_that_cannot_be_used_is_named() {
    let kit = kits(Part::Origin).remove(0);
    let to = tempfile::tempdir().expect("a directory");
    let main = kit.link(false, to.path());
    let number = |from: &str| format!("not a number from {from} to 4294967295");
    let long = "s".repeat(108);
    for (name, value, reason) in [
        ("GFPROXY_STALL_MS", "0", number("1")),
        ("GFPROXY_CACHE_WAIT_MS", "-1", number("0")),
        ("GFPROXY_SEGMENTS", "many", "not a number from 1 to 4096".to_owned()),
        ("GFPROXY_SEGMENT_SIZE", "823", "not a number from 824 to 67108864".to_owned()),
        ("GFPROXY_SEGMENTS", "4096", "with GFPROXY_SEGMENT_SIZE=67108864: ".to_owned()),
        ("GFPROXY_SOCKET", &long, "longer than 107 bytes".to_owned()),
        ("GFPROXY_METRICS", "9301", "not HOST:PORT with a port from 0 to 65535".to_owned()),
        ("GFPROXY_ORIGIN", "ftp://x", "its scheme is ftp".to_owned()),
        // A log is no place for a password.
        ("GFPROXY_ORIGIN", "ftp://me:secret@x", "its scheme is ftp".to_owned()),
        ("GFPROXY_ORIGIN", "me:secret//@x", String::new()),
    ] {
        let mut webproxy = Command::new(&main);
        webproxy.args(["-p", "0"]).env(name, value);
        if value == "4096" {
            webproxy.env("GFPROXY_SEGMENT_SIZE", "67108864");
        }
        let mut webproxy = Program::start(&mut webproxy);
        let (port, begun) = (webproxy.port(), Instant::now());
        for _ in 0..10 {
            assert_eq!(fetch(port, "/files/1.bin"), ERROR);
        }
        // At most once a second, however many ask.
        let most = 2 + begun.elapsed().as_secs() as usize;
        // On a busy disk that may take longer than the end of the process waits for it.
        webproxy.until("says why", |webproxy| !webproxy.stderr_so_far().is_empty());
        let told = webproxy.stop().stderr;
        assert!(told.lines().count() <= most, "{most} lines at most: {told}");
        let shown = value.replace("me:secret@", "***@").replace("me:secret//@", "***@");
        assert!(told.contains(&format!("{name}=\"{shown}\": {reason}")) && !told.contains("secret"), "{told}");
    }
}

#[test]
fn part_2_mains_serve_from_the_cache() {
    let cache = Cache::start("simplecached_noasan", &files(&SIZES));
    for kit in kits(Part::Cache) {
        let to = tempfile::tempdir().expect("a directory");
        for asan in [false, true] {
            let webproxy = kit.link(asan, to.path());
            serves(Command::new(&webproxy).env("GFPROXY_SOCKET", cache.socket()), &kit);
            let mut smallest = Command::new(&webproxy);
            smallest.env("GFPROXY_SEGMENTS", "1").env("GFPROXY_SEGMENT_SIZE", "824");
            serves(smallest.env("GFPROXY_SOCKET", cache.socket()), &kit);
        }
    }
}

#[test]
fn mains_that_are_started_without_standard_descriptors_have_dev_null_there() {
    let origin = StaticOrigin::start(files(&SIZES));
    for kit in kits(Part::Origin) {
        let to = tempfile::tempdir().expect("a directory");
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" -p 0 -t 4 <&- >&- 2>&-"]).arg(kit.link(false, to.path()));
        let mut webproxy = Program::start(
            shell.env("GFPROXY_ORIGIN", origin.url()).env("GFPROXY_LOG", "trace").current_dir(to.path()),
        );
        let port = webproxy.port();
        for (path, file) in files(&SIZES) {
            assert!(fetch(port, &path) == ok(&file), "{path} of {kit:?} differs");
        }
        for number in 0..3 {
            let is = fs::read_link(format!("/proc/{}/fd/{number}", webproxy.pid())).expect("it is open");
            assert_eq!(is, Path::new("/dev/null"), "{number} of {kit:?}");
        }
    }
}
