//! The files that are served, whose every byte the client knows without keeping them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// The length of a file's pattern. It is prime, so a block of any size that lands in another block's place is seen,
/// and short, so that comparing costs the client no more than its first-level cache.
const PERIOD: usize = 16_381;

/// One file: a pattern of pseudo-random bytes, its own, over and over.
pub struct Content {
    /// The path of its requests.
    pub path: String,
    /// Its length in bytes.
    pub len: u64,
    pattern: Vec<u8>,
}

impl Content {
    /// A file whose pattern depends on `seed`.
    pub fn new(path: String, len: u64, seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let pattern = (0..PERIOD).map(|_| (next_random(&mut state) >> 56) as u8).collect();
        Self { path, len, pattern }
    }

    /// Writes the file below `directory`.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let target = directory.join(self.path.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap_or(directory))?;
        let mut file = BufWriter::new(File::create(target)?);
        let mut rest = self.len;
        while rest > 0 {
            let part = &self.pattern[..PERIOD.min(usize::try_from(rest).unwrap_or(PERIOD))];
            file.write_all(part)?;
            rest -= part.len() as u64;
        }
        file.flush()
    }

    /// Whether `bytes` are what stands at `offset`, all of it within the file.
    pub fn matches(&self, offset: u64, mut bytes: &[u8]) -> bool {
        if offset + bytes.len() as u64 > self.len {
            return false;
        }
        let mut at = (offset % PERIOD as u64) as usize;
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(PERIOD - at));
            if part != &self.pattern[at..at + part.len()] {
                return false;
            }
            (bytes, at) = (rest, 0);
        }
        true
    }
}

/// xorshift64*: enough for patterns and for picking keys.
pub fn next_random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}
