//! Files to serve, and a simplecached that serves them.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::programs::{Program, bytes, program};

/// Request path to content.
pub type Files = BTreeMap<String, Vec<u8>>;

/// One file of each size, `/files/<size>.bin`.
pub fn files(sizes: &[usize]) -> Files {
    sizes.iter().map(|&size| (format!("/files/{size}.bin"), bytes(size as u64, size))).collect()
}

/// A simplecached with its locals file, its files and its socket in a directory of its own.
pub struct Cache {
    directory: TempDir,
    daemon: Program,
}

impl Cache {
    /// Starts `name` (simplecached or simplecached_noasan) with these files.
    pub fn start(name: &str, files: &Files) -> Self {
        Self::start_command(Command::new(program(name)), files)
    }

    /// Starts a simplecached whose command line begins like that.
    pub fn start_command(command: Command, files: &Files) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        write_locals(directory.path(), files);
        let daemon = Program::start(&mut daemon_command(command, directory.path()));
        Self { directory, daemon }
    }

    /// The path of the command socket, whether the daemon has made it yet or not.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    pub fn locals(&self) -> PathBuf {
        self.directory.path().join("locals.txt")
    }

    pub fn daemon(&mut self) -> &mut Program {
        &mut self.daemon
    }

    /// The daemon, and the directory, which goes when it is dropped.
    pub fn into_parts(self) -> (Program, TempDir) {
        (self.daemon, self.directory)
    }
}

/// Writes the files and a locals file of them into `directory`.
pub fn write_locals(directory: &Path, files: &Files) {
    let mut locals = String::new();
    for (number, (key, file)) in files.iter().enumerate() {
        fs::write(directory.join(number.to_string()), file).expect("a file");
        locals += &format!("{key} {}/{number}\n", directory.display());
    }
    fs::write(directory.join("locals.txt"), locals).expect("locals.txt");
}

/// `command` with the locals file and the socket of `directory`.
pub fn daemon_command(mut command: Command, directory: &Path) -> Command {
    command.arg("-c").arg(directory.join("locals.txt")).arg("-S").arg(directory.join("socket"));
    command
}
