//! Downloads the files of a workload from a GETFILE server into the current directory.

mod support;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::thread;

use clap::Parser;
use getfile::{Client, FetchError};
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::unistd::linkat;
use parking_lot::Mutex;
use support::{CommonOptions, Run, options};
use tempfile::{NamedTempFile, TempPath};

/// Of a new file, less the umask.
const MODE: u32 = 0o666;

/// Download files from a GETFILE server; each lands under the current directory at its own path.
#[derive(Parser, Debug)]
#[command(name = "gfclient_download", version, args_override_self = true, infer_long_args = true)]
struct Options {
    #[command(flatten)]
    common: CommonOptions,
}

fn main() -> ExitCode {
    let options: Options = match options::parse(std::env::args_os()) {
        Ok(options) => options,
        Err(status) => return status,
    };
    if let Err(error) = clean_up_on_signals() {
        support::complain(format_args!("cannot start a thread: {error}"));
        return ExitCode::FAILURE;
    }
    let status = Run::prepare(&options.common).and_then(|run| run.execute(download));
    status.unwrap_or_else(|error| {
        support::complain(error);
        ExitCode::FAILURE
    })
}

#[derive(Debug, thiserror::Error)]
enum DownloadError {
    #[error("{0}")]
    Path(&'static str),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("cannot write {}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
}

/// Fetches one file. It gets its name only when all of it is on disk, so what stands under a name is whole, also where
/// several threads fetch the same path at once.
fn download(client: &Client, path: &[u8]) -> Result<u64, DownloadError> {
    let target = local_path(path).map_err(DownloadError::Path)?;
    let write_error = |error| DownloadError::Write { path: target.clone(), error };
    let mut part = None;
    let fetched = client.fetch(path, |bytes| create_once(&mut part, &target)?.file.write_all(bytes));
    let len = match fetched {
        Err(FetchError::Output(error)) => return Err(write_error(error)),
        other => other?,
    };
    // An empty file has no bytes that would have created it.
    create_once(&mut part, &target).map_err(write_error)?;
    part.expect("created above").persist(&target).map_err(write_error)?;
    Ok(len)
}

/// The names that there are now of files without their last byte.
static NAMES: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// A file that is not whole yet.
struct Part {
    file: File,
    /// None where the file system makes files without one: such a file is gone with its descriptor.
    name: Option<Name>,
}

impl Part {
    fn create(directory: &Path) -> io::Result<Self> {
        let mut nameless = OpenOptions::new();
        nameless.write(true).mode(MODE).custom_flags(OFlag::O_TMPFILE.bits());
        match nameless.open(directory) {
            // Without /proc it could never be given a name.
            Ok(file) if fs::symlink_metadata(in_proc(&file)).is_ok() => return Ok(Self { file, name: None }),
            // Each file system refuses in its own way. What is wrong with the directory, the other way meets, too.
            Ok(_) | Err(_) => {}
        }
        let mode = Permissions::from_mode(MODE);
        let (file, name) = Name::make(|| hidden().permissions(mode.clone()).tempfile_in(directory))?;
        Ok(Self { file, name: Some(name) })
    }

    /// Gives the file its name, once the system has taken all of it.
    fn persist(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        // A network file system may find out at a close only that there is no room.
        nix::unistd::close(self.file.try_clone()?)?;
        if let Some(name) = self.name {
            return name.change_to(target);
        }
        let (from, directory) = (in_proc(&self.file), directory_of(target));
        match link(&from, target) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let ((), name) = Name::make(|| hidden().make_in(directory, |path| link(&from, path)))?;
                name.change_to(target)
            }
            linked => linked,
        }
    }
}

/// A temporary name, removed when dropped before its time and by a signal that ends the program.
struct Name(Option<TempPath>);

impl Name {
    fn make<F>(make: impl FnOnce() -> io::Result<NamedTempFile<F>>) -> io::Result<(F, Self)> {
        // Held meanwhile: the end of the program is to find every name that there is, and none is to come after.
        let mut names = NAMES.lock();
        let (file, path) = make()?.into_parts();
        names.insert(path.to_path_buf());
        Ok((file, Self(Some(path))))
    }

    fn change_to(mut self, target: &Path) -> io::Result<()> {
        let mut names = NAMES.lock();
        let path = self.0.take().expect("taken here alone");
        names.remove(&*path);
        path.persist(target).map_err(|e| e.error)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let mut names = NAMES.lock();
            names.remove(&*path);
            // While a signal would wait for the lock.
            drop(path);
        }
    }
}

fn hidden<'n>() -> tempfile::Builder<'n, 'n> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".gfclient-").suffix(".part");
    builder
}

/// What the system calls an open file.
fn in_proc(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A further name for what `from` leads to.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    Ok(linkat(AT_FDCWD, from, AT_FDCWD, to, AtFlags::AT_SYMLINK_FOLLOW)?)
}

/// Starts the thread that takes the signals which end programs: it removes the temporary names first.
fn clean_up_on_signals() -> io::Result<()> {
    let endings = endings();
    // Before any thread starts: all of them inherit this mask.
    endings.thread_block()?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let Ok(signal) = endings.wait() else { return };
        // Never released: nobody makes another name, or changes one.
        let names = NAMES.lock();
        for name in names.iter() {
            // Nobody is left to tell of one that cannot be removed.
            let _ = fs::remove_file(name);
        }
        // The end that the signal has for every other program, which its parent sees.
        let _ = endings.thread_unblock();
        let _ = raise(signal);
    })?;
    Ok(())
}

/// The signals that end a program from outside. One that nohup(1) or a shell has made ignored stays so, and those that
/// a write raises are its error.
fn endings() -> SigSet {
    use Signal::{SIGABRT, SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGPWR, SIGQUIT};
    use Signal::{SIGSTKFLT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU};
    let all = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU, SIGUSR1, SIGUSR2, SIGABRT];
    let ignored = ignored_signals();
    let kept = |signal: &Signal| ignored & 1 << (*signal as i32 - 1) == 0;
    all.into_iter().chain([SIGIO, SIGPWR, SIGSTKFLT]).filter(kept).collect()
}

/// The signals that this process ignores, a bit each from signal 1 on.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The file that is to become `target`, created at the first use.
fn create_once<'p>(part: &'p mut Option<Part>, target: &Path) -> io::Result<&'p mut Part> {
    if part.is_none() {
        let directory = directory_of(target);
        fs::create_dir_all(directory)?;
        *part = Some(Part::create(directory)?);
    }
    Ok(part.as_mut().expect("created above"))
}

fn directory_of(target: &Path) -> &Path {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Where the file of a request goes, relative to the current directory.
fn local_path(path: &[u8]) -> Result<PathBuf, &'static str> {
    if path.contains(&0) {
        return Err("refused: a file name cannot hold a NUL byte");
    }
    if path.ends_with(b"/") || path.ends_with(b"/.") {
        return Err("refused: it names a directory, not a file");
    }
    let mut local = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(name) => local.push(name),
            Component::ParentDir => return Err("refused: .. could leave the current directory"),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => (),
        }
    }
    Ok(local)
}
