//! TLS at its edges: an origin that chooses its records, and a way to an origin that cuts off the end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::Nginx;

/// openssl(1) as a server of one connection at a time, without ALPN.
pub struct TlsOrigin {
    pub port: u16,
    child: Mutex<Child>,
    input: Mutex<ChildStdin>,
    output: Mutex<BufReader<ChildStdout>>,
}

impl TlsOrigin {
    pub fn start() -> Self {
        // Another program may take the port between our look and openssl's.
        (0..10).find_map(|_| Self::try_start()).expect("openssl s_server listens")
    }

    fn try_start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let directory = Nginx::ca_file().parent().expect("a directory").to_owned();
        let mut child = Command::new("openssl")
            .args(["s_server", "-quiet", "-cert", "cert.pem", "-key", "key.pem", "-accept"])
            .arg(format!("127.0.0.1:{port}"))
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_listening(port) {
            if child.try_wait().expect("wait").is_some() {
                return None;
            }
            assert!(Instant::now() < deadline, "openssl does not listen");
            thread::yield_now();
        }
        let input = Mutex::new(child.stdin.take().expect("a pipe"));
        let output = Mutex::new(BufReader::new(child.stdout.take().expect("a pipe")));
        Some(Self { port, child: Mutex::new(child), input, output })
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// Reads a request up to its end; false once the server was stopped.
    pub fn read_request(&self) -> bool {
        let mut output = self.output.lock().expect("not poisoned");
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if output.read_line(&mut line).expect("a pipe") == 0 {
                return false;
            }
        }
        true
    }

    /// Sends a record.
    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        let mut input = self.input.lock().expect("not poisoned");
        input.write_all(bytes.as_ref()).expect("openssl reads");
        // What it reads at once becomes one record.
        while unread(&input) > 0 {
            thread::yield_now();
        }
    }

    pub fn stop(&self) {
        let mut child = self.child.lock().expect("not poisoned");
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The number of bytes in a pipe.
#[allow(unsafe_code)]
fn unread(pipe: &ChildStdin) -> libc::c_int {
    let mut bytes = 0;
    // SAFETY: this request writes an int.
    let code = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    assert_eq!(code, 0, "FIONREAD");
    bytes
}

impl Drop for TlsOrigin {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Looked up, not tried: a connection would be the one that is served.
fn is_listening(port: u16) -> bool {
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("the sockets");
    let address = format!("0100007F:{port:04X}");
    sockets.lines().any(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        fields.get(1) == Some(&address.as_str()) && fields[3] == "0A"
    })
}

/// Passes connections on to a TLS server, and all that it sends but close_notify.
pub fn breaking_relay(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let relay_port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a connection");
            let server = TcpStream::connect(("127.0.0.1", port)).expect("the server");
            let (mut from, mut to) = (client.try_clone().expect("dup"), server.try_clone().expect("dup"));
            thread::spawn(move || io::copy(&mut from, &mut to));
            thread::spawn(move || {
                let _ = pass_records(server, &client);
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    });
    relay_port
}

fn pass_records(mut server: TcpStream, mut client: &TcpStream) -> io::Result<()> {
    loop {
        let mut record = vec![0; 5];
        server.read_exact(&mut record)?;
        let length = u16::from_be_bytes([record[3], record[4]]);
        record.resize(5 + usize::from(length), 0);
        server.read_exact(&mut record[5..])?;
        // An alert, in TLS 1.3 known by its length: 2 bytes, their type and a tag of 16.
        if record[0] != 21 && (record[0], length) != (23, 19) {
            client.write_all(&record)?;
        }
    }
}
