//! An HTTP origin on a free port that answers each request as a test's script says, and misbehaves on purpose.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A request as the origin got it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The target as it was on the wire.
    pub target: String,
    pub fields: Vec<(String, String)>,
    /// Which connection it came over, counted from 0.
    pub connection: usize,
    /// Which request of all it is, counted from 0.
    pub number: usize,
}

impl Request {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What becomes of the connection after an answer.
pub enum After {
    Keep,
    Close,
    /// Closed with a reset; what was not yet read by the other side is lost.
    Reset,
}

/// One request being answered.
pub struct Exchange<'a> {
    pub request: Request,
    stream: &'a TcpStream,
    state: &'a State,
}

impl Exchange<'_> {
    /// Sends as much as the other side takes: what becomes of the rest is for the test to see.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes);
    }

    /// Whether the other side took it.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Waits until the other side closes the connection.
    pub fn wait_for_close(&mut self) {
        while self.stream.read(&mut [0; 1024]).is_ok_and(|len| len > 0) {}
    }

    /// Sends a whole answer with its length.
    pub fn answer(&mut self, status: &str, fields: &[&str], body: &[u8]) -> After {
        let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
        fields.iter().for_each(|field| head += &format!("{field}\r\n"));
        self.send([head.as_bytes(), b"\r\n", body].concat());
        After::Keep
    }

    /// Waits, as a part of the script; false if the origin is to stop meanwhile.
    pub fn pause(&self, time: Duration) -> bool {
        let stopped = self.state.stopped.lock().expect("not poisoned");
        let (stopped, _) =
            self.state.stop.wait_timeout_while(stopped, time, |stopped| !*stopped).expect("not poisoned");
        !*stopped
    }
}

type Script = dyn Fn(&mut Exchange<'_>) -> After + Send + Sync;

struct Connection {
    stream: TcpStream,
    /// From the end of a request's head to the end of its script.
    busy: AtomicBool,
}

struct State {
    script: Box<Script>,
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    open: Mutex<BTreeMap<usize, Arc<Connection>>>,
    stopped: Mutex<bool>,
    stop: Condvar,
    refusing: AtomicBool,
}

pub struct ScriptedOrigin {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

impl ScriptedOrigin {
    pub fn start(script: impl Fn(&mut Exchange<'_>) -> After + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").expect("a free port"), script)
    }

    pub fn start_on(
        listener: TcpListener,
        script: impl Fn(&mut Exchange<'_>) -> After + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            script: Box::new(script),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: Mutex::default(),
            stopped: Mutex::new(false),
            stop: Condvar::new(),
            refusing: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let acceptor = thread::spawn(move || accept(&listener, &shared));
        Self { address, state, acceptor: Some(acceptor) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().expect("not poisoned").clone()
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Whether no request is being answered.
    pub fn is_idle(&self) -> bool {
        !self.state.open.lock().expect("not poisoned").values().any(|connection| connection.busy.load(Ordering::SeqCst))
    }

    /// Sends something unasked over each connection on which no request is being answered.
    pub fn send_unasked(&self, mut bytes: impl FnMut() -> Vec<u8>) {
        for connection in self.state.open.lock().expect("not poisoned").values() {
            if !connection.busy.load(Ordering::SeqCst) {
                // Fails where the other side has closed it.
                let _ = (&connection.stream).write_all(&bytes());
            }
        }
    }
}

impl Drop for ScriptedOrigin {
    fn drop(&mut self) {
        *self.state.stopped.lock().expect("not poisoned") = true;
        self.state.stop.notify_all();
        self.state.refusing.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let result = acceptor.join();
            assert!(result.is_ok() || thread::panicking(), "the script panicked");
        }
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for stream in listener.incoming() {
        if state.refusing.load(Ordering::SeqCst) {
            break;
        }
        let connection = Arc::new(Connection { stream: stream.expect("a connection"), busy: AtomicBool::new(false) });
        let number = state.connections.fetch_add(1, Ordering::SeqCst);
        state.open.lock().expect("not poisoned").insert(number, Arc::clone(&connection));
        let (ended, running) = threads.into_iter().partition(JoinHandle::is_finished);
        threads = running;
        join(ended);
        let state = Arc::clone(state);
        threads.push(thread::spawn(move || serve(&connection, number, &state)));
    }
    let open = || state.open.lock().expect("not poisoned");
    open().values().for_each(|connection| drop(connection.stream.shutdown(Shutdown::Both)));
    join(threads);
}

fn join(threads: Vec<JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("the script panicked"));
}

fn serve(connection: &Connection, number: usize, state: &State) {
    let stream = &connection.stream;
    if converse(connection, number, state) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&stream.as_fd(), nix::sys::socket::sockopt::Linger, &linger).expect("SO_LINGER");
        // Forgets the connection on the spot: whoever else holds it must not keep it open.
        disconnect(stream);
    } else {
        let _ = stream.shutdown(Shutdown::Both);
    }
    state.open.lock().expect("not poisoned").remove(&number);
}

/// connect(2) to AF_UNSPEC resets a TCP connection, whoever else holds a descriptor of it.
#[allow(unsafe_code)]
fn disconnect(stream: &TcpStream) {
    use std::os::fd::AsRawFd;
    let address = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the kernel reads size_of::<sockaddr>() bytes of a value that outlives the call.
    unsafe { libc::connect(stream.as_raw_fd(), &raw const address, size_of::<libc::sockaddr>() as libc::socklen_t) };
}

/// Answers the requests of a connection; true if it is to end in a reset.
fn converse(Connection { stream, busy }: &Connection, connection: usize, state: &State) -> bool {
    let mut reader = BufReader::new(stream);
    while let Ok(Some((target, fields))) = read_request(&mut reader) {
        busy.store(true, Ordering::SeqCst);
        let request = {
            let mut requests = state.requests.lock().expect("not poisoned");
            let request = Request { target, fields, connection, number: requests.len() };
            requests.push(request.clone());
            request
        };
        match (state.script)(&mut Exchange { request, stream, state }) {
            After::Keep => {}
            After::Close => return false,
            After::Reset => return true,
        }
        busy.store(false, Ordering::SeqCst);
    }
    false
}

type Head = (String, Vec<(String, String)>);

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let Some((request, fields)) = lines.split_first() else {
        return Ok(None);
    };
    let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let fields = fields.iter().filter_map(|line| line.split_once(':'));
    Ok(Some((target, fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())))
}
