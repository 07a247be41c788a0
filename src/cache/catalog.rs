//! The table from keys to paths, as a locals file gives it. `docs/locals.md` is its format for people.
//!
//! A million entries are held as the text of the file itself, a 16-byte record for each entry and a hash table of record
//! numbers.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hashbrown::HashTable;
use log::warn;

use crate::channel::MAX_KEY;

/// The longest path, Linux's PATH_MAX less the NUL.
const MAX_PATH: usize = 4095;
/// So many bad lines are named one by one; of the rest only the number is told.
const NAMED_LINES: usize = 20;

/// Why a locals file cannot be loaded at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    Read(PathBuf, #[source] io::Error),
    /// It is larger than record offsets can say.
    #[error("{}: larger than 4 GiB", .0.display())]
    TooLarge(PathBuf),
}

/// Where one entry's key and path stand in the text.
#[derive(Debug)]
struct Entry {
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
    skipped: usize,
}

impl Catalog {
    /// Loads a locals file. A line that is not `key path` is skipped with a warning that names file, line and reason.
    pub fn load(locals: &Path) -> Result<Self, LoadError> {
        let text = fs::read(locals).map_err(|error| LoadError::Read(locals.to_owned(), error))?;
        if u32::try_from(text.len()).is_err() {
            return Err(LoadError::TooLarge(locals.to_owned()));
        }
        let base = locals.parent().map_or_else(PathBuf::new, Path::to_owned);
        let mut catalog =
            Self { base, text, entries: Vec::new(), table: HashTable::new(), hasher: RandomState::new(), skipped: 0 };
        catalog.read_lines(locals);
        catalog.entries.shrink_to_fit();
        Ok(catalog)
    }

    fn read_lines(&mut self, locals: &Path) {
        let mut begin = 0;
        let mut number = 0;
        while begin < self.text.len() {
            number += 1;
            let len = self.text[begin..].iter().position(|&b| b == b'\n').unwrap_or(self.text.len() - begin);
            if let Err(reason) = self.read_line(begin..begin + len) {
                self.skipped += 1;
                if self.skipped <= NAMED_LINES {
                    warn!("{}:{number}: {reason}: line skipped", locals.display());
                }
            }
            begin += len + 1;
        }
        if self.skipped > NAMED_LINES {
            warn!("{}: {} more lines skipped", locals.display(), self.skipped - NAMED_LINES);
        }
    }

    fn read_line(&mut self, mut line: Range<usize>) -> Result<(), &'static str> {
        if self.text[line.clone()].ends_with(b"\r") {
            line.end -= 1;
        }
        let Some(key) = self.take_word(&mut line)? else { return Ok(()) };
        let path = self.take_word(&mut line)?.ok_or("a key without a path")?;
        if self.take_word(&mut line)?.is_some() {
            return Err("text after the path (a name with spaces needs double quotes)");
        }
        if key.is_empty() || path.is_empty() {
            return Err("an empty key or path");
        }
        if key.len() > MAX_KEY {
            return Err("a key longer than 4095 bytes");
        }
        if path.len() > MAX_PATH {
            return Err("a path longer than 4095 bytes");
        }
        self.insert(key, path)
    }

    /// The next word of the line: up to a space or tab, or quoted. None at the end of the line or at a comment, which
    /// begins with `#` where a line's first word would be.
    fn take_word(&mut self, line: &mut Range<usize>) -> Result<Option<Range<usize>>, &'static str> {
        let is_first = line.start == 0 || self.text[line.start - 1] == b'\n';
        while line.start < line.end && matches!(self.text[line.start], b' ' | b'\t') {
            line.start += 1;
        }
        let rest = &self.text[line.clone()];
        match rest.first() {
            None => Ok(None),
            Some(b'#') if is_first => Ok(None),
            Some(b'"') => self.take_quoted(line).map(Some),
            Some(_) => {
                let len = rest.iter().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(rest.len());
                if rest[..len].contains(&0) {
                    return Err("a NUL byte");
                }
                let word = line.start..line.start + len;
                line.start = word.end;
                Ok(Some(word))
            }
        }
    }

    /// A word in double quotes, in which `\"` and `\\` stand for the second character.
    fn take_quoted(&mut self, line: &mut Range<usize>) -> Result<Range<usize>, &'static str> {
        let (mut from, mut to) = (line.start + 1, line.start);
        while from < line.end {
            match self.text[from] {
                b'"' => {
                    let word = line.start..to;
                    line.start = from + 1;
                    return match self.text[line.clone()].first() {
                        None | Some(b' ' | b'\t') => Ok(word),
                        Some(_) => Err("text right after a closing quote"),
                    };
                }
                0 => return Err("a NUL byte"),
                b'\\' if from + 1 < line.end && matches!(self.text[from + 1], b'"' | b'\\') => from += 1,
                _ => {}
            }
            self.text[to] = self.text[from];
            from += 1;
            to += 1;
        }
        Err("an open quote")
    }

    fn insert(&mut self, key: Range<usize>, path: Range<usize>) -> Result<(), &'static str> {
        let entry = Entry {
            key: key.start as u32,
            path: path.start as u32,
            key_len: key.len() as u16,
            path_len: path.len() as u16,
        };
        let Self { text, entries, table, hasher, .. } = self;
        let hash_of = |entry: &Entry| hasher.hash_one(key_of(text, entry));
        let hash = hash_of(&entry);
        if table.find(hash, |&i| key_of(text, &entries[i as usize]) == key_of(text, &entry)).is_some() {
            return Err("a key that an earlier line has");
        }
        let number = entries.len() as u32;
        entries.push(entry);
        table.insert_unique(hash, number, |&i| hash_of(&entries[i as usize]));
        Ok(())
    }

    /// The number of the entry with this key.
    pub fn find(&self, key: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.table.find(hash, |&i| key_of(&self.text, &self.entries[i as usize]) == key).copied()
    }

    /// The path of an entry that [`Self::find`] gave.
    pub fn path(&self, entry: u32) -> PathBuf {
        let entry = &self.entries[entry as usize];
        let path = &self.text[entry.path as usize..][..usize::from(entry.path_len)];
        self.base.join(std::ffi::OsStr::from_bytes(path))
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of lines that were skipped.
    pub fn skipped(&self) -> usize {
        self.skipped
    }
}

fn key_of<'t>(text: &'t [u8], entry: &Entry) -> &'t [u8] {
    &text[entry.key as usize..][..usize::from(entry.key_len)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &[u8]) -> Catalog {
        let mut catalog = Catalog {
            base: PathBuf::from("/base"),
            text: text.to_vec(),
            entries: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
            skipped: 0,
        };
        catalog.read_lines(Path::new("test"));
        catalog
    }

    fn path(catalog: &Catalog, key: &str) -> Option<String> {
        catalog.find(key.as_bytes()).map(|entry| catalog.path(entry).display().to_string())
    }

    #[test]
    fn lines_have_a_key_and_a_path() {
        let catalog = load(b"/a x/a\n\n# a comment\n  \t\r\n/b\t /abs/b \r\n/#c c#");
        assert_eq!((catalog.len(), catalog.skipped()), (3, 0));
        assert_eq!(path(&catalog, "/a").as_deref(), Some("/base/x/a"));
        assert_eq!(path(&catalog, "/b").as_deref(), Some("/abs/b"));
        assert_eq!(path(&catalog, "/#c").as_deref(), Some("/base/c#"));
        assert_eq!(path(&catalog, "/c"), None);
    }

    #[test]
    fn quotes_hold_spaces_quotes_and_hashes() {
        let catalog = load(
            br#""/a b" "c d"
"/q\"\\x" "\y"
"#,
        );
        assert_eq!(path(&catalog, "/a b").as_deref(), Some("/base/c d"));
        assert_eq!(path(&catalog, r#"/q"\x"#).as_deref(), Some(r"/base/\y"));
    }

    #[test]
    fn the_first_of_two_equal_keys_counts() {
        let catalog = load(b"/a first\n/a second\n");
        assert_eq!(path(&catalog, "/a").as_deref(), Some("/base/first"));
        assert_eq!(catalog.skipped(), 1);
    }

    #[test]
    fn bad_lines_are_skipped_and_counted() {
        let long = format!("/{} x\n/{} x\n", "k".repeat(MAX_KEY), "k".repeat(MAX_KEY - 1));
        for (text, good, bad) in [
            (&b"/only-a-key\n/a x\n"[..], 1, 1),
            (b"/a x y\n", 0, 1),
            (b"\"/a x\n", 0, 1),
            (b"\"/a\"x y\n", 0, 1),
            (b"\"\" x\n", 0, 1),
            (b"/a\0b x\n", 0, 1),
            (b"\"/a\0b\" x\n", 0, 1),
            (long.as_bytes(), 1, 1),
        ] {
            let catalog = load(text);
            assert_eq!((catalog.len(), catalog.skipped()), (good, bad), "{:?}", String::from_utf8_lossy(text));
        }
    }
}
