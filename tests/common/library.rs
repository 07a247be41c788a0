//! A directory of files with known bytes, the locals file that names them, and room for the command socket.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::programs::bytes;

#[derive(Debug)]
pub struct Library {
    directory: TempDir,
    files: Vec<Vec<u8>>,
}

impl Library {
    /// One file of each size, with the keys `/0`, `/1` and so on.
    pub fn new(sizes: &[usize]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut locals = File::create(directory.path().join("locals.txt")).expect("locals.txt");
        let mut files = Vec::new();
        for (i, &len) in sizes.iter().enumerate() {
            let content = bytes(i as u64 + 1, len);
            fs::write(directory.path().join(i.to_string()), &content).expect("a file");
            writeln!(locals, "/{i} {i}").expect("locals.txt");
            files.push(content);
        }
        Self { directory, files }
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn key(&self, file: usize) -> String {
        format!("/{file}")
    }

    pub fn content(&self, file: usize) -> &[u8] {
        &self.files[file]
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn path(&self, file: usize) -> PathBuf {
        self.directory.path().join(file.to_string())
    }

    pub fn locals(&self) -> PathBuf {
        self.directory.path().join("locals.txt")
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Puts another file of the same length in the place of one, as an editor or a deployment does: by rename.
    pub fn replace(&self, file: usize) {
        let new = self.directory.path().join("new");
        fs::write(&new, bytes(1000 + file as u64, self.files[file].len())).expect("a new file");
        fs::rename(new, self.path(file)).expect("rename");
    }
}
