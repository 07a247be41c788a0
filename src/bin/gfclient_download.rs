//! Downloads the files of a workload from a GETFILE server into the current directory.

mod support;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::thread;

use clap::Parser;
use gfproxy::getfile::{Client, FetchError};
use nix::sys::signal::{SigSet, Signal, raise};
use parking_lot::Mutex;
use support::{CommonOptions, Run, options};
use tempfile::NamedTempFile;

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

/// Fetches one file. It gets its name only when its last byte is on disk, so what stands under a name is whole, also
/// where several threads fetch the same path at once.
fn download(client: &Client, path: &[u8]) -> Result<u64, DownloadError> {
    let target = local_path(path).map_err(DownloadError::Path)?;
    let write_error = |error| DownloadError::Write { path: target.clone(), error };
    let mut part = None;
    let fetched = client.fetch(path, |bytes| create_once(&mut part, &target)?.write_all(bytes));
    let len = match fetched {
        Err(FetchError::Output(error)) => return Err(write_error(error)),
        other => other?,
    };
    // An empty file has no bytes that would have created it.
    create_once(&mut part, &target).map_err(write_error)?;
    part.expect("created above").persist(&target).map_err(write_error)?;
    Ok(len)
}

/// The temporary files that there are now.
static PARTS: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// A temporary file, removed when dropped before its time and by a signal that ends the program.
struct Part(Option<NamedTempFile>);

impl Part {
    fn create(directory: &Path) -> io::Result<Self> {
        let mode = Permissions::from_mode(0o666);
        // Held meanwhile: the end of the program is to find every file that there is, and none is to come after.
        let mut parts = PARTS.lock();
        let file =
            tempfile::Builder::new().prefix(".gfclient-").suffix(".part").permissions(mode).tempfile_in(directory)?;
        parts.insert(file.path().to_owned());
        Ok(Self(Some(file)))
    }

    fn persist(mut self, target: &Path) -> io::Result<()> {
        let mut parts = PARTS.lock();
        let file = self.0.take().expect("taken here alone");
        parts.remove(file.path());
        file.persist(target).map_err(|e| e.error)?;
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.as_mut().expect("there until persist").write_all(bytes)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(file) = self.0.take() {
            let mut parts = PARTS.lock();
            parts.remove(file.path());
            // While a signal would wait for the lock.
            drop(file);
        }
    }
}

/// Starts the thread that takes the signals which end programs: it removes the temporary files first.
fn clean_up_on_signals() -> io::Result<()> {
    let ignored = ignored_signals();
    let mut endings = SigSet::empty();
    // One that nohup(1) or a shell has made ignored stays so.
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        if ignored & 1 << (signal as i32 - 1) == 0 {
            endings.add(signal);
        }
    }
    // Before any thread starts: all of them inherit this mask.
    endings.thread_block()?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let Ok(signal) = endings.wait() else { return };
        // Never released: nobody makes another file, or gives one its name.
        let parts = PARTS.lock();
        for part in parts.iter() {
            // Nobody is left to tell of one that cannot be removed.
            let _ = fs::remove_file(part);
        }
        // The end that the signal has for every other program, which its parent sees.
        let _ = endings.thread_unblock();
        let _ = raise(signal);
    })?;
    Ok(())
}

/// The signals that this process ignores, a bit each from signal 1 on.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The temporary file beside `target`, created at the first use.
fn create_once<'p>(part: &'p mut Option<Part>, target: &Path) -> io::Result<&'p mut Part> {
    if part.is_none() {
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(directory)?;
        *part = Some(Part::create(directory)?);
    }
    Ok(part.as_mut().expect("created above"))
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
