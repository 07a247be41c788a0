//! What the README says about linking is run as it stands there.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::fixture::{Cache, Files, files};
use crate::programs::{NOT_FOUND, Program, built, fetch, ok, program, skipped};
use crate::static_origin::StaticOrigin;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of the README's block that begins with this fence.
fn block(fence: &str) -> String {
    let readme = page("README.md");
    let lines = readme.lines().skip_while(|line| *line != format!("```{fence}")).skip(1);
    let block: String = lines.take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
    assert!(!block.is_empty(), "no block {fence} in README.md");
    block
}

fn run(command: &mut Command) -> String {
    let ended = Program::run(command);
    assert!(ended.status.success(), "{command:?}: {}{}", ended.stdout, ended.stderr);
    ended.stdout
}

fn pair() -> (Files, Files) {
    let cached = Files::from([("/cached".to_owned(), b"from the cache".to_vec())]);
    (cached, files(&[0, 1, 5712, 1_048_599]))
}

/// `make install`, then the example of the C interface against what it installed.
#[test]
fn the_c_example_builds_against_the_installed_library_and_serves() {
    let on_origin = files(&[0, 1, 5712, 1_048_599]);
    let origin = StaticOrigin::start(on_origin.clone());
    let prefix = tempfile::tempdir().expect("a directory");
    let prefix = prefix.path();
    // What `make test` was told (KIT, BIN, BUILD, TARGET) is in the environment, so this finds everything fresh.
    let mut make = Command::new("make");
    run(make.current_dir(root()).arg("install").env_remove("MAKEFLAGS").env("PREFIX", prefix));

    // The origin and the port are the only things that are not as they stand there; no cache daemon runs.
    let example = block("c").replace("https://example.org/files", origin.url()).replace("25362", "0");
    fs::write(prefix.join("proxy.c"), example).expect("proxy.c");
    let mut flags = Command::new("pkg-config");
    flags.args(["--cflags", "--libs", "gfproxy"]).env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    let flags = run(&mut flags);
    let mut gcc = Command::new("gcc");
    gcc.current_dir(prefix).args(["-Wall", "-Wextra", "-Werror", "-o", "proxy", "proxy.c"]);
    run(gcc.args(flags.split_whitespace()));

    let mut proxy = Program::start(&mut Command::new(prefix.join("proxy")));
    let port = proxy.port();
    for (path, file) in &on_origin {
        assert!(fetch(port, path) == ok(file), "{path} differs");
    }
    for program in ["webproxy", "simplecached", "gfclient_download", "gfclient_measure"] {
        run(Command::new(prefix.join("bin").join(program)).arg("-h"));
    }
}

/// The guide for the kit, where `KIT_DIR` names one: on a copy, line for line.
#[test]
fn the_drop_in_guide_works_on_a_kit() {
    let Some(kit) = std::env::var_os("KIT_DIR").map(PathBuf::from) else {
        return skipped("KIT_DIR names no kit: nobody follows the README's guide");
    };
    let (cached, on_origin) = pair();
    let (origin, cache) = (StaticOrigin::start(on_origin.clone()), Cache::start("simplecached", &cached));

    let part_1 = follow_guide(&kit.join("server"), "sh part-1");
    let part_2 = follow_guide(&kit.join("cache"), "sh part-2");
    for name in ["webproxy", "webproxy_noasan"] {
        let mut webproxy = Command::new(part_1.path().join(name));
        serves(webproxy.env("GFPROXY_ORIGIN", origin.url()), &on_origin);
        let mut webproxy = Command::new(part_2.path().join(name));
        serves(webproxy.env("GFPROXY_SOCKET", cache.socket()), &cached);
    }
}

/// A copy of the kit's directory in which the README's block has been run.
fn follow_guide(directory: &Path, fence: &str) -> TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    run(Command::new("cp").arg("-r").arg(directory.join(".")).arg(copy.path()));
    let gfproxy = tempfile::tempdir().expect("a directory");
    symlink(built("libgfproxy.a").parent().expect("a directory"), gfproxy.path().join("build")).expect("symlink");
    let mut sh = Command::new("sh");
    sh.current_dir(copy.path()).args(["-euc", &block(fence)]).env("GFPROXY", gfproxy.path());
    run(sh.env_remove("MAKEFLAGS"));
    copy
}

fn serves(webproxy: &mut Command, files: &Files) {
    let mut webproxy = Program::start(webproxy.args(["-p", "0"]));
    let port = webproxy.port();
    for (path, file) in files {
        assert!(fetch(port, path) == ok(file), "{path} of {webproxy:?} differs", webproxy = webproxy.pid());
    }
    assert_eq!(fetch(port, "/none"), NOT_FOUND);
}

/// The two examples, pasted one after the other. The origin and the ports are the only things that are not as they
/// stand there.
#[test]
fn the_examples_of_both_parts_work_as_they_stand() {
    let here = tempfile::tempdir().expect("a directory");
    for name in ["README.md", "LICENSE", "docs"] {
        symlink(root().join(name), here.path().join(name)).expect("symlink");
    }
    symlink(program("webproxy").parent().expect("a directory"), here.path().join("bin")).expect("symlink");
    let read = |path: &str| fs::read(root().join(path)).expect(path);
    let files = ["README.md", "docs/processes.svg"].map(|path| (format!("/{path}"), read(path)));
    let origin = StaticOrigin::start(Files::from(files));
    let (origin_line, examples) =
        ("python3 -m http.server 8000 --bind 127.0.0.1 & origin=$!", block("sh example-1") + &block("sh example-2"));
    assert!(examples.contains(origin_line));
    let examples = examples.replace(origin_line, "origin=").replace("http://127.0.0.1:8000", origin.url());
    let examples = examples.replace("25362", &free_port()).replace("25363", &free_port());
    let mut bash = Command::new("bash");
    run(bash.current_dir(here.path()).args(["-euc", &examples]).env("XDG_RUNTIME_DIR", here.path()));
    assert!(read("docs/processes.svg") == fs::read(here.path().join("downloads/1/docs/processes.svg")).expect("it"));
}

/// A port that nobody has, and which the kernel gives to nobody else soon.
fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port().to_string()
}

/// The requests that the README shows, each with its answer. A shell function stands in for nc, which may be missing.
#[test]
fn the_wire_is_as_the_readme_shows_it() {
    const NC: &str = "nc() { exec 3<>/dev/tcp/$1/$2; cat >&3; cat <&3; }";
    let license = fs::read(root().join("LICENSE")).expect("LICENSE");
    let cache = Cache::start("simplecached", &Files::from([("/hello".to_owned(), license)]));
    let mut webproxy = Command::new(program("webproxy"));
    let mut webproxy = Program::start(webproxy.args(["-v", "-p", "0", "-S"]).arg(cache.socket()));
    let port = webproxy.port().to_string();
    let readme = page("README.md");
    let shown = readme.split("\n    $ ").skip(1).filter_map(|rest| rest.split_once('\n'));
    let mut count = 0;
    for (command, answer) in shown {
        let script = format!("{NC}\n{}", command.replace("25363", &port));
        let answered = run(Command::new("bash").args(["-euc", &script]));
        let expected = answer.lines().next().and_then(|line| line.strip_prefix("    "));
        assert_eq!(Some(answered.trim_end()), expected, "{command}");
        count += 1;
    }
    assert_eq!(count, 2, "requests in README.md");
}

fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files below `folder` that end so, with their names from the root.
fn files_below(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).expect(folder) {
        let entry = entry.expect("an entry");
        let name = format!("{folder}/{}", entry.file_name().display());
        if entry.path().is_dir() {
            found.extend(files_below(&name, ending));
        } else if name.ends_with(ending) {
            found.push(name);
        }
    }
    found
}

/// Every variable of the environment that the library reads is on a page of the reference.
#[test]
fn the_pages_name_every_variable() {
    let pages: Vec<_> = files_below("docs", ".md").iter().map(|name| page(name)).collect();
    let mut names = BTreeSet::new();
    for source in ["src", "crates"].iter().flat_map(|folder| files_below(folder, ".rs")) {
        let text = page(&source);
        let quoted = text.split("\"GFPROXY_").skip(1).filter_map(|rest| rest.split_once('"'));
        names.extend(quoted.map(|(name, _)| format!("GFPROXY_{name}")));
    }
    names.retain(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') && !name.contains("GENERATED"));
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(pages.iter().any(|page| page.contains(&format!("`{name}`"))), "{name} is on no page");
    }
}

/// Every file that a page links to is there.
#[test]
fn links_lead_somewhere() {
    let mut pages = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned).to_vec();
    pages.extend(["docs", "deploy"].iter().flat_map(|folder| files_below(folder, ".md")));
    let mut lost = Vec::new();
    for name in pages {
        let text = page(&name);
        let place = root().join(&name);
        let place = place.parent().expect("a directory");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !link.contains("://") && !place.join(link).exists() {
                lost.push(format!("{name}: no {link}"));
            }
        }
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

/// The CHANGELOG names every function of the headers.
#[test]
fn the_changelog_names_every_function() {
    let changelog = page("CHANGELOG.md");
    for header in ["gfproxy.h", "shm_channel.h", "simplecache.h", "gfserver.h"] {
        // Declarations begin in the first column, comments and fields do not.
        let text = page(&format!("include/{header}"));
        let declarations = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
        let declarations = declarations.filter(|line| !line.starts_with("typedef"));
        for name in declarations.filter_map(|line| line.split_once('(')?.0.rsplit([' ', '*']).next()) {
            assert!(changelog.contains(&format!("`{name}`")), "CHANGELOG.md: no {name} of {header}");
        }
    }
}
