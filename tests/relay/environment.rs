//! What libcurl's users expect of the environment: proxies and certificates.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::nginx::Nginx;
use crate::programs::{ERROR, bytes, fetch, ok, program};
use crate::relay::{Relay, Route};
use crate::scripted::{After, ScriptedOrigin};

/// All that libcurl, and we, look at.
const VARIABLES: [&str; 12] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GFPROXY_ORIGIN_RETRIES",
];

/// webproxy in an environment with these of the variables and no others.
fn start(origin: &str, variables: &[(&str, &str)]) -> Relay {
    let mut command = Command::new(program("webproxy"));
    command.args(["-s", origin]);
    for name in VARIABLES {
        command.env_remove(name);
    }
    command.env("GFPROXY_ORIGIN_RETRIES", "0").envs(variables.iter().copied());
    Relay::start_command(Route::Plain, command)
}

#[test]
fn plain_http_goes_through_the_proxy_that_the_environment_names() {
    let origin = ScriptedOrigin::start(|x| x.answer("200 OK", &[], b"direct"));
    let proxy = ScriptedOrigin::start(|x| x.answer("200 OK", &[], b"through the proxy"));
    let url = proxy.url();
    let (direct, through) = (ok(b"direct"), ok(b"through the proxy"));
    for (variables, expected) in [
        (&[("http_proxy", url.as_str())][..], &through),
        (&[("ALL_PROXY", &url)], &through),
        (&[("all_proxy", &url)], &through),
        (&[("http_proxy", &url), ("no_proxy", "elsewhere.test")], &through),
        (&[("http_proxy", &url), ("no_proxy", "elsewhere.test,127.0.0.1")], &direct),
        (&[("http_proxy", &url), ("NO_PROXY", "*")], &direct),
        // A web server may be made to set it, by a header of its client.
        (&[("HTTP_PROXY", &url)], &direct),
        (&[("https_proxy", &url)], &direct),
        (&[("http_proxy", "")], &direct),
    ] {
        let relay = start(&format!("{}/base", origin.url()), variables);
        assert_eq!(&fetch(relay.port, "/a%20file"), expected, "{variables:?}");
    }
    // A proxy is asked for the whole URL, an origin for the path.
    let target = format!("{}/base/a%20file", origin.url());
    assert!(proxy.requests().iter().all(|request| request.target == target), "{:?}", proxy.requests());
    assert!(origin.requests().iter().all(|request| request.target == "/base/a%20file"), "{:?}", origin.requests());
}

#[test]
fn a_proxy_that_is_not_there_is_an_error() {
    let origin = ScriptedOrigin::start(|x| x.answer("200 OK", &[], b"direct"));
    // Nobody listens on a port that was just given back.
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let relay = start(&origin.url(), &[("http_proxy", &format!("http://127.0.0.1:{port}"))]);
    assert_eq!(fetch(relay.port, "/file"), ERROR);
    assert_eq!(origin.requests().len(), 0);
}

/// A proxy that makes tunnels, and refuses those to `refused`.
struct Tunnels {
    url: String,
    targets: Arc<Mutex<Vec<String>>>,
}

impl Tunnels {
    fn start(refused: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let targets = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&targets);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, seen) = (client.expect("a connection"), Arc::clone(&seen));
                thread::spawn(move || tunnel(client, refused, &seen));
            }
        });
        Self { url, targets }
    }

    fn targets(&self) -> Vec<String> {
        self.targets.lock().expect("not poisoned").clone()
    }
}

fn tunnel(mut client: TcpStream, refused: &str, seen: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(client.try_clone().expect("dup"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).expect("CONNECT").to_owned();
    seen.lock().expect("not poisoned").push(target.clone());
    if target.starts_with(refused) {
        let _ = client.write_all(b"HTTP/1.1 404 No Tunnel\r\nContent-Length: 4\r\n\r\npage");
        return;
    }
    let mut server = TcpStream::connect(target).expect("the target");
    // What a relay could take for the head of the file.
    client.write_all(b"HTTP/1.1 200 Tunnel\r\nETag: \"tunnel\"\r\n").expect("a client");
    client.write_all(b"Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n").expect("a client");
    let (mut up, mut from_client) = (server.try_clone().expect("dup"), reader);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut up);
        let _ = up.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn https_goes_through_a_tunnel() {
    let nginx = Nginx::start("");
    nginx.put("file", b"secret");
    let tunnels = Tunnels::start("127.0.0.1:");
    let bundle = text(&Nginx::ca_file());
    let host = format!("localhost:{}", nginx.https_port);
    for name in ["https_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        let relay = start(&nginx.https(), &[(name, &tunnels.url), ("CURL_CA_BUNDLE", &bundle)]);
        assert_eq!(fetch(relay.port, "/file"), ok(b"secret"), "{name}");
        assert_eq!(fetch(relay.port, "/none"), crate::programs::NOT_FOUND, "{name}");
    }
    assert_eq!(tunnels.targets(), [host.as_str(); 3], "a tunnel is kept");
    // What the proxy answers is not what the origin answers: this is no missing file.
    let by_address = format!("https://127.0.0.1:{}", nginx.https_port);
    let relay = start(&by_address, &[("https_proxy", &tunnels.url), ("CURL_CA_BUNDLE", &bundle)]);
    assert_eq!(fetch(relay.port, "/file"), ERROR);
}

/// A body of unknown length that outgrows the memory for such bodies.
#[test]
fn bodies_are_spooled_where_tmpdir_says() {
    let file = bytes(1, 100_000);
    let origin = ScriptedOrigin::start({
        let file = file.clone();
        move |x| {
            x.send("HTTP/1.0 200 OK\r\n\r\n");
            x.send(&file);
            After::Close
        }
    });
    let directory = tempfile::tempdir().expect("a directory");
    for (tmpdir, expected) in [(text(directory.path()), ok(&file)), ("/none".to_owned(), ERROR.to_vec())] {
        let relay = start(&origin.url(), &[("TMPDIR", &tmpdir), ("GFPROXY_ORIGIN_SPOOL_MEMORY_KB", "10")]);
        assert!(fetch(relay.port, "/file") == expected, "{tmpdir}");
    }
    assert_eq!(fs::read_dir(&directory).expect("a directory").count(), 0, "it has no name");
}

/// The memory of a body that was delivered, or that broke off, is there for the next one. None of these could go to a
/// file.
#[test]
fn bodies_that_are_kept_one_after_another_stay_in_memory() {
    let (small, large) = (bytes(1, 300_000), bytes(2, 1_000_000));
    let (files, too_large) = ((small.clone(), large.clone()), bytes(3, 1_100_000));
    let origin = ScriptedOrigin::start(move |x| {
        let body = match x.request.target.as_str() {
            "/small" => &files.0,
            "/large" => &files.1,
            "/too-large" => &too_large,
            _ => {
                x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n927c0\r\n");
                x.send(&files.1[..600_000]);
                return After::Close;
            }
        };
        x.send("HTTP/1.0 200 OK\r\n\r\n");
        x.send(body);
        After::Close
    });
    let directory = tempfile::tempdir().expect("a directory");
    let tmpdir = text(directory.path());
    let limits = [("GFPROXY_ORIGIN_SPOOL_MEMORY_KB", "1024"), ("GFPROXY_ORIGIN_SPOOL_TOTAL_KB", "2048")];
    let relay = start(&origin.url(), &[&limits[..], &[("TMPDIR", &tmpdir)]].concat());
    directory.close().expect("rmdir");
    assert_eq!(fetch(relay.port, "/too-large"), ERROR, "there is no place for a file");
    for round in 0..10 {
        assert!(fetch(relay.port, "/small") == ok(&small), "round {round}");
        assert_eq!(fetch(relay.port, "/broken"), ERROR);
    }
    assert!(fetch(relay.port, "/large") == ok(&large));
}

#[test]
fn certificates_are_those_that_the_environment_names() {
    let nginx = Nginx::start("");
    nginx.put("file", b"secret");
    let bundle = text(&Nginx::ca_file());
    let none = tempfile::tempdir().expect("a directory");
    let none = text(none.path());
    for (variables, expected) in [
        (&[][..], ERROR.to_vec()),
        (&[("CURL_CA_BUNDLE", bundle.as_str())], ok(b"secret")),
        (&[("SSL_CERT_FILE", &bundle)], ok(b"secret")),
        (&[("CURL_CA_BUNDLE", "/none"), ("SSL_CERT_FILE", &bundle)], ERROR.to_vec()),
        (&[("SSL_CERT_FILE", &bundle), ("SSL_CERT_DIR", &none)], ok(b"secret")),
        (&[("SSL_CERT_DIR", &none)], ERROR.to_vec()),
    ] {
        let relay = start(&nginx.https(), variables);
        assert_eq!(fetch(relay.port, "/file"), expected, "{variables:?}");
    }
}
