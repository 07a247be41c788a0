//! Other users of the machine: a daemon serves its own and root, and a client speaks to a daemon of its own and root's.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::process::Command;
use std::thread;

use nix::unistd::Uid;

use crate::channel::client;
use crate::library::Library;
use crate::programs::{Program, skipped};
use crate::roles;
use crate::seqpacket::{Area, Listener, Peer, Sizes, join};

const SIZES: Sizes = Sizes { segments: 2, segment_size: 4096 };
/// Two users that are neither root nor each other. Nobody need have them.
const ONE: u32 = 4001;
const OTHER: u32 = 4002;
const ROOT: u32 = 0;

/// Set in the process that may have threads of other users.
const INSIDE: &str = "GFPROXY_TEST_USERS";

/// Makes the calling thread one of another user, with all of root's rights: what it meets is no file's permission.
#[allow(unsafe_code)]
fn become_user(uid: u32) -> io::Result<()> {
    const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    // SAFETY: plain numbers. The calls themselves, not the C library's, which change all threads.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) != 0
            || libc::syscall(libc::SYS_setresuid, uid, uid, uid) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs `body` in a thread of this user. The threads that it starts are this user's, too.
fn as_user<T: Send>(uid: u32, body: impl FnOnce() -> T + Send) -> T {
    let run = || {
        become_user(uid).expect("another user");
        body()
    };
    thread::scope(|scope| scope.spawn(run).join().expect("a thread of another user"))
}

/// Runs `body`, which is the test of this name, in a process that may have threads of several users: as root, or as the
/// root of a user namespace.
fn with_users(test: &str, body: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        return match thread::spawn(|| become_user(ONE)).join().expect("a thread") {
            Ok(()) => body(),
            Err(error) => skipped(&format!("this process cannot become another user: {error}")),
        };
    }
    let namespace = ["--user", "--map-root-user", "--map-auto"];
    let mut command = if Uid::effective().is_root() {
        Command::new("env")
    } else {
        let ended = Program::run(Command::new("unshare").args(namespace).arg("true"));
        if !ended.status.success() {
            return skipped(&format!("no user namespace with several users: {}", ended.stderr.trim()));
        }
        let mut unshare = Command::new("unshare");
        unshare.args(namespace);
        unshare
    };
    command.arg(env::current_exe().expect("this binary")).args(["--exact", test, "--nocapture"]);
    let ended = Program::run(command.env(INSIDE, "1"));
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    if let Some((_, why)) = ended.stderr.split_once("SKIPPED: ") {
        skipped(why.trim());
    }
}

#[test]
fn a_daemon_refuses_other_users_before_they_say_anything() {
    with_users("users::a_daemon_refuses_other_users_before_they_say_anything", || {
        let library = Library::new(&[1000]);
        let _daemon = as_user(ONE, || roles::daemon(library.directory()));
        for welcome in [ONE, ROOT] {
            as_user(welcome, || join(&library.socket(), &Area::new(SIZES)));
        }
        let peer = as_user(OTHER, || Peer::connect(&library.socket()).expect("connect"));
        let reply = peer.receive().expect("a refusal");
        assert!(String::from_utf8_lossy(&reply).contains("user 4002 is not this daemon's"), "{reply:?}");
        assert_eq!(peer.receive(), None);
    });
}

/// The socket's file is the client's own: who listens is what counts.
#[test]
fn a_client_says_nothing_to_the_daemon_of_another_user() {
    with_users("users::a_client_says_nothing_to_the_daemon_of_another_user", || {
        let library = Library::new(&[]);
        for (daemon, hears_of_it) in [(ONE, false), (OTHER, true), (ROOT, true)] {
            let listener = as_user(daemon, || Listener::bind(&library.socket()));
            chown(library.socket(), Some(OTHER), None).expect("chown");
            let client = as_user(OTHER, || client(&library.socket(), 2, 4096));
            let said = listener.accept().expect("a connection").receive();
            assert_eq!(said.is_some(), hears_of_it, "user {daemon}");
            drop((client, listener));
            fs::remove_file(library.socket()).expect("unlink");
        }
    });
}
