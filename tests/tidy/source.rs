//! The sources as text.

use std::fs;
use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file, with its name from the root of the repository.
pub struct Source {
    pub name: String,
    pub text: String,
}

impl Source {
    fn read(path: &Path) -> Self {
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        Self { name, text: fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())) }
    }

    pub fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    /// Whether no program contains it.
    pub fn is_test(&self) -> bool {
        let parts = ["tests/", "benches/", "fuzz/", "models.rs", "properties.rs", "tests.rs", "fuzzing.rs"];
        parts.iter().any(|part| self.name.starts_with(part) || self.name.ends_with(part))
    }

    /// All but the unit tests, which stand at the end.
    pub fn production(&self) -> &str {
        self.text.split("\n#[cfg(test)]\nmod ").next().expect("split gives one at least")
    }

    /// The functions and their numbers of lines. A function ends at the brace that stands below its first letter.
    pub fn functions(&self) -> impl Iterator<Item = (String, usize)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let mut found = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let indent = line.len() - code.len();
            let Some(name) = code.split_once("fn ").filter(|(before, _)| before.chars().all(is_modifier)) else {
                continue;
            };
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines[at..].iter().position(|line| *line == end || line.ends_with(';') && *line == lines[at]);
            let name = name.1.split(['(', '<']).next().expect("split gives one at least");
            found.push((name.to_owned(), length.map_or(1, |length| length + 1)));
        }
        found.into_iter()
    }

    /// The fields and statics that are locks, as `Type::field` or `STATIC`.
    pub fn locks(&self) -> Vec<String> {
        let mut owner = "";
        let mut locks = Vec::new();
        for line in self.production().lines() {
            let code = line.trim_start();
            if code.starts_with("//") || code.contains("fn ") || self.name.ends_with("memory/sync.rs") {
                continue;
            }
            if let Some(rest) = line.split("struct ").nth(1) {
                owner = rest.split(['<', ' ', '(', ';']).next().expect("split gives one at least");
            }
            if !["Mutex<", "RwLock<", "RawMutex"].iter().any(|lock| code.contains(lock)) || code.starts_with("use ") {
                continue;
            }
            if let Some(rest) = code.split("static ").nth(1) {
                locks.push(rest.split(':').next().expect("split gives one at least").to_owned());
            } else if line.contains("struct ") && line.contains('(') {
                locks.push(owner.to_owned());
            } else if let Some((field, _)) = code.split_once(": ").filter(|_| code.ends_with(',')) {
                let field = field.rsplit(' ').next().expect("split gives one at least");
                locks.push(format!("{owner}::{field}"));
            }
        }
        locks
    }
}

fn is_modifier(letter: char) -> bool {
    letter.is_ascii_lowercase() || " ()\"C".contains(letter)
}

pub fn rust_sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for place in ["src", "crates", "tests", "benches", "fuzz/fuzz_targets", "build.rs"] {
        find(&root().join(place), "rs", &mut paths);
    }
    paths.iter().map(|path| Source::read(path)).collect()
}

/// The pages for people.
pub fn documents() -> Vec<Source> {
    let mut paths = Vec::new();
    for place in ["docs", "deploy", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "RELEASING.md"] {
        find(&root().join(place), "md", &mut paths);
    }
    paths.iter().map(|path| Source::read(path)).collect()
}

fn find(place: &Path, extension: &str, paths: &mut Vec<PathBuf>) {
    if place.is_file() {
        if place.extension().is_some_and(|found| found == extension) {
            paths.push(place.to_owned());
        }
        return;
    }
    let entries = fs::read_dir(place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    let mut entries: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    entries.iter().filter(|path| !path.ends_with("target")).for_each(|path| find(path, extension, paths));
}
