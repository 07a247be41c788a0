//! A GETFILE server that does exactly what a test tells it, on a port of its own. Ends with its value.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io};

/// What the server does once it has a request.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Waits until the client has read all that was sent.
    Drained,
    /// Aborts the connection, so that the client's next read fails with a reset.
    Reset,
    /// Waits, silent, until the client closes.
    Hold,
}

/// A whole file, as every GETFILE server sends it.
pub fn file(body: &[u8]) -> Vec<Step> {
    vec![Step::Send([format!("GETFILE OK {} ", body.len()).as_bytes(), body].concat()), Step::Hold]
}

pub struct GetfileServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl GetfileServer {
    /// Serves each path by its script. A path without one is refused with a reset.
    pub fn start<const N: usize>(scripts: [(&str, Vec<Step>); N]) -> Self {
        Self::start_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listening socket"), scripts)
    }

    pub fn start_on<const N: usize>(listener: TcpListener, scripts: [(&str, Vec<Step>); N]) -> Self {
        let address = listener.local_addr().expect("its address");
        let scripts: Arc<HashMap<Vec<u8>, Vec<Step>>> =
            Arc::new(scripts.into_iter().map(|(path, steps)| (path.as_bytes().to_vec(), steps)).collect());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let acceptor = thread::spawn({
            let (requests, stopping) = (requests.clone(), stopping.clone());
            move || {
                let mut connections = Vec::new();
                for stream in listener.incoming() {
                    let stream = stream.expect("a connection");
                    if stopping.load(Ordering::Relaxed) {
                        break;
                    }
                    let (scripts, requests) = (scripts.clone(), requests.clone());
                    connections.push(thread::spawn(move || serve(stream, &scripts, &requests)));
                }
                for connection in connections {
                    connection.join().expect("a connection's thread");
                }
            }
        });
        Self { address, requests, stopping, acceptor: Some(acceptor) }
    }

    pub fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// The requests so far, byte for byte, in the order in which they were complete.
    pub fn requests(&self) -> Vec<Vec<u8>> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for GetfileServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Wakes the acceptor, which then looks at the flag.
        let woken = TcpStream::connect(self.address);
        let joined = self.acceptor.take().expect("joined once").join();
        if !thread::panicking() {
            woken.expect("the acceptor listens until it is told to stop");
            joined.expect("the acceptor's thread");
        }
    }
}

fn serve(mut stream: TcpStream, scripts: &HashMap<Vec<u8>, Vec<Step>>, requests: &Mutex<Vec<Vec<u8>>>) {
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => request.push(byte[0]),
            _ => return,
        }
    }
    let path = request.split(|&byte| byte == b' ' || byte == b'\r').nth(2).unwrap_or_default().to_vec();
    requests.lock().unwrap().push(request);
    let refuse = vec![Step::Reset];
    for step in scripts.get(&path).unwrap_or(&refuse) {
        match step {
            // A client may well leave in the middle: that is what some tests are about.
            Step::Send(bytes) => drop(stream.write_all(bytes)),
            Step::Drained => wait_until_read(&stream),
            Step::Reset => return reset(stream),
            Step::Hold => hold(&mut stream),
        }
    }
    drop(stream.shutdown(Shutdown::Both));
}

/// A socket that is closed with a linger time of zero sends a reset.
fn reset(stream: TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).expect("SO_LINGER");
}

fn hold(stream: &mut TcpStream) {
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(1..) => (),
            Err(e) if e.kind() == ErrorKind::Interrupted => (),
            Ok(0) | Err(_) => return,
        }
    }
}

/// The kernel knows what has been read: nothing is left in this side's send queue, nor in the peer's receive queue.
fn wait_until_read(stream: &TcpStream) {
    let local = stream.local_addr().expect("its own address");
    // A client that has what it needs may have left.
    let Ok(peer) = stream.peer_addr() else { return };
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let sent = queues(local, peer).expect("/proc/net/tcp").is_none_or(|(send, _)| send == 0);
        let read = queues(peer, local).expect("/proc/net/tcp").is_none_or(|(_, receive)| receive == 0);
        if sent && read {
            return;
        }
        assert!(Instant::now() < deadline, "the client does not read");
        thread::yield_now();
    }
}

/// The lengths of the send and the receive queue of one IPv4 connection, if there is such a connection.
fn queues(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<(u64, u64)>> {
    let hex = |address: SocketAddr| {
        let SocketAddr::V4(v4) = address else { panic!("only IPv4 is looked up") };
        format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())
    };
    let (local, remote) = (hex(local), hex(remote));
    let table = fs::read_to_string("/proc/net/tcp")?;
    let row = table
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .find(|fields| fields.get(1) == Some(&local.as_str()) && fields.get(2) == Some(&remote.as_str()));
    let number = |text: &str| u64::from_str_radix(text, 16).expect("a hexadecimal number");
    Ok(row.and_then(|fields| fields[4].split_once(':').map(|(send, receive)| (number(send), number(receive)))))
}
