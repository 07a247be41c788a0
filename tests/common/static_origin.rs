//! An HTTP origin on port 0 that serves bytes from memory and answers 404 to everything else.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::thread::{self, JoinHandle};

use nix::sys::socket;

use crate::fixture::Files;

/// Serves until dropped.
pub struct StaticOrigin {
    url: String,
    listener: TcpListener,
    acceptor: Option<JoinHandle<()>>,
}

impl StaticOrigin {
    pub fn start(files: Files) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (accepting, files) = (listener.try_clone().expect("dup"), files);
        let acceptor = thread::spawn(move || accept(&accepting, &files));
        Self { url, listener, acceptor: Some(acceptor) }
    }

    /// The base URL, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for StaticOrigin {
    fn drop(&mut self) {
        // Shutting a listening socket down ends the accept(2) that waits on it.
        socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both).expect("shutdown");
        self.acceptor.take().expect("joined once").join().expect("the origin");
    }
}

fn accept(listener: &TcpListener, files: &Files) {
    let connections = Mutex::new(Vec::new());
    thread::scope(|scope| {
        while let Ok((stream, _)) = listener.accept() {
            connections.lock().expect("a list").push(stream.try_clone().expect("dup"));
            scope.spawn(move || serve(&stream, files));
        }
        for stream in connections.lock().expect("a list").drain(..) {
            // Fails where the client has left.
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
}

/// Answers requests until the client leaves or the connection is shut down.
fn serve(stream: &TcpStream, files: &Files) {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            if reader.read_line(&mut request).unwrap_or(0) == 0 {
                return;
            }
        }
        let path = request.split_whitespace().nth(1).expect("a request line");
        let (status, body) = files.get(path).map_or(("404 Not Found", &b"<h1>gone</h1>"[..]), |f| ("200 OK", f));
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(body)).is_err() {
            return;
        }
    }
}
