//! Downloads the files of a workload from a GETFILE server into the current directory.

mod support;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use gfproxy::getfile::{Client, FetchError};
use support::{CommonOptions, Run, options};
use tempfile::NamedTempFile;

/// Download files from a GETFILE server; each lands under the current directory at its own path.
#[derive(Parser, Debug)]
#[command(version, args_override_self = true, infer_long_args = true)]
struct Options {
    #[command(flatten)]
    common: CommonOptions,
}

fn main() -> ExitCode {
    let options: Options = match options::parse(std::env::args_os()) {
        Ok(options) => options,
        Err(status) => return status,
    };
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
    part.expect("created above").persist(&target).map_err(|e| write_error(e.error))?;
    Ok(len)
}

/// The temporary file beside `target`, created at the first use. It is removed when dropped before its time.
fn create_once<'p>(part: &'p mut Option<NamedTempFile>, target: &Path) -> io::Result<&'p mut NamedTempFile> {
    if part.is_none() {
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(directory)?;
        let mode = Permissions::from_mode(0o666);
        let mut builder = tempfile::Builder::new();
        *part = Some(builder.prefix(".gfclient-").suffix(".part").permissions(mode).tempfile_in(directory)?);
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
