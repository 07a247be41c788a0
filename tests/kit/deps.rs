//! `scripts/deps.sh` on machines that miss something. A directory of wrappers is the whole PATH, so that a program
//! which is not in it counts as missing, and its apt-get installs into it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::programs::{Ended, Program};

/// The version in Cargo.toml.
const RUST: &str = env!("CARGO_PKG_RUST_VERSION");
const RUSTUP: &str = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . ~/.cargo/env";

struct Machine {
    path: TempDir,
}

impl Machine {
    /// A machine on which the user has this id, with everything but `missing`.
    fn new(uid: u32, missing: &[&str]) -> Self {
        let machine = Self { path: tempfile::tempdir().expect("a directory") };
        for tool in ["cargo", "gcc", "pkg-config"] {
            if !missing.contains(&tool) {
                machine.add(tool, &real(tool));
            }
        }
        // Not a wrapper with another PATH: what env starts is to come from this one.
        symlink("/usr/bin/env", machine.path.path().join("env")).expect("symlink");
        machine.add("id", &format!("echo {uid}"));
        machine
    }

    fn add(&self, name: &str, script: &str) {
        let file = self.path.path().join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a wrapper");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    /// An apt-get that writes down how it was called; an install brings a working gcc if asked for one.
    fn add_apt_get(&self) {
        let here = self.path.path().display();
        let gcc = real("gcc").replace('$', "\\$");
        self.add(
            "apt-get",
            &format!(
                "echo \"$*\" >> {here}/log\ncase \"$*\" in *install*gcc*)\nPATH=/usr/bin:/bin\ncat > {here}/gcc <<END\n\
                 #!/bin/sh\n{gcc}\nEND\nchmod +x {here}/gcc;; esac"
            ),
        );
    }

    fn apt_get_calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path.path().join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn deps(&self) -> Ended {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deps.sh");
        Program::run(Command::new("/bin/bash").arg(script).arg("build").env("PATH", self.path.path()))
    }
}

/// A script that becomes the program as this machine has it.
fn real(name: &str) -> String {
    format!("PATH={} exec {name} \"$@\"", std::env::var("PATH").expect("a PATH"))
}

#[test]
fn nothing_is_done_where_nothing_misses() {
    let machine = Machine::new(0, &[]);
    machine.add_apt_get();
    let ended = machine.deps();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
    assert!(machine.apt_get_calls().is_empty());
}

#[test]
fn root_installs_what_is_missing_and_nothing_else() {
    let machine = Machine::new(0, &["gcc"]);
    machine.add_apt_get();
    let ended = machine.deps();
    assert!(ended.status.success(), "{ended:?}");
    // Without gcc nothing can be said of libcurl either.
    let packages = "gcc libc6-dev libcurl4-openssl-dev";
    assert_eq!(ended.stdout, format!("Installing what is missing: {packages}\n"));
    assert_eq!(
        machine.apt_get_calls(),
        ["-qq -y update", &format!("-qq -y install --no-install-recommends {packages}")]
    );
}

#[test]
fn an_installation_that_does_not_help_is_said() {
    let machine = Machine::new(0, &["pkg-config"]);
    machine.add_apt_get();
    let ended = machine.deps();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(ended.stderr, "Still missing after apt-get: pkg-config\n");
}

#[test]
fn an_installation_that_fails_is_said() {
    let machine = Machine::new(0, &["pkg-config"]);
    machine.add("apt-get", "exit 100");
    let ended = machine.deps();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(ended.stderr, "apt-get failed; please install: pkg-config\n");
}

#[test]
fn who_may_not_install_is_told_what_to_install() {
    let expected = "Missing, please install (names of Debian packages): pkg-config\n";
    // No apt-get.
    let ended = Machine::new(0, &["pkg-config"]).deps();
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(1), expected));
    // Not root, and no sudo.
    let machine = Machine::new(1000, &["pkg-config"]);
    machine.add_apt_get();
    let ended = machine.deps();
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(1), expected));
    assert!(machine.apt_get_calls().is_empty());
}

#[test]
fn sudo_is_used_where_it_asks_for_nothing() {
    let machine = Machine::new(1000, &["gcc"]);
    machine.add_apt_get();
    machine.add("true", "");
    machine.add("sudo", "[ \"$1\" = -n ] && shift\nexec \"$@\"");
    let ended = machine.deps();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(machine.apt_get_calls().len(), 2);
}

#[test]
fn a_missing_toolchain_is_said() {
    let ended = Machine::new(0, &["cargo"]).deps();
    assert_eq!(ended.status.code(), Some(1));
    let expected = format!("Rust {RUST} or newer is missing (no cargo in PATH): {RUSTUP}\n");
    assert_eq!(ended.stderr, expected);
}

#[test]
fn a_toolchain_that_is_too_old_is_said() {
    let minor: u32 = RUST.split('.').nth(1).and_then(|minor| minor.parse().ok()).expect("1.N");
    let cargo = |version: &str| {
        let machine = Machine::new(0, &["cargo"]);
        machine.add("cargo", &format!("echo 'cargo {version} (0123abc 2022-01-01)'"));
        machine
    };
    let older = format!("1.{}", minor - 1);
    for (version, told) in [(format!("{older}.1"), older.as_str()), ("0.99.0".to_owned(), "0.99")] {
        let machine = cargo(&version);
        let ended = machine.deps();
        assert_eq!(ended.status.code(), Some(1), "{version}");
        let path = machine.path.path().join("cargo");
        let expected = format!("Rust {RUST} or newer is needed, {} is {told}: {RUSTUP}\n", path.display());
        assert_eq!(ended.stderr, expected);
    }
    for version in [format!("{RUST}.0"), format!("1.{}.0-nightly", minor + 100), "2.0.0".to_owned()] {
        assert!(cargo(&version).deps().status.success(), "{version}");
    }

    // Where rustup is at hand, it need not be installed.
    let machine = cargo("1.63.0");
    machine.add("rustup", "exit 1");
    assert!(machine.deps().stderr.ends_with(" is 1.63: rustup update stable && rustup default stable\n"));
    // A shim of rustup's without a toolchain.
    let machine = cargo("1.63.0");
    machine.add("cargo", "exit 1");
    assert!(machine.deps().stderr.contains(" is of an unknown version: "));
}
