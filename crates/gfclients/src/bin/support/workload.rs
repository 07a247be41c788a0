//! The workload file: the paths to ask for.

use std::fs;
use std::path::Path;

/// At least one path, each beginning with `/` and free of the bytes that would end it on the wire.
#[derive(Debug)]
pub struct Workload {
    paths: Vec<Vec<u8>>,
}

impl Workload {
    /// Reads `file`. As in the course kit, paths are separated by any white space, not by line ends alone.
    pub fn read(file: &Path) -> Result<Self, String> {
        let name = file.display();
        let text = fs::read(file).map_err(|e| format!("cannot read workload file {name}: {e}"))?;
        let mut paths = Vec::new();
        // A byte order mark, which some editors write, is no part of the first path.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            for word in line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
                if word[0] != b'/' {
                    let word = super::shown(word);
                    return Err(format!("workload file {name}, line {}: {word} does not begin with /", index + 1));
                }
                paths.push(word.to_vec());
            }
        }
        if paths.is_empty() {
            return Err(format!("workload file {name} holds no path"));
        }
        Ok(Self { paths })
    }

    /// The path of request `number`, counted from 0. The course kit's clients advance before they look, so their
    /// first request is for the second path; the same order keeps the runs of both comparable.
    pub fn path(&self, number: u64) -> &[u8] {
        let count = self.paths.len() as u64;
        let index = (number + 1) % count;
        &self.paths[usize::try_from(index).expect("an index below a length fits")]
    }
}
