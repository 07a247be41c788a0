//! What a program that either side starts would have in its hands.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

use nix::unistd::Pid;

use crate::library::Library;
use crate::pair::{Webproxy, start_daemon};
use crate::programs::request;

/// What a process has open: numbers, and what they lead to. One that is closed meanwhile is left out.
fn open(pid: Pid) -> Vec<(String, PathBuf)> {
    let numbers =
        fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").map(|entry| entry.expect("an entry").file_name());
    let numbers = numbers.map(|number| number.into_string().expect("digits"));
    numbers
        .filter_map(|number| Some((number.clone(), fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()?)))
        .collect()
}

fn closes_on_exec(pid: Pid, number: &str) -> bool {
    let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")) else { return true };
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
    i32::from_str_radix(flags.trim(), 8).expect("flags") & libc::O_CLOEXEC != 0
}

#[test]
fn no_descriptor_of_either_program_outlives_an_exec() {
    let library = Library::new(&[1000]);
    let daemon = start_daemon(&library, &[]);
    let mut proxy = Webproxy::start(&library, &[]);
    proxy.connected(1);
    let mut client = request(proxy.port, "/0");
    client.read_exact(&mut [0; 10]).expect("an answer");
    // Such as those of a jobserver, and standard input, output and error.
    let inherited: BTreeSet<_> = open(Pid::this()).into_iter().map(|(_, target)| target).collect();
    for pid in [daemon.pid(), proxy.program.pid()] {
        let own = open(pid).into_iter().filter(|(_, target)| !inherited.contains(target));
        let own: Vec<_> = own.filter(|(number, _)| !["0", "1", "2"].contains(&number.as_str())).collect();
        assert!(own.len() > 4, "{own:?}");
        let left: Vec<_> = own.iter().filter(|(number, _)| !closes_on_exec(pid, number)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
