//! A scraper: Prometheus text over HTTP.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::programs::Program;

/// Where a program that was started with `-v --metrics 127.0.0.1:0` serves them: its log says so.
pub fn address(program: &mut Program) -> String {
    let mut address = None;
    program.until("says where its metrics are", |program| {
        let told = program.stderr_so_far();
        let rest = told.split("metrics are at http://").nth(1).and_then(|rest| rest.split_once("/metrics"));
        address = rest.map(|(address, _)| address.to_owned());
        address.is_some()
    });
    address.expect("it was found")
}

/// The whole answer to these bytes.
pub fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
    stream.write_all(request.as_bytes()).expect("write");
    let mut answer = String::new();
    // The end may be a reset, where the server did not read all of a request that it refused.
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// The text of all metrics.
pub fn text(address: &str) -> String {
    let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{head}");
    body.to_owned()
}

/// Each series, with its labels, and its value.
pub fn series(address: &str) -> BTreeMap<String, f64> {
    let text = text(address);
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.map(|row| {
        let (series, value) = row.rsplit_once(' ').expect("a value");
        (series.to_owned(), value.parse().expect("a number"))
    })
    .collect()
}
