//! Both clients' command lines: every bad option is one line that names the option, the value and the range.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use crate::getfile_client::{DOWNLOAD, MEASURE, directory, names, run};

#[test]
fn bad_values_are_named_with_their_range() {
    let thread_count = ("--thread-count", "1 to 100");
    let request_count = ("--request-count", "1 to 1000");
    let port = ("--port", "1 to 65535");
    let cases = [
        ("-t", "0", thread_count),
        ("-t", "101", thread_count),
        ("-t", "-1", thread_count),
        ("-t", "many", thread_count),
        ("-t", "", thread_count),
        ("-r", "0", request_count),
        ("-r", "1001", request_count),
        ("-r", "99999999999999999999", request_count),
        ("-r", "1.5", request_count),
        ("-p", "0", port),
        ("-p", "65536", port),
        ("-p", "http", port),
        ("--rounds", "0", ("--rounds", "1 to 1000000")),
        ("--connect-timeout", "0", ("--connect-timeout", "0.001 to 86400")),
        ("--read-timeout", "nan", ("--read-timeout", "0.001 to 86400")),
        ("--read-timeout", "inf", ("--read-timeout", "0.001 to 86400")),
        ("--refused-timeout", "86401", ("--refused-timeout", "0 to 86400")),
    ];
    let special = [("-q", "0", ("-q", "1 to 100000")), ("-i", "0", ("-i", "0.001 to 86400"))];
    let place = directory(&[b"/a"]);
    let both = [DOWNLOAD, MEASURE].into_iter().flat_map(|program| cases.map(|case| (program, case)));
    for (program, (option, value, (name, range))) in both.chain(special.map(|case| (MEASURE, case))) {
        let ended = run(program, place.path(), &[&format!("{option}={value}")]);
        assert_eq!(ended.status, 2, "{option} {value}: {ended:?}");
        let line = ended.one_line();
        assert!(line.contains(name), "{option} {value}: {line}");
        assert!(value.is_empty() || line.contains(&format!("'{value}'")), "{option} {value}: {line}");
        assert!(line.contains(range) || value.is_empty(), "{option} {value}: {line}");
        assert_eq!(ended.stdout, "");
    }
    assert!(names(place.path()).is_empty(), "a bad option leaves nothing behind");
}

#[test]
fn unknown_options_missing_values_and_stray_arguments_are_named() {
    let place = directory(&[b"/a"]);
    for program in [DOWNLOAD, MEASURE] {
        for (arguments, named) in [
            (["-t", "1", "-z"], "-z"),
            (["-t", "1", "--zap"], "--zap"),
            (["-t", "1", "stray"], "stray"),
            (["-t", "1", "-p"], "--port"),
        ] {
            let ended = run(program, place.path(), &arguments);
            assert_eq!(ended.status, 2, "{ended:?}");
            assert!(ended.one_line().contains(named), "{ended:?}");
        }
    }
    let ended = run(DOWNLOAD, place.path(), &["-x"]);
    assert_eq!(ended.status, 2, "the special options are gfclient_measure's alone");
}

#[test]
fn help_names_every_option_and_succeeds() {
    let place = directory(&[]);
    for (program, own) in [(DOWNLOAD, &[][..]), (MEASURE, &["-m,", "-q ", "-i ", "-x "])] {
        for option in ["-h", "--help"] {
            let ended = run(program, place.path(), &[option]);
            assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
            for known in ["-s,", "-p,", "-t,", "-w,", "-r,", "-h,", "6200", "1 to 100)", "1 to 1000)"].iter().chain(own)
            {
                assert!(ended.stdout.contains(known), "{known}: {}", ended.stdout);
            }
        }
    }
}

#[test]
fn the_last_of_a_repeated_option_counts_and_long_names_are_the_kits() {
    let place = directory(&[b"/a"]);
    let arguments = ["-t", "7", "-t", "0"];
    assert_eq!(run(DOWNLOAD, place.path(), &arguments).status, 2, "the last value is the bad one");
    let arguments = ["--server", "127.0.0.1", "--port", "1", "--thread-count", "2", "--workload-path", "workload.txt"];
    let rest = ["--request-count", "2", "--refused-timeout", "0", "--metrics-path", "m.txt"];
    let ended = run(MEASURE, place.path(), &[&arguments[..], &rest].concat());
    assert_eq!(ended.status, 1, "{ended:?}");
    assert_eq!(names(place.path()), ["m.txt"]);
}

#[test]
fn a_workload_that_cannot_be_used_is_named() {
    let place = directory(&[]);
    let file = |name: &str| place.path().join(name);
    fs::write(file("blank.txt"), " \n\t\r\n").unwrap();
    fs::write(file("relative.txt"), "/good\n/fine bad\n").unwrap();
    fs::create_dir(file("dir")).unwrap();
    fs::write(file("secret.txt"), "/a").unwrap();
    fs::set_permissions(file("secret.txt"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut cases = vec![
        ("none.txt", "cannot read workload file none.txt: No such file or directory (os error 2)"),
        ("dir", "cannot read workload file dir: Is a directory (os error 21)"),
        ("blank.txt", "workload file blank.txt holds no path"),
        ("relative.txt", "workload file relative.txt, line 2: bad does not begin with /"),
    ];
    if nix::unistd::geteuid().is_root() {
        // Not with println, which cargo hides.
        let why = "SKIPPED: a workload file without permission to read: root may read all";
        writeln!(std::io::stderr(), "{why}").expect("standard error");
    } else {
        cases.push(("secret.txt", "cannot read workload file secret.txt: Permission denied (os error 13)"));
    }
    for program in [DOWNLOAD, MEASURE] {
        for (name, error) in &cases {
            let ended = run(program, place.path(), &["-w", name]);
            assert_eq!(ended.status, 1, "{ended:?}");
            assert!(ended.one_line().ends_with(&format!(": {error}")), "{}", ended.stderr);
        }
    }
    assert!(!file("metrics.txt").exists());
}

#[test]
fn a_server_name_without_an_address_is_named() {
    let place = directory(&[b"/a"]);
    let ended = run(DOWNLOAD, place.path(), &["-s", "no-such-host.invalid"]);
    assert_eq!(ended.status, 1);
    let line = ended.one_line();
    assert!(line.starts_with("gfclient_download: server no-such-host.invalid port 6200: "), "{line}");
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_path() {
    let place = directory(&[]);
    fs::write(place.path().join("marked.txt"), "\u{feff}/good\n/fine bad\n").expect("a file");
    let ended = run(DOWNLOAD, place.path(), &["-w", "marked.txt"]);
    assert!(ended.one_line().ends_with("line 2: bad does not begin with /"), "{}", ended.stderr);
}
