//! Files on an overlay, on ext4, tmpfs and FUSE, each mounted for its test in a mount namespace of its own: every
//! change shows in the next answer.

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, io, slice, thread};

use nix::sys::mman::{self, MapFlags, MmapAdvise, ProtFlags};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use tempfile::TempDir;

use crate::pair::{Pair, replace};
use crate::programs::{ERROR, NOT_FOUND, Program, ok, program};
use crate::scrape::{address, series};

/// Set for the part of a test that may mount.
const INSIDE: &str = "GFPROXY_TEST_MAY_MOUNT";

/// Says so where a test cannot do what it is for, past the harness, which keeps what passing tests print.
fn skip(name: &str, reason: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED {name}: {reason}");
}

/// Runs `body` in a mount namespace, as root or in a user namespace, with a tmpfs of its own.
fn where_it_may_mount(name: &str, body: impl FnOnce(&Path) -> Result<(), String>) {
    let name = format!("file_systems::{name}");
    if env::var_os(INSIDE).is_some() {
        let here = tempfile::tempdir().expect("a directory");
        let mounted = mount(&["-t", "tmpfs", "tmpfs"], here.path());
        if let Err(reason) = mounted.and_then(|()| body(here.path())) {
            skip(&name, &reason);
        }
        Command::new("umount").args(["-R", "-l"]).arg(here.path()).status().expect("umount");
        return;
    }
    let mut unshare = Command::new("unshare");
    unshare.args(if Uid::effective().is_root() { &["-m"][..] } else { &["-r", "-m"] });
    if !unshare.arg("true").output().is_ok_and(|tried| tried.status.success()) {
        return skip(&name, "unshare(1) is not there, or makes no mount namespace for this user");
    }
    let mut unshare = Command::new("unshare");
    unshare.args(if Uid::effective().is_root() { &["-m"][..] } else { &["-r", "-m"] });
    unshare.arg(env::current_exe().expect("this program")).args([&name, "--exact", "--nocapture"]).env(INSIDE, "1");
    let status = unshare.status().expect("it was there just now");
    assert!(status.success(), "{name}: see above");
}

/// Mounts a directory on another through a program; `name` is in it.
fn bind(below: &Path, at: &Path, name: &str) -> Result<Program, String> {
    if File::options().read(true).write(true).open("/dev/fuse").is_err() {
        return Err("this user may not open /dev/fuse".to_owned());
    }
    run(Command::new("bindfs").arg("--version"))?;
    let mut bindfs = Program::start(Command::new("bindfs").arg("-f").args([below, at]));
    bindfs.until("mounts", |_| fs::symlink_metadata(at.join(name)).is_ok());
    Ok(bindfs)
}

fn run(command: &mut Command) -> Result<(), String> {
    let ended = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let told = String::from_utf8_lossy(&ended.stderr);
    if ended.status.success() { Ok(()) } else { Err(format!("{command:?}: {told}")) }
}

fn mount(options: &[&str], at: &Path) -> Result<(), String> {
    run(Command::new("mount").args(options).arg(at))
}

/// What the changes below are made of; old enough for the first answer not to wait.
fn fill(directory: &Path) {
    for name in ["replaced", "removed", "written", "restored", "named", "turned", "moved", "covered"] {
        fs::create_dir_all(directory.join(name)).expect("a directory");
        fs::write(directory.join(name).join("file"), "old").expect("a file");
    }
    fs::hard_link(directory.join("named/file"), directory.join("named/other")).expect("a link");
    symlink("turned/file", directory.join("link")).expect("a link");
}

/// Changes files in each way. Says how often webproxy has looked for itself.
fn every_change_shows_at_once(directory: &Path) -> f64 {
    let keys = ["replaced", "removed", "written", "restored", "named", "moved", "covered"];
    let mut locals = format!("/turned {}/link\n", directory.display());
    for key in keys {
        locals += &format!("/{key} {}/{key}/file\n", directory.display());
    }
    let mut proxy = Command::new(program("webproxy_noasan"));
    proxy.args(["-v", "--metrics", "127.0.0.1:0"]);
    let daemon = Command::new(program("simplecached_noasan"));
    let mut pair = Pair::start_with(TempDir::new().expect("a directory"), locals, daemon, proxy);
    let proxy = address(&mut pair.proxy);
    let at = |name: &str| directory.join(name);
    let check = |key: &str, before: &[u8], change: &dyn Fn(), after: &[u8]| {
        (0..10).for_each(|_| assert_eq!(pair.fetch(key), ok(before), "{key} before its change"));
        change();
        (0..10).for_each(|_| assert_eq!(pair.fetch(key), after, "{key} after its change"));
    };
    // Of what was below an overlay before, and of what was made in it.
    for (before, content) in [(&b"old"[..], "new"), (b"new", "NEW")] {
        let new = ok(content.as_bytes());
        check("/replaced", before, &|| replace(&at("replaced/file"), content), &new);
        check("/written", before, &|| fs::write(at("written/file"), content).expect("write"), &new);
        check("/restored", before, &|| write_and_set_back(&at("restored/file"), content), &new);
        check("/named", before, &|| replace(&at("named/file"), content), &new);
        check("/turned", before, &|| turn(&at("link"), &at("turned"), content), &new);
        check("/moved", before, &|| replace_directory(&at("moved"), content), &new);
        check("/removed", before, &|| fs::remove_file(at("removed/file")).expect("remove"), NOT_FOUND);
        check_back(&pair, &at("removed/file"), content);
    }
    let cover = || {
        mount(&["-t", "tmpfs", "tmpfs"], &at("covered")).expect("a second tmpfs");
        fs::write(at("covered/file"), "another file system's").expect("write");
    };
    check("/covered", b"old", &cover, &ok(b"another file system's"));
    run(Command::new("umount").arg("-l").arg(at("covered"))).expect("umount");
    assert_eq!(pair.fetch("/covered"), ok(b"old"));
    series(&proxy)["gfproxy_cache_reuses_total"]
}

fn check_back(pair: &Pair, path: &Path, content: &str) {
    fs::write(path, content).expect("write");
    assert_eq!(pair.fetch("/removed"), ok(content.as_bytes()));
}

fn write_and_set_back(path: &Path, content: &str) {
    let file = File::options().write(true).open(path).expect("it is there");
    let modified = file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
    file.write_all_at(content.as_bytes(), 0).expect("write");
    file.set_modified(modified).expect("utimes");
}

/// Lets a link lead to another file, while the one before keeps its name.
fn turn(link: &Path, directory: &Path, content: &str) {
    fs::write(directory.join(content), content).expect("write");
    symlink(directory.join(content), link.with_extension("new")).expect("a link");
    fs::rename(link.with_extension("new"), link).expect("rename");
}

/// Puts a directory in the place of another, which is kept. Rather by copies: an overlay renames none from below.
fn replace_directory(directory: &Path, content: &str) {
    let (new, old) = (directory.with_extension("new"), directory.with_extension(content));
    fs::create_dir(&new).and_then(|()| fs::write(new.join("file"), content)).expect("a directory");
    run(Command::new("mv").arg(directory).arg(old)).expect("mv");
    fs::rename(new, directory).expect("rename");
}

#[test]
fn every_change_shows_at_once_on_an_overlay() {
    where_it_may_mount("every_change_shows_at_once_on_an_overlay", |here| {
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(here.join(name)).expect("a directory");
        }
        fill(&here.join("lower"));
        let at = here.display();
        let options = format!("lowerdir={at}/lower,upperdir={at}/upper,workdir={at}/work");
        mount(&["-t", "overlay", "overlay", "-o", &options], &here.join("merged"))?;
        assert!(every_change_shows_at_once(&here.join("merged")) > 0.0, "webproxy looks for itself");
        Ok(())
    });
}

#[test]
fn every_change_shows_at_once_on_tmpfs() {
    where_it_may_mount("every_change_shows_at_once_on_tmpfs", |here| {
        fill(here);
        assert!(every_change_shows_at_once(here) > 0.0, "webproxy looks for itself");
        Ok(())
    });
}

#[test]
fn every_change_shows_at_once_on_ext4() {
    where_it_may_mount("every_change_shows_at_once_on_ext4", |here| {
        let (image, at) = (here.join("image"), here.join("ext4"));
        File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("an image");
        fs::create_dir(&at).expect("a directory");
        run(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        mount(&["-o", "loop", &image.display().to_string()], &at)?;
        fill(&at);
        assert!(every_change_shows_at_once(&at) > 0.0, "webproxy looks for itself");
        Ok(())
    });
}

#[test]
fn on_fuse_every_change_shows_and_the_daemon_is_asked_and_a_dead_program_is_no_missing_file() {
    let name = "on_fuse_every_change_shows_and_the_daemon_is_asked_and_a_dead_program_is_no_missing_file";
    where_it_may_mount(name, |here| {
        let (below, at) = (here.join("below"), here.join("fuse"));
        fs::create_dir(&below).and_then(|()| fs::create_dir(&at)).expect("directories");
        fill(&below);
        let bindfs = bind(&below, &at, "link")?;
        assert_eq!(every_change_shows_at_once(&at), 0.0, "a look may wait for bindfs");
        let pair = Pair::start(TempDir::new().expect("a directory"), format!("/file {}/written/file\n", at.display()));
        drop(bindfs);
        assert_eq!(pair.fetch("/file"), ERROR, "ENOTCONN");
        Ok(())
    });
}

const HALF: usize = 4 << 20;

/// The bytes of a file, of which the first half is in memory.
#[allow(unsafe_code)]
fn map_half(file: &File) -> &'static [u8] {
    let (len, none) = (NonZeroUsize::new(2 * HALF).expect("not zero"), MapFlags::MAP_SHARED);
    // SAFETY: a fresh mapping of a file that nobody changes or truncates, never unmapped.
    let bytes: &[u8] = unsafe {
        let at = mman::mmap(None, len, ProtFlags::PROT_READ, none, file, 0).expect("mmap");
        mman::madvise(at, len.get(), MmapAdvise::MADV_RANDOM).expect("madvise");
        slice::from_raw_parts(at.as_ptr().cast(), len.get())
    };
    assert!(bytes[..HALF].iter().all(|&byte| byte == b'n'));
    bytes
}

#[test]
fn a_file_in_the_middle_of_a_write_is_waited_for_by_one_request() {
    where_it_may_mount("a_file_in_the_middle_of_a_write_is_waited_for_by_one_request", |here| {
        let (below, at, path) = (here.join("below"), here.join("fuse"), here.join("written"));
        fs::create_dir(&below).and_then(|()| fs::create_dir(&at)).expect("directories");
        fs::write(below.join("source"), vec![b'n'; 2 * HALF]).expect("a file");
        fs::write(&path, vec![b'o'; 2 * HALF]).expect("a file");
        let bindfs = bind(&below, &at, "source")?;
        let source = map_half(&File::open(at.join("source")).expect("open"));
        let locals = format!("/written {}\n/other /etc/passwd\n", path.display());
        let daemon = Command::new(program("simplecached_noasan"));
        let proxy = Command::new(program("webproxy_noasan"));
        let pair = Pair::start_with(TempDir::new().expect("a directory"), locals, daemon, proxy);
        let [old, new] = [b'o', b'n'].map(|byte| ok(&vec![byte; 2 * HALF]));
        assert!(pair.fetch("/written") == old);
        // From here on a write from the source stops in the middle.
        bindfs.freeze();
        let target = File::options().read(true).write(true).open(&path).expect("it is there");
        thread::scope(|scope| {
            let writing = scope.spawn(|| target.write_all_at(source, 0).expect("write"));
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut last = [0];
            while last != *b"n" {
                target.read_exact_at(&mut last, HALF as u64 - 1).expect("read");
                assert!(Instant::now() < deadline, "nothing is written");
            }
            let (answers, answer) = mpsc::channel();
            for answers in [answers.clone(), answers] {
                let pair = &pair;
                scope.spawn(move || answers.send(pair.fetch("/written")));
            }
            // One of them waits, whichever came first.
            let first = answer.recv().expect("an answer");
            let other = pair.fetch("/other");
            bindfs.signal(Signal::SIGCONT);
            writing.join().expect("no panic");
            assert!(first == ERROR, "an answer before the write was over");
            assert_ne!(other, ERROR);
            assert!(answer.recv().expect("an answer") == new);
        });
        Ok(())
    });
}
