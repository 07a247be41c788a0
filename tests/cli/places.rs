//! What stands where the command socket, its lock or their directory should be, and whose it is.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use tempfile::TempDir;

use crate::failures::fails;
use crate::fixture::{Cache, files, write_locals};
use crate::programs::{ERROR, Program, fetch, ok, program};

/// Some other user.
const NOBODY: u32 = 65534;

/// False, and the test's output says so, where nobody may give files to another user.
fn is_root(test: &str) -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: {test}: only root can give a file to another user");
    }
    is_root
}

/// A way to put something at a path.
type Make = fn(&Path);

const KINDS: [(&str, Make); 5] = [
    ("a FIFO", |path| mkfifo(path, Mode::S_IRWXU).expect("a FIFO")),
    ("a directory", |path| fs::create_dir(path).expect("a directory")),
    ("a symbolic link", |path| symlink("elsewhere", path).expect("a link")),
    ("a file", |path| fs::write(path, "").expect("a file")),
    ("a socket", |path| drop(UnixListener::bind(path).expect("a socket"))),
];

fn daemon(directory: &Path) -> Command {
    crate::fixture::daemon_command(Command::new(program("simplecached_noasan")), directory)
}

#[test]
fn what_is_no_lock_keeps_nobody_waiting_and_is_named() {
    for (kind, make) in KINDS.into_iter().filter(|(kind, _)| *kind != "a file") {
        let directory = tempfile::tempdir().expect("a directory");
        write_locals(directory.path(), &files(&[1]));
        make(&directory.path().join("socket.lock"));
        let named = format!("socket.lock is {kind} of this user: remove it, or choose another socket");
        fails(&mut daemon(directory.path()), &[&named]);
        assert!(!directory.path().join("elsewhere").exists(), "the link was followed");
    }
}

#[test]
fn what_is_no_socket_is_named() {
    for (kind, make) in KINDS.into_iter().filter(|(kind, _)| *kind != "a socket") {
        let directory = tempfile::tempdir().expect("a directory");
        write_locals(directory.path(), &files(&[1]));
        make(&directory.path().join("socket"));
        fails(&mut daemon(directory.path()), &[&format!("socket: is not a socket but {kind} of this user: remove it")]);
    }
}

#[test]
fn what_is_another_users_is_left_alone_and_named() {
    if !is_root("what_is_another_users_is_left_alone_and_named") {
        return;
    }
    for (kind, make) in KINDS {
        for place in ["socket", "socket.lock"] {
            let directory = tempfile::tempdir().expect("a directory");
            write_locals(directory.path(), &files(&[1]));
            let path = directory.path().join(place);
            make(&path);
            lchown(&path, Some(NOBODY), None).expect("chown");
            fails(
                &mut daemon(directory.path()),
                &[&format!("{kind} of user {NOBODY}"), "remove it, or choose another"],
            );
            assert!(fs::symlink_metadata(&path).is_ok(), "{place}: {kind} was removed");
        }
    }
}

/// It may lead to the socket of another instance of this user's, whose files are not for everybody.
#[test]
fn webproxy_follows_no_symbolic_link_of_another_user() {
    if !is_root("webproxy_follows_no_symbolic_link_of_another_user") {
        return;
    }
    let all = files(&[1]);
    let mut cache = Cache::start("simplecached_noasan", &all);
    let (socket, to) = (cache.socket(), cache.socket().parent().expect("a directory").to_owned());
    cache.daemon().until("listens", |_| socket.exists());
    let directory = tempfile::tempdir().expect("a directory");
    let links = [("link", socket.as_path(), ""), ("directory", &to, "/socket")];
    for (name, leads_to, below) in links {
        let link = directory.path().join(name);
        symlink(leads_to, &link).expect("a link");
        let path = format!("{}{below}", link.display());
        for (owner, expected) in [(None, ok(&all["/files/1.bin"])), (Some(NOBODY), ERROR.to_vec())] {
            lchown(&link, owner, None).expect("chown");
            let mut webproxy = Command::new(program("webproxy_noasan"));
            let mut webproxy = Program::start(webproxy.args(["-p", "0", "--cache-wait-ms", "300", "-S", &path]));
            let port = webproxy.port();
            assert_eq!(fetch(port, "/files/1.bin"), expected, "{name}");
            let told = webproxy.stop().stderr;
            let is_named = told.contains(&format!("is a symbolic link of user {NOBODY}"));
            assert_eq!(is_named, owner.is_some(), "{name}: {told}");
        }
    }
}

/// Programs that see a directory of the test's in the place of /tmp, where the default socket is shared with nobody
/// else.
struct OwnTmp {
    directory: TempDir,
}

impl OwnTmp {
    /// None, and the test's output says why, where the system gives no mount namespace.
    fn new(test: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["simplecached_noasan", "webproxy_noasan"] {
            fs::copy(program(name), directory.path().join(name)).expect("copy");
        }
        fs::write(directory.path().join("file"), "content").expect("file");
        fs::write(directory.path().join("locals.txt"), "/file /tmp/file\n").expect("locals.txt");
        let this = Self { directory };
        let tried = Program::run(&mut this.command("true", &[]));
        if !tried.status.success() {
            eprintln!("SKIPPED: {test}: {}", tried.stderr);
        }
        tried.status.success().then_some(this)
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut unshare = Command::new("unshare");
        unshare.arg("--mount").args((!geteuid().is_root()).then_some("--map-root-user"));
        unshare.args(["sh", "-c", r#"mount --bind "$1" /tmp && cd /tmp && shift && PATH=/tmp:$PATH exec "$@""#, "sh"]);
        unshare.arg(self.directory.path()).arg(name).args(arguments).env_remove("XDG_RUNTIME_DIR");
        unshare
    }

    fn daemon(&self) -> Command {
        self.command("simplecached_noasan", &["-c", "/tmp/locals.txt"])
    }

    /// The default directory, as it is seen from outside. Without root the programs believe to be root.
    fn place(&self) -> std::path::PathBuf {
        self.directory.path().join("gfproxy-0")
    }
}

#[test]
fn the_default_socket_is_in_a_directory_of_the_users_own_where_the_session_has_none() {
    let Some(tmp) = OwnTmp::new("the_default_socket_is_in_a_directory_of_the_users_own") else { return };
    let long = format!("/tmp/{}", "l".repeat(90));
    fs::create_dir(tmp.directory.path().join(&long[5..])).expect("a directory");
    for runtime in [None, Some("/none"), Some("relative"), Some("/tmp/locals.txt"), Some(&long)] {
        let with = |mut command: Command| {
            command.envs(runtime.map(|path| ("XDG_RUNTIME_DIR", path)));
            Program::start(&mut command)
        };
        let (mut daemon, socket) = (with(tmp.daemon()), tmp.place().join("simplecached.sock"));
        daemon.until("listens", |_| socket.exists());
        let mode = fs::metadata(tmp.place()).expect("the directory").permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        let mut webproxy = with(tmp.command("webproxy_noasan", &["-p", "0"]));
        assert_eq!(fetch(webproxy.port(), "/file"), ok(b"content"), "{runtime:?}");
        assert!(webproxy.stop().status.success() && daemon.stop().status.success());
        assert!(!socket.exists());
    }
}

#[test]
fn a_directory_that_is_not_the_users_own_is_named_and_not_used() {
    let Some(tmp) = OwnTmp::new("a_directory_that_is_not_the_users_own_is_named_and_not_used") else { return };
    symlink("/tmp", tmp.place()).expect("a link");
    fails(&mut tmp.daemon(), &["/tmp/gfproxy-0: is a symbolic link of this user: remove it, or choose another"]);
    fs::remove_file(tmp.place()).expect("remove");
    fs::DirBuilder::new().mode(0o777).create(tmp.place()).expect("a directory");
    if is_root("a directory of another user") {
        lchown(tmp.place(), Some(NOBODY), None).expect("chown");
        fails(&mut tmp.daemon(), &[&format!("/tmp/gfproxy-0: is a directory of user {NOBODY}")]);
    }
}
