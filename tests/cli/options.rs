//! The command lines of the C programs: every option, every way to get one wrong.

use std::process::Command;

use crate::programs::{Ended, Program, program};

const WEBPROXIES: [&str; 2] = ["webproxy", "webproxy_noasan"];
const CACHEDS: [&str; 2] = ["simplecached", "simplecached_noasan"];

fn run(name: &str, arguments: &[&str]) -> Ended {
    // The environment would change the defaults that the help shows.
    Program::run(Command::new(program(name)).args(arguments).env_clear())
}

/// The program refuses `arguments` with status 2 and exactly this line.
fn refuses(name: &str, arguments: &[&str], line: &str) {
    let ended = run(name, arguments);
    assert_eq!(ended.stderr, format!("{name}: {line}\n"), "{name} {arguments:?}");
    assert_eq!(ended.status.code(), Some(2), "{name} {arguments:?}");
    assert_eq!(ended.stdout, "", "{name} {arguments:?}");
}

/// Everything that is no number from `min` to `max`, under every name of an option.
fn refuses_numbers(names: &[&str], option: &str, spellings: &[&str], min: u64, max: u64) {
    let below = min.checked_sub(1).map(|n| n.to_string());
    let above = (max + 1).to_string();
    let odd = ["", " 8", "8 ", "+8", "-1", "8x", "0x8", "1e3", "99999999999999999999999", "eight"];
    for name in names {
        for value in odd.into_iter().chain(below.as_deref()).chain([above.as_str()]) {
            refuses(name, &[spellings[0], value], &format!("{option}: '{value}' is not a number from {min} to {max}"));
        }
        for spelling in spellings {
            refuses(name, &[spelling, "x"], &format!("{option}: 'x' is not a number from {min} to {max}"));
            refuses(name, &[spelling], &format!("{option} needs a value"));
        }
    }
}

#[test]
fn webproxy_numbers() {
    let u32_max = u64::from(u32::MAX);
    refuses_numbers(&WEBPROXIES, "-p (--port)", &["-p", "--port"], 0, 65535);
    refuses_numbers(&WEBPROXIES, "--listen-port", &["--listen-port"], 0, 65535);
    refuses_numbers(&WEBPROXIES, "-t (--thread-count)", &["-t", "--thread-count"], 1, 200);
    refuses_numbers(&WEBPROXIES, "-n (--segment-count)", &["-n", "--segment-count"], 1, 4096);
    refuses_numbers(&WEBPROXIES, "-z (--segment-size)", &["-z", "--segment-size"], 824, 64 << 20);
    refuses_numbers(&WEBPROXIES, "--cache-wait-ms", &["--cache-wait-ms"], 0, u32_max);
    refuses_numbers(&WEBPROXIES, "--stall-ms", &["--stall-ms"], 1, u32_max);
    refuses_numbers(&WEBPROXIES, "--drain-ms", &["--drain-ms"], 0, u32_max);
}

#[test]
fn simplecached_numbers() {
    refuses_numbers(&CACHEDS, "-t (--nthreads)", &["-t", "--nthreads"], 1, 100);
    refuses_numbers(&CACHEDS, "-d (--delay)", &["-d", "--delay"], 0, 2_500_000);
}

#[test]
fn fileserver_numbers() {
    refuses_numbers(&["fileserver"], "-p (--port)", &["-p", "--port"], 0, 65535);
    refuses_numbers(&["fileserver"], "-t (--thread-count)", &["-t", "--thread-count"], 1, 200);
}

#[test]
fn texts_are_not_empty() {
    for name in WEBPROXIES {
        refuses(name, &["-s", ""], "-s (--server): '' is empty");
        refuses(name, &["-S", ""], "-S (--socket): '' is empty");
        refuses(name, &["-s"], "-s (--server) needs a value");
        refuses(name, &["--socket"], "-S (--socket) needs a value");
    }
    for name in CACHEDS {
        refuses(name, &["-c", ""], "-c (--cachedir): '' is empty");
        refuses(name, &["--cachedir"], "-c (--cachedir) needs a value");
        refuses(name, &["-S"], "-S (--socket) needs a value");
    }
    refuses("fileserver", &["-d", ""], "-d (--directory): '' is empty");
}

/// What no socket's address has room for is known before any is made.
#[test]
fn paths_of_sockets_have_a_most_length() {
    let (longest, longer) = (format!("/tmp/{}", "x".repeat(102)), format!("/tmp/{}", "x".repeat(103)));
    for name in [WEBPROXIES, CACHEDS].concat() {
        for spelling in ["-S", "--socket"] {
            refuses(name, &[spelling, &longer], &format!("-S (--socket): '{longer}' is longer than 107 bytes"));
        }
        // The next option is what it ends at.
        refuses(name, &["-S", &longest, "-t", "x"], &refusal_of_threads(name));
    }
}

fn refusal_of_threads(name: &str) -> String {
    let (option, max) = if WEBPROXIES.contains(&name) { ("thread-count", 200) } else { ("nthreads", 100) };
    format!("-t (--{option}): 'x' is not a number from 1 to {max}")
}

#[test]
fn addresses_of_metrics_have_host_and_port() {
    for name in [WEBPROXIES, CACHEDS].concat() {
        for address in ["", "9301", "foo", ":9301", "localhost:", "localhost:http", "127.0.0.1:99999", "[::1]"] {
            let line = format!("--metrics: '{address}' is not HOST:PORT with a port from 0 to 65535");
            refuses(name, &["--metrics", address], &line);
        }
        for address in ["127.0.0.1:0", "[::1]:65535"] {
            refuses(name, &["--metrics", address, "-t", "x"], &refusal_of_threads(name));
        }
    }
}

#[test]
fn the_version_is_cargos() {
    for name in [&WEBPROXIES[..], &CACHEDS, &["fileserver"]].concat() {
        for spelling in ["-V", "--version"] {
            let ended = run(name, &[spelling]);
            assert_eq!(ended.stdout, format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
            assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""));
        }
    }
}

#[test]
fn an_address_to_listen_on() {
    for name in WEBPROXIES {
        let addresses = ["localhost", "1.2.3", "1.2.3.4:80", "::1::"];
        let lines = addresses.map(|address| format!("{name}: -l (--listen): '{address}' is no IP address\n"));
        for (address, line) in addresses.into_iter().zip(lines) {
            let ended = run(name, &["-p", "0", "-l", address]);
            let provided = format!("{name}: -l (--listen): a provided gfserver.o takes no address\n");
            assert!([line, provided].contains(&ended.stderr), "{ended:?}");
            assert_eq!(ended.status.code(), Some(2));
        }
        refuses(name, &["-l", ""], "-l (--listen): '' is empty");
        refuses(name, &["--listen"], "-l (--listen) needs a value");
    }
}

#[test]
fn an_origin_that_is_no_url() {
    for origin in
        ["ftp://example.org", "file:///etc", "http://", "example.org:x", "http://a b/", "http://a/?b", "\u{7f}"]
    {
        let ended = run("webproxy", &["-p", "0", "-s", origin]);
        let begin = format!("webproxy: -s (--server): '{origin}' is no origin: ");
        assert!(ended.stderr.starts_with(&begin) && ended.stderr.len() > begin.len() + 5, "{ended:?}");
        assert_eq!((ended.status.code(), ended.stderr.lines().count()), (Some(2), 1), "{ended:?}");
    }
    // Standard error often goes to a log.
    for (origin, shown) in [
        ("http://me:secret@host/?b", "http://***@host/?b"),
        ("me:secret@host:x", "***@host:x"),
        ("me:secret//x@host:x", "***@host:x"),
    ] {
        let ended = run("webproxy", &["-p", "0", "-s", origin]);
        assert!(ended.stderr.starts_with(&format!("webproxy: -s (--server): '{shown}' is no origin: ")), "{ended:?}");
        assert!(!ended.stderr.contains("secret"), "{ended:?}");
    }
}

#[test]
fn segments_too_large_together() {
    for name in WEBPROXIES {
        let line = "-n (--segment-count) 65 times -z (--segment-size) 67108864 is more than 4294967296 bytes";
        refuses(name, &["-n", "65", "-z", "67108864"], line);
    }
}

#[test]
fn unknown_options_and_arguments() {
    for name in [&WEBPROXIES[..], &CACHEDS, &["fileserver"]].concat() {
        for unknown in ["-q", "-x", "-k", "-?", "-:"] {
            refuses(name, &[unknown], &format!("unknown option {unknown}; {name} -h lists all"));
        }
        refuses(name, &["--nonsense"], &format!("unknown or ambiguous option --nonsense; {name} -h lists all"));
        refuses(name, &["--help=1"], "-h (--help) takes no value: '--help=1'");
        refuses(name, &["8080"], "unexpected argument '8080'");
        refuses(name, &["--", "-h"], "unexpected argument '-h'");
    }
    // --se: --server, --segment-count or --segment-size
    refuses("webproxy", &["--se", "1"], "unknown or ambiguous option --se; webproxy -h lists all");
    refuses("simplecached", &["--verbose=2"], "-v (--verbose) takes no value: '--verbose=2'");
}

#[test]
fn help_names_every_option_with_default_and_range() {
    let webproxy = [
        "  -p, --port N             listen on this port, 0: any free one [25362; 0 to 65535]",
        "  -l, --listen ADDRESS     listen on this address alone (our gfserver only)",
        "  -t, --thread-count N     worker threads [8; 1 to 200]",
        "  -s, --server URL         base URL of the origin to relay to",
        "  -n, --segment-count N    shared-memory segments [32; 1 to 4096]",
        "  -z, --segment-size N     bytes in a segment [1048576; 824 to 67108864]",
        "  -S, --socket PATH        command socket of simplecached \
         [$XDG_RUNTIME_DIR/simplecached.sock, else /tmp/gfproxy-UID/simplecached.sock]",
        "      --cache-wait-ms N    milliseconds that a request waits for an absent simplecached [10000; 0 to 4294967295]",
        "      --stall-ms N         drop a client that does not read for so many milliseconds [30000; 1 to 4294967295]",
        "      --drain-ms N         on SIGTERM, let transfers run for so many milliseconds [5000; 0 to 4294967295]",
        "      --metrics HOST:PORT  serve Prometheus metrics on this address, port 0: any free one",
        "  -v, --verbose            log more: -v info, -vv debug, -vvv trace",
        "  -V, --version            print the version",
        "  -h, --help               print this text",
    ];
    let simplecached = [
        "  -c, --cachedir FILE      the locals file: a key and a path a line [locals.txt]",
        "  -t, --nthreads N         worker threads [8; 1 to 100]",
        "  -d, --delay N            microseconds by which each lookup is delayed [0; 0 to 2500000]",
        "  -S, --socket PATH        command socket to listen on \
         [$XDG_RUNTIME_DIR/simplecached.sock, else /tmp/gfproxy-UID/simplecached.sock]",
        "      --metrics HOST:PORT  serve Prometheus metrics on this address, port 0: any free one",
        "  -v, --verbose            log more: -v info, -vv debug, -vvv trace",
        "  -V, --version            print the version",
        "  -h, --help               print this text",
    ];
    let fileserver = [
        "  -p, --port N             listen on this port, 0: any free one [8888; 0 to 65535]",
        "  -t, --thread-count N     worker threads [8; 1 to 200]",
        "  -d, --directory PATH     serve the files of this directory [.]",
        "  -v, --verbose            log more: -v info, -vv debug, -vvv trace",
        "  -V, --version            print the version",
        "  -h, --help               print this text",
    ];
    let all = [
        ("webproxy", &webproxy[..]),
        ("webproxy_noasan", &webproxy),
        ("simplecached", &simplecached),
        ("simplecached_noasan", &simplecached),
        ("fileserver", &fileserver),
    ];
    for (name, rows) in all {
        for spelling in ["-h", "--help"] {
            let ended = run(name, &[spelling]);
            assert_eq!(ended.stdout, format!("usage: {name} [options]\n{}\n", rows.join("\n")));
            assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""));
        }
    }
}
