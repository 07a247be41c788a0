//! What the origin does with a request: what is usual, what is unusual and right, and what fails.

use std::io::Write;
use std::time::Duration;

use fastrand::Rng;
use flate2::{Compression, write::GzEncoder};

use crate::ledger::Fault;
use crate::scripted::{After, Exchange};
use crate::stream::content;

/// A version that no file ever has.
const GHOST: u32 = 0x0800_0000;
/// What is sent in one piece comes in one segment, so that its end is not still on its way when its beginning is read.
const ONE_SEGMENT: u64 = 30_000;
const PIECE: usize = 64 << 10;
/// Longer than the proxies wait for the next byte.
const STALL: Duration = Duration::from_millis(2500);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Act {
    Plain,
    // Unusual, and no reason to fail.
    Closing,
    Forgetful,
    Interim,
    Label,
    Gzip,
    Chunked,
    CloseDelimited,
    Surplus,
    Rangeless,
    // Failures after which the proxy is to ask again.
    Reset,
    Short,
    BrokenChunk,
    ResetUnannounced,
    // Failures that may end a request.
    Stall,
    Silent,
    BrokenGzip,
    Status,
    Nonsense,
    Doubled,
    StaleRange,
}

/// How often each is drawn.
const ACTS: [(Act, usize); 21] = [
    (Act::Plain, 60),
    (Act::Closing, 4),
    (Act::Forgetful, 4),
    (Act::Interim, 3),
    (Act::Label, 4),
    (Act::Gzip, 3),
    (Act::Chunked, 6),
    (Act::CloseDelimited, 4),
    (Act::Surplus, 6),
    (Act::Rangeless, 20),
    (Act::Reset, 8),
    (Act::Short, 8),
    (Act::Stall, 1),
    (Act::Silent, 1),
    (Act::BrokenChunk, 3),
    (Act::BrokenGzip, 2),
    (Act::ResetUnannounced, 2),
    (Act::Status, 5),
    (Act::Nonsense, 2),
    (Act::Doubled, 2),
    (Act::StaleRange, 20),
];

impl Act {
    pub fn draw(random: &mut Rng) -> Self {
        let acts: Vec<_> = ACTS.iter().flat_map(|&(act, times)| vec![act; times]).collect();
        acts[random.usize(..acts.len())]
    }

    /// Whether the answer may fail for it.
    pub fn fault(self) -> Option<Fault> {
        match self {
            Self::Reset | Self::Short | Self::BrokenChunk | Self::ResetUnannounced => Some(Fault::Passing),
            act if act > Self::ResetUnannounced => Some(Fault::Lasting),
            _ => None,
        }
    }
}

/// Whether a version has a name by which the rest of it can be asked for. A weak ETag is none.
pub fn is_named(version: u32) -> bool {
    version % 5 < 3
}

/// One version of a file, as it is sent.
#[derive(Clone)]
pub struct Entity {
    file: usize,
    version: u32,
    pub len: u64,
    /// The first byte that is asked for.
    pub first: u64,
    /// ETag and Last-Modified.
    fields: String,
}

impl Entity {
    /// Two versions share neither ETag nor Last-Modified; some have only one, or none.
    pub fn new(file: usize, version: u32, len: u64) -> Self {
        let tag = format!("\"{file}-{version}\"");
        let time = format!("Last-Modified: {}\r\nDate: {}\r\n", date(version), date(u32::MAX));
        let fields = match version % 5 {
            0 => format!("ETag: {tag}\r\n"),
            1 => time,
            2 => format!("ETag: {tag}\r\n{time}"),
            3 => format!("ETag: W/{tag}\r\n{time}"),
            _ => String::new(),
        };
        Self { file, version, len, first: 0, fields }
    }

    /// A version that the file never has, with validators of the same kinds, or of one of them, and others than this
    /// one's.
    fn ghost(&self, random: &mut Rng) -> Self {
        let tag = format!("ETag: {}\"ghost\"\r\n", if random.bool() { "W/" } else { "" });
        // A time that is as new as its Date tells no versions apart, but it is another one.
        let now = date(if random.bool() { self.version + 1 } else { u32::MAX });
        let time = format!("Last-Modified: {}\r\nDate: {now}\r\n", date(self.version + 1));
        let fields = match (self.version % 5, random.u32(..3)) {
            (0, _) | (2 | 3, 0) => tag,
            (1, _) | (2 | 3, 1) => time,
            _ => tag + &time,
        };
        Self { version: self.version | GHOST, fields, ..self.clone() }
    }

    pub fn is_named_by(&self, if_range: &str) -> bool {
        self.fields.contains(&format!(": {if_range}\r\n"))
    }

    fn body(&self) -> Vec<u8> {
        let aligned = self.first / 16 * 16;
        content(self.file, self.version, aligned, self.len).split_off((self.first - aligned) as usize)
    }

    fn head(&self, more: &str) -> String {
        let (first, len) = (self.first, self.len);
        let status = if first > 0 { "206 Partial Content" } else { "200 OK" };
        let range =
            if first > 0 { format!("Content-Range: bytes {first}-{}/{len}\r\n", len - 1) } else { String::new() };
        format!("HTTP/1.1 {status}\r\n{range}{}{more}\r\n", self.fields)
    }

    fn head_with_length(&self, more: &str) -> String {
        self.head(&format!("Content-Length: {}\r\n{more}", self.len - self.first))
    }
}

/// A time for each version, all of them long ago.
fn date(version: u32) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + u64::from(version));
    httpdate::fmt_http_date(time)
}

/// What comes unasked, or behind a body: answers, with another version's bytes and without, and what is none.
pub fn stray(random: &mut Rng, file: usize) -> Vec<u8> {
    let ghost = Entity::new(file, GHOST, 4096);
    match random.u32(..5) {
        0 => [ghost.head_with_length("").as_bytes(), &ghost.body()].concat(),
        1 => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
        2 => b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
        3 => b"\r\n".to_vec(),
        _ => ghost.body(),
    }
}

/// Some versions always lie elsewhere: one that is gone on with must come from the place where it began.
pub fn redirects(version: u32) -> bool {
    version % 7 == 6
}

/// Answers a request for `entity`.
pub fn perform(x: &mut Exchange<'_>, act: Act, entity: &Entity, random: &mut Rng) -> After {
    let rest = entity.len - entity.first;
    let stop = random.u64(..=rest.saturating_sub(1)) as usize;
    match act {
        Act::Surplus if rest <= ONE_SEGMENT => {
            let surplus = stray(random, entity.file);
            x.send([entity.head_with_length("").as_bytes(), &entity.body(), &surplus].concat());
            After::Keep
        }
        Act::Plain | Act::Surplus | Act::Rangeless => {
            send(x, &entity.head_with_length(""), &entity.body(), After::Keep)
        }
        Act::Closing => send(x, &entity.head_with_length("Connection: close\r\n"), &entity.body(), After::Close),
        Act::Forgetful => send(x, &entity.head_with_length(""), &entity.body(), After::Close),
        Act::Interim => {
            x.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n");
            send(x, &entity.head_with_length(""), &entity.body(), After::Keep)
        }
        Act::Label => {
            let label = ["identity", "none", "binary", "utf-8", "aws-chunked"][random.usize(..5)];
            let head = entity.head_with_length(&format!("Content-Encoding: {label}\r\n"));
            send(x, &head, &entity.body(), After::Keep)
        }
        Act::Gzip | Act::BrokenGzip if entity.first == 0 && rest <= 1 << 20 => {
            gzip(x, entity, act == Act::BrokenGzip, random)
        }
        Act::Chunked | Act::Gzip => chunked(x, entity, None),
        Act::BrokenChunk => chunked(x, entity, Some(stop)),
        Act::CloseDelimited => send(x, &entity.head(""), &entity.body(), After::Close),
        Act::ResetUnannounced => send(x, &entity.head(""), &entity.body()[..stop], After::Reset),
        Act::Reset => send(x, &entity.head_with_length(""), &entity.body()[..stop], After::Reset),
        Act::Short | Act::BrokenGzip => send(x, &entity.head_with_length(""), &entity.body()[..stop], After::Close),
        Act::Stall => {
            send(x, &entity.head_with_length(""), &entity.body()[..stop], After::Keep);
            x.pause(STALL);
            After::Close
        }
        Act::Silent => {
            x.pause(STALL);
            After::Close
        }
        Act::Status => {
            let status = ["500 Oops", "502 Bad", "503 Later", "504 Late", "429 Slowly"][random.usize(..5)];
            x.answer(status, &[&format!("Retry-After: {}", random.u32(..2))], b"an error, and no file")
        }
        Act::Nonsense => {
            x.send("no HTTP at all\r\n\r\n");
            After::Close
        }
        Act::Doubled => {
            let head = entity.head_with_length(&format!("Content-Length: {}\r\n", rest / 2));
            send(x, &head, &entity.body(), After::Close)
        }
        Act::StaleRange if entity.first > 0 => {
            let ghost = entity.ghost(random);
            send(x, &ghost.head_with_length(""), &ghost.body(), After::Keep)
        }
        Act::StaleRange => send(x, &entity.head_with_length(""), &entity.body()[..stop], After::Reset),
    }
}

/// Sends a head and a body, the latter in pieces.
fn send(x: &mut Exchange<'_>, head: &str, body: &[u8], after: After) -> After {
    let (first, rest) = body.split_at(body.len().min(PIECE));
    let taken = x.try_send([head.as_bytes(), first].concat()) && rest.chunks(PIECE).all(|piece| x.try_send(piece));
    if taken { after } else { After::Close }
}

fn chunked(x: &mut Exchange<'_>, entity: &Entity, stop: Option<usize>) -> After {
    let body = entity.body();
    let mut coded = Vec::new();
    for piece in body[..stop.unwrap_or(body.len())].chunks(PIECE / 3) {
        coded.extend_from_slice(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    }
    let head = entity.head("Transfer-Encoding: chunked\r\n");
    match stop {
        None => send(x, &head, &[&coded, &b"0\r\n\r\n"[..]].concat(), After::Keep),
        Some(_) => send(x, &head, &[&coded, &b"xyz\r\n"[..]].concat(), After::Close),
    }
}

/// A whole gzip body, or one of which a byte is wrong.
fn gzip(x: &mut Exchange<'_>, entity: &Entity, broken: bool, random: &mut Rng) -> After {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&entity.body()).expect("a vector");
    let mut body = encoder.finish().expect("a vector");
    if broken {
        // Behind the header, whose fields mean little.
        let at = random.usize(10..body.len());
        body[at] ^= 0x55;
    }
    let head = entity.head(&format!("Content-Length: {}\r\nContent-Encoding: gzip\r\n", body.len()));
    send(x, &head, &body, After::Keep)
}
