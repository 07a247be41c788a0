//! Content that says what it is: every block of 16 bytes names its file, its version and its place.

use std::fmt;

const BLOCK: usize = 16;
const CHECK: u64 = 0x0123_4567_89ab_cdef;

/// A block's file, version and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    pub file: usize,
    pub version: u32,
    pub number: u64,
}

impl Name {
    /// The bytes that carry the name: a permutation of it, and a second one of the first.
    fn bytes(self) -> [u8; BLOCK] {
        let word = mix((self.file as u64) << 52 | u64::from(self.version) << 24 | self.number);
        let mut bytes = [0; BLOCK];
        bytes[..8].copy_from_slice(&word.to_le_bytes());
        bytes[8..].copy_from_slice(&mix(word ^ CHECK).to_le_bytes());
        bytes
    }

    /// None for bytes that are no block.
    fn of(block: &[u8]) -> Option<Self> {
        let (word, check) = block.split_at(8);
        let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
        let name = unmix(word);
        let (file, version) = ((name >> 52) as usize, (name >> 24) as u32 & 0x0fff_ffff);
        (check == mix(word ^ CHECK).to_le_bytes()).then_some(Self { file, version, number: name & 0x00ff_ffff })
    }
}

/// The finalizer of splitmix64.
fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

fn unmix(mut word: u64) -> u64 {
    word = (word ^ word >> 31 ^ word >> 62).wrapping_mul(0x3196_42b2_d24d_8ec3);
    word = (word ^ word >> 27 ^ word >> 54).wrapping_mul(0x96de_1b17_3f11_9089);
    word ^ word >> 30 ^ word >> 60
}

/// The bytes of a version from `from`, which begins a block, to `to`.
pub fn content(file: usize, version: u32, from: u64, to: u64) -> Vec<u8> {
    assert_eq!(from % BLOCK as u64, 0, "content begins with a block");
    let mut bytes = Vec::with_capacity((to - from) as usize + BLOCK);
    for number in from / BLOCK as u64..to.div_ceil(BLOCK as u64) {
        bytes.extend_from_slice(&Name { file, version, number }.bytes());
    }
    bytes.truncate((to - from) as usize);
    bytes
}

/// What was seen of a file that arrives.
#[derive(Default)]
pub struct Seen {
    /// In the order of their first blocks.
    versions: Vec<u32>,
    pub len: u64,
    /// The bytes behind the last whole block.
    rest: Vec<u8>,
}

impl Seen {
    /// Takes the next bytes of `file`; an error says what they are instead.
    pub fn push(&mut self, file: usize, bytes: &[u8]) -> Result<(), String> {
        self.rest.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.rest);
        let (blocks, rest) = pending.as_chunks::<BLOCK>();
        self.rest = rest.to_vec();
        for (number, block) in (self.len / BLOCK as u64..).zip(blocks) {
            match Name::of(block) {
                Some(name) if (name.file, name.number) == (file, number) => self.saw(name.version),
                other => return Err(format!("at {}: {}", number * BLOCK as u64, describe(other, &pending))),
            }
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn saw(&mut self, version: u32) {
        if self.versions.last() != Some(&version) && !self.versions.contains(&version) {
            self.versions.push(version);
        }
    }

    /// Whether all of it is of this version.
    pub fn is_of(&self, file: usize, version: u32) -> bool {
        let rest = Name { file, version, number: self.len / BLOCK as u64 }.bytes();
        self.versions.iter().all(|&seen| seen == version) && rest.starts_with(&self.rest)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of versions {:?}", self.len, self.versions)
    }
}

fn describe(name: Option<Name>, bytes: &[u8]) -> String {
    let shifted = || bytes.windows(BLOCK).find_map(Name::of).map(|name| format!("no block, and behind it {name:?}"));
    let text = || String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
    name.map(|name| format!("{name:?}")).or_else(shifted).unwrap_or_else(|| format!("no content, but {:?}", text()))
}
