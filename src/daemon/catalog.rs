//! The table from keys to paths, as a locals file gives it. `docs/reference/locals.md` is its format for people.
//!
//! A million entries are held as the text of the file itself, a record of 16 bytes for each entry and a hash table of
//! record numbers: no allocation per entry.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hashbrown::HashTable;
use log::warn;

use super::line::{self, Words};
use shm_channel::settled;

/// So many skipped lines are named one by one; of the rest only the number is told.
const NAMED_LINES: usize = 20;

/// Why a locals file is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("{}: {error}", .path.display())]
    Read {
        /// The locals file.
        path: PathBuf,
        /// What the system says, or what is wrong with it as a file.
        #[source]
        error: io::Error,
    },
    /// It has a line that is no entry, and was to be refused for it: see [`OnBadLine`].
    #[error("{}:{line}: {reason}{}", .path.display(), and_more(*.more))]
    Malformed {
        /// The locals file.
        path: PathBuf,
        /// The first such line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
        /// The number of other such lines.
        more: usize,
    },
}

fn and_more(more: usize) -> String {
    match more {
        0 => String::new(),
        1 => " (and 1 more bad line)".to_owned(),
        more => format!(" (and {more} more bad lines)"),
    }
}

/// What becomes of a locals file with lines that are no entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBadLine {
    /// Those lines are skipped, each with a warning.
    Skip,
    /// It is not loaded.
    Refuse,
}

/// Where one entry's key and path stand in the text.
#[derive(Debug)]
struct Entry {
    /// Of the key's hash. Kept, since a table that grows asks for all of them again.
    hash: u32,
    key: u32,
    path: u32,
    key_len: u16,
    path_len: u16,
}

/// A loaded locals file.
#[derive(Debug)]
pub struct Catalog {
    /// What relative paths are relative to: the directory of the locals file.
    base: PathBuf,
    /// The file's bytes; quoted words are unquoted in place.
    text: Vec<u8>,
    entries: Vec<Entry>,
    table: HashTable<u32>,
    hasher: RandomState,
}

impl Catalog {
    /// Loads a locals file. Of two entries with the same key the first counts; the second gets a warning.
    pub fn load(locals: &Path, faults: OnBadLine) -> Result<Self, LoadError> {
        let text = read(locals).map_err(|error| LoadError::Read { path: locals.to_owned(), error })?;
        Self::parse(locals, text, faults)
    }

    fn parse(locals: &Path, text: Vec<u8>, faults: OnBadLine) -> Result<Self, LoadError> {
        // Wherever the program goes later.
        let base = settled(locals).parent().map_or_else(PathBuf::new, Path::to_owned);
        let mut catalog = Self { base, text, entries: Vec::new(), table: HashTable::new(), hasher: RandomState::new() };
        let mut complaints = Complaints { locals, made: 0, unreachable: 0, first_unreachable: 0 };
        let mut first_fault = None;
        let mut more = 0;
        // A byte order mark, which some editors write, is no part of the first key.
        let mut begin = if catalog.text.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let mut number = 0;
        while begin < catalog.text.len() {
            number += 1;
            let rest = &catalog.text[begin..];
            let end = begin + memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            match line::parse(&mut catalog.text, begin..end) {
                Ok(None) => {}
                Ok(Some(words)) => {
                    if catalog.text[words.key.start] != b'/' {
                        complaints.note_unreachable(number);
                    }
                    if !catalog.insert(words) {
                        complaints.make(number, "a key that an earlier line has");
                    }
                }
                Err(reason) if faults == OnBadLine::Skip => complaints.make(number, reason),
                Err(reason) if first_fault.is_none() => first_fault = Some((number, reason)),
                Err(_) => more += 1,
            }
            begin = end + 1;
        }
        if let Some((line, reason)) = first_fault {
            return Err(LoadError::Malformed { path: locals.to_owned(), line, reason, more });
        }
        complaints.sum_up();
        catalog.entries.shrink_to_fit();
        Ok(catalog)
    }

    /// False if there is an entry with this key.
    fn insert(&mut self, words: Words) -> bool {
        let key = &self.text[words.key.clone()];
        let hash = self.hash(key);
        if self.position(hash, key).is_some() {
            return false;
        }
        let number = self.entries.len() as u32;
        // `read` saw to it that positions fit into 32 bits, and `line::parse` that lengths fit into 16.
        self.entries.push(Entry {
            hash,
            key: words.key.start as u32,
            path: words.path.start as u32,
            key_len: words.key.len() as u16,
            path_len: words.path.len() as u16,
        });
        let Self { table, entries, .. } = self;
        table.insert_unique(spread(hash), number, |&i| spread(entries[i as usize].hash));
        true
    }

    fn hash(&self, key: &[u8]) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    fn position(&self, hash: u32, key: &[u8]) -> Option<u32> {
        let is_it = |&i: &u32| {
            let entry = &self.entries[i as usize];
            entry.hash == hash && word(&self.text, entry.key, entry.key_len) == key
        };
        self.table.find(spread(hash), is_it).copied()
    }

    /// The number of the entry with this key.
    pub fn find(&self, key: &[u8]) -> Option<u32> {
        self.position(self.hash(key), key)
    }

    /// The path of an entry that [`Self::find`] gave.
    pub fn path(&self, entry: u32) -> PathBuf {
        self.base.join(OsStr::from_bytes(self.path_bytes(entry)))
    }

    /// The same as the locals file has it.
    pub fn path_bytes(&self, entry: u32) -> &[u8] {
        let entry = &self.entries[entry as usize];
        word(&self.text, entry.path, entry.path_len)
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The table takes the slot from a hash's low bits and a tag from its high ones.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

fn word(text: &[u8], at: u32, len: u16) -> &[u8] {
    let range: Range<usize> = at as usize..at as usize + usize::from(len);
    &text[range]
}

/// The bytes of a locals file. Only of a regular file: a FIFO could keep the reader waiting, a device never end, and
/// neither could be read again at a reload.
fn read(locals: &Path) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(locals)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > u64::from(u32::MAX) {
        return Err(io::Error::other("larger than 4 GiB"));
    }
    let mut text = Vec::new();
    text.try_reserve_exact(metadata.len() as usize).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // One byte more than it has shows a file that grows, whatever its time says.
    file.by_ref().take(metadata.len() + 1).read_to_end(&mut text)?;
    if text.len() as u64 != metadata.len() || file.metadata()?.modified()? != metadata.modified()? {
        return Err(io::Error::other("changed while it was read"));
    }
    Ok(text)
}

/// Warnings about lines.
struct Complaints<'l> {
    locals: &'l Path,
    made: usize,
    /// Lines with keys that no GETFILE request can have, and the first of them.
    unreachable: usize,
    first_unreachable: usize,
}

impl Complaints<'_> {
    fn make(&mut self, line: usize, reason: &str) {
        self.made += 1;
        if self.made <= NAMED_LINES {
            warn!("{}:{line}: {reason}: line skipped", self.locals.display());
        }
    }

    fn note_unreachable(&mut self, line: usize) {
        if self.unreachable == 0 {
            self.first_unreachable = line;
        }
        self.unreachable += 1;
    }

    fn sum_up(&self) {
        if self.unreachable > 0 {
            let (locals, line) = (self.locals.display(), self.first_unreachable);
            let more = match self.unreachable - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            warn!("{locals}:{line}: a key that does not begin with /: no GETFILE request can ask for it{more}");
        }
        if self.made > NAMED_LINES {
            warn!("{}: {} more lines skipped", self.locals.display(), self.made - NAMED_LINES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn parse(text: &[u8], faults: OnBadLine) -> Result<Catalog, LoadError> {
        Catalog::parse(Path::new("/base/locals.txt"), text.to_vec(), faults)
    }

    fn load(text: &[u8]) -> Catalog {
        parse(text, OnBadLine::Skip).expect("bad lines are skipped")
    }

    fn path(catalog: &Catalog, key: &str) -> Option<String> {
        catalog.find(key.as_bytes()).map(|entry| catalog.path(entry).display().to_string())
    }

    #[test]
    fn relative_paths_stand_beside_the_locals_file() {
        let catalog = load(b"/a x/a\n\n# a comment\n  \t\r\n/b\t /abs/b \r\n\"/c d\" \"../c d\"");
        assert_eq!(catalog.len(), 3);
        assert_eq!(path(&catalog, "/a").as_deref(), Some("/base/x/a"));
        assert_eq!(path(&catalog, "/b").as_deref(), Some("/abs/b"));
        assert_eq!(path(&catalog, "/c d").as_deref(), Some("/base/../c d"));
        for absent in ["/c", "", "/a ", "/a x/a", "# a"] {
            assert_eq!(path(&catalog, absent), None, "{absent:?}");
        }
    }

    #[test]
    fn the_first_of_two_equal_keys_counts() {
        for faults in [OnBadLine::Skip, OnBadLine::Refuse] {
            let catalog = parse(b"/a first\n\"/a\" second\n", faults).expect("a duplicate is no fault");
            assert_eq!(catalog.len(), 1);
            assert_eq!(path(&catalog, "/a").as_deref(), Some("/base/first"));
        }
    }

    #[test]
    fn a_byte_order_mark_and_a_missing_newline_change_nothing() {
        assert_eq!(path(&load(b"\xef\xbb\xbf/a x\n/b y"), "/a").as_deref(), Some("/base/x"));
        assert_eq!(path(&load(b"\xef\xbb\xbf/a x\n/b y"), "/b").as_deref(), Some("/base/y"));
        assert_eq!(path(&load(b"\xef\xbb\xbf# a comment\n/b y\r"), "/b").as_deref(), Some("/base/y"));
        for empty in [&b""[..], b"\n", b"\xef\xbb\xbf", b"#", b"\r\n"] {
            assert!(parse(empty, OnBadLine::Refuse).expect("no entries are no fault").is_empty());
        }
    }

    #[test]
    fn bad_lines_are_skipped_or_refused() {
        let text = b"/a x\n\nno-path\n/b y\n\"open\nno-path\n";
        assert_eq!(load(text).len(), 2);
        let error = parse(text, OnBadLine::Refuse).expect_err("refused").to_string();
        assert_eq!(error, "/base/locals.txt:3: a key without a path (and 2 more bad lines)");
        let error = parse(b"/a\0 x", OnBadLine::Refuse).expect_err("refused").to_string();
        assert_eq!(error, "/base/locals.txt:1: a NUL byte");
    }

    #[test]
    fn an_entry_takes_sixteen_bytes_and_a_table_slot() {
        assert_eq!(size_of::<Entry>(), 16);
        let text: Vec<u8> = (0..50_000).flat_map(|i| format!("/k/{i} f/{i}\n").into_bytes()).collect();
        let text_len = text.len();
        let catalog = parse(&text, OnBadLine::Refuse).expect("well formed");
        assert_eq!(catalog.len(), 50_000);
        assert_eq!(catalog.text.len(), text_len);
        assert_eq!(catalog.entries.capacity(), 50_000);
        // Four bytes and a byte of hash for each slot, at most 16 slots for 7 entries.
        assert!(catalog.table.allocation_size() <= 50_000 * 12, "{}", catalog.table.allocation_size());
        for i in [0, 1, 49_999] {
            assert_eq!(path(&catalog, &format!("/k/{i}")), Some(format!("/base/f/{i}")));
        }
    }

    #[test]
    fn only_a_regular_file_of_up_to_4_gib_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let huge = directory.path().join("huge");
        fs::File::create(&huge).and_then(|file| file.set_len(1 << 32)).expect("a sparse file");
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        let absent = directory.path().join("absent");
        for (path, reason) in [
            (huge.as_path(), "larger than 4 GiB"),
            (&fifo, "not a regular file"),
            (Path::new("/dev/zero"), "not a regular file"),
            (directory.path(), "is a directory"),
            (&absent, "No such file or directory (os error 2)"),
        ] {
            let error = Catalog::load(path, OnBadLine::Skip).expect_err(reason).to_string();
            assert_eq!(error, format!("{}: {reason}", path.display()));
        }
    }
}
