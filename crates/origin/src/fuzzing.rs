//! Every byte of an origin that a parser reads, as functions of bytes: targets of `fuzz/`, and of the properties below,
//! which run in `make test`. Each panics where a parser does what it must not.

use std::io::{self, Write};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::buffered_body::Body;
use super::config::Config;
use super::response_head::{Encoding, Head, Length};
use super::sink::Sink;
use super::spool::{Budgets, Spool};
use super::url::Base;
use crate::curl::{Part, Url};
use getfile::ClientGone;

/// No body is decoded to more.
const CEILING: u64 = 1 << 20;

/// The lines of response heads. A status line forgets what was before it.
pub fn head(bytes: &[u8]) {
    let mut head = read(bytes);
    assert!(head.status < 1000);
    assert!(!matches!(head.length(), Length::Known(length) if i64::try_from(length).is_err()));
    assert!(head.validator().is_none_or(|text| !text.is_empty() && !text.iter().any(u8::is_ascii_control)));
    assert!(head.content_range().is_none_or(|range| range.first <= range.last));
    assert!(head.is_version_of(&read(bytes)));
    head.line(b"HTTP/1.1 200 OK\r\n");
    assert_eq!((head.status, head.length(), head.encoding), (200, Length::Unknown, Encoding::None));
    assert_eq!((head.validator(), head.content_range(), head.retry_after()), (None, None, None));
    assert!(!head.is_whole());
}

fn read(bytes: &[u8]) -> Head {
    let mut head = Head::default();
    bytes.split_inclusive(|&byte| byte == b'\n').for_each(|line| head.line(line));
    head
}

/// A head with one field, whose value these bytes are.
fn with_field(name: &str, value: &[u8]) -> Head {
    read(&[b"HTTP/1.1 206 x\r\n", name.as_bytes(), b": ", value, b"\r\n\r\n"].concat())
}

/// `Content-Range`: what is taken can be written down again.
pub fn range(bytes: &[u8]) {
    if let Some(range) = with_field("Content-Range", bytes).content_range() {
        assert!(range.first <= range.last && range.total.is_none_or(|total| range.last < total));
        let total = range.total.map_or("*".to_owned(), |total| total.to_string());
        let again = format!("bytes {}-{}/{total}", range.first, range.last);
        assert_eq!(with_field("Content-Range", again.as_bytes()).content_range(), Some(range));
    }
}

/// `Retry-After`: digits are seconds, and whatever else is taken is a date.
pub fn retry_after(bytes: &[u8]) {
    let wait = with_field("Retry-After", bytes).retry_after();
    let text = str::from_utf8(bytes).map(str::trim).unwrap_or_default();
    match text.parse::<u32>() {
        Ok(seconds) if !text.starts_with('+') => assert_eq!(wait, Some(Duration::from_secs(seconds.into()))),
        _ => assert!(wait.is_none() || bytes.len() >= 10),
    }
}

/// A gzip body: the same in one piece and in pieces of one byte. Compressed, any bytes come back, and never but whole.
pub fn gzip(bytes: &[u8]) {
    let whole = decode([bytes].into_iter());
    assert_eq!(decode(bytes.chunks(1)).ok(), whole.ok());
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    let compressed = encoder.finish().expect("memory");
    assert_eq!(decode(compressed.chunks(7)).ok().as_deref(), Some(bytes));
    let cut = 1 + bytes.iter().map(|&byte| usize::from(byte)).sum::<usize>() % (compressed.len() - 1);
    assert!(decode(compressed[..cut].chunks(7)).is_err(), "{cut} of {compressed:?}");
}

fn decode<'a>(mut pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<Vec<u8>> {
    let config = Config { spool_ceiling: CEILING, spool_memory_total: CEILING, ..Config::default() };
    let budgets = Budgets::new(&config);
    let mut body = Body::gzip(Spool::new(&config, &budgets));
    pieces.try_for_each(|piece| body.push(piece))?;
    let mut file = Collected(Vec::new());
    let mut spool = body.finish()?;
    spool.deliver(&mut file).expect("memory");
    assert!(spool.len() == file.0.len() as u64 && spool.len() <= CEILING);
    Ok(file.0)
}

struct Collected(Vec<u8>);

impl Sink for Collected {
    fn header(&mut self, _: u64) -> Result<(), ClientGone> {
        Ok(())
    }

    fn body(&mut self, data: &[u8]) -> Result<(), ClientGone> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn resumed(&mut self) {}

    fn is_abandoned(&self) -> bool {
        false
    }
}

/// A base, a NUL byte and a path: whatever they are, libcurl finds the URL at the base's host and below its path.
pub fn url(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let base = str::from_utf8(parts.next().unwrap_or_default()).ok().and_then(|text| Base::parse(text).ok());
    let (Some(base), Some(path)) = (base, parts.next()) else { return };
    let Some(root) = base.join(b"/") else { panic!("no root") };
    let root = root.into_string().expect("libcurl's own text");
    if let Some(url) = base.join(path) {
        let url = url.into_string().expect("the base and ASCII");
        // libcurl resolves dot segments when it parses; there must be none that matter.
        let parsed = Url::parse(&url).expect("a URL");
        let whole = parsed.get(Part::Whole).expect("a URL");
        assert!(whole.starts_with(&root), "{whole} is not below {root}");
        assert!(parsed.get(Part::Query).is_none() && parsed.get(Part::Fragment).is_none(), "{whole}");
    }
}

#[cfg(test)]
mod properties {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..400)
    }

    /// Mostly the letters that mean something.
    fn text(alphabet: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
        let letter = prop_oneof![9 => prop::sample::select(alphabet), 1 => any::<u8>()];
        prop::collection::vec(letter, 0..200)
    }

    /// Beginnings of lines in a head.
    const HEAD: [&str; 14] = [
        "HTTP/1.1 200 ",
        "HTTP/2 206",
        "HTTP/1.1 302 ",
        "Content-Length: ",
        "Transfer-Encoding: chunked",
        "Content-Encoding: gzip",
        "Content-Range: bytes ",
        "ETag: \"",
        "Last-Modified: Tue, 15 Nov 1994 12:45:26 GMT",
        "Date: Tue, 15 Nov 1994 12:45:3",
        "Retry-After: ",
        "Location: http://h/",
        "",
        "\r\n",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn heads_of_any_bytes(lines in prop::collection::vec((0..HEAD.len(), text(b"\"W/v12,- *:\r")), 0..8)) {
            let lines = lines.into_iter().flat_map(|(line, text)| [HEAD[line].as_bytes(), &text, b"\r\n"].concat());
            head(&lines.collect::<Vec<_>>());
        }

        #[test]
        fn ranges_of_any_bytes(begin in 0..2usize, text in text(b"0123456789--/*"), bounds: [u32; 3]) {
            range(&[[b"bytes ".as_slice(), b""][begin], &text].concat());
            range(format!("bytes {}-{}/{}", bounds[0], bounds[1], bounds[2]).as_bytes());
        }

        #[test]
        fn waits_of_any_bytes(bytes in text(b"0123456789"), seconds: u32, year in 0..12000u32, day in 0..40u32) {
            retry_after(&bytes);
            retry_after(seconds.to_string().as_bytes());
            retry_after(format!("Sun, {day:02} Nov {year:04} 08:49:37 GMT").as_bytes());
        }

        #[test]
        fn gzip_bodies_of_any_bytes(bytes in bytes(), members in 0..3usize, at in 0..60usize, wrong: u8) {
            gzip(&bytes);
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&bytes).expect("memory");
            let mut body = encoder.finish().expect("memory").repeat(members);
            gzip(&body);
            if let Some(byte) = body.get_mut(at) {
                *byte = wrong;
            }
            gzip(&body);
        }

        #[test]
        fn urls_of_any_bytes(base in text(b"htp:/@[]1.%#?h "), path in text(b"./%2eE5\\/;?#@")) {
            url(&[b"http://h:81/base\0", &path[..]].concat());
            url(&[b"http://", &base[..], b"\0", &path].concat());
            url(&[&base[..], b"\0", &path].concat());
        }
    }
}
