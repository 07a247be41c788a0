//! What no compiler sees to, read off the sources: how long lines and functions are, which way dependencies point, and
//! whether the tables of `docs/architecture.md` name every lock and thread there is.

mod source;

use std::collections::BTreeSet;
use std::fs;

use source::{Source, documents, root, rust_sources};

const MAX_COLUMNS: usize = 120;
const MAX_FUNCTION_LINES: usize = 70;

/// Lines that cannot be broken: rows of tables, pictures, examples of what programs print, and code, which rustfmt
/// keeps.
fn may_be_long(source: &Source, line: &str) -> bool {
    let text = line.trim_start();
    let is_code = source.name.ends_with(".rs") && !text.starts_with("//");
    is_code
        || line.starts_with("    ") && source.name.ends_with(".md")
        || ["|", "!["].iter().any(|begin| text.starts_with(begin))
}

#[test]
fn no_line_has_more_than_120_columns() {
    let long: Vec<_> = rust_sources()
        .iter()
        .chain(&documents())
        .flat_map(|source| source.numbered().map(move |(number, line)| (source, number, line)))
        .filter(|(source, _, line)| line.chars().count() > MAX_COLUMNS && !may_be_long(source, line))
        .map(|(source, number, _)| format!("{}:{number}", source.name))
        .collect();
    assert!(long.is_empty(), "longer than {MAX_COLUMNS} columns:\n{}", long.join("\n"));
}

#[test]
fn no_function_has_more_than_70_lines() {
    let long: Vec<_> = rust_sources()
        .iter()
        // Tables of what is measured.
        .filter(|source| !source.name.starts_with("benches/"))
        .flat_map(|source| source.functions().map(|(name, lines)| (source.name.clone(), name, lines)))
        .filter(|(_, _, lines)| *lines > MAX_FUNCTION_LINES)
        .map(|(file, name, lines)| format!("{file}: {name} has {lines} lines"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// What a crate may use of the others. The compiler refuses what its manifest leaves out; this refuses a longer
/// manifest.
const ARROWS: [(&str, &[&str]); 7] = [
    ("base", &[]),
    ("getfile", &["base"]),
    ("gfclients", &["getfile"]),
    ("gfserver", &["base"]),
    ("origin", &["base", "getfile"]),
    ("shm-channel", &["base"]),
    ("telemetry", &["base"]),
];

#[test]
fn crates_use_only_those_below_them() {
    for (name, allowed) in ARROWS {
        let manifest = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).expect(name);
        let used: BTreeSet<_> = manifest
            .lines()
            .filter_map(|line| line.strip_suffix(".workspace = true"))
            .filter(|used| is_crate(used))
            .collect();
        assert_eq!(used, allowed.iter().copied().collect(), "{name}");
    }
}

fn is_crate(name: &str) -> bool {
    ARROWS.iter().any(|(one, _)| *one == name)
}

/// The rooms of the root package, from top to bottom: each uses only what stands behind it.
const ROOMS: [&str; 4] = ["ffi", "kit_abi", "proxy", "daemon"];

#[test]
fn rooms_of_the_root_package_use_only_those_below_them() {
    let sources = rust_sources();
    for (at, room) in ROOMS.iter().enumerate() {
        for source in sources.iter().filter(|source| source.name.starts_with(&format!("src/{room}/"))) {
            for above in &ROOMS[..at] {
                let upwards = format!("crate::{above}::");
                assert!(!source.text.contains(&upwards), "{} uses {upwards}", source.name);
            }
        }
    }
}

/// The names of threads in the sources: what `spawn` or `Builder::name` is given.
fn thread_names(sources: &[Source]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources {
        for begin in ["spawn(\"", "spawn(&format!(\"", ".name(\"", ".name(format!(\""] {
            for after in source.production().split(begin).skip(1) {
                let name = after.split(['"', '{']).next().expect("split gives one at least");
                names.insert(name.trim_end_matches('-').to_owned());
            }
        }
    }
    names
}

#[test]
fn the_table_of_threads_names_every_thread() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).expect("the page");
    let sources: Vec<_> = rust_sources().into_iter().filter(|source| !source.is_test()).collect();
    let names = thread_names(&sources);
    assert!(names.len() > 5, "the sources start threads in a way that this test does not know: {names:?}");
    for name in names {
        assert!(page.contains(&format!("`{name}")), "docs/architecture.md has no thread `{name}`");
    }
}

#[test]
fn the_table_of_locks_names_every_lock() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).expect("the page");
    let sources: Vec<_> = rust_sources().into_iter().filter(|source| !source.is_test()).collect();
    let locks: Vec<_> = sources.iter().flat_map(Source::locks).collect();
    assert!(locks.len() > 20, "the sources declare locks in a way that this test does not know: {locks:?}");
    let missing: Vec<_> = locks.iter().filter(|lock| !page.contains(&format!("`{lock}`"))).cloned().collect();
    assert!(missing.is_empty(), "docs/architecture.md has no lock of these names:\n{}", missing.join("\n"));
}
