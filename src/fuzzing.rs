//! Every byte that crosses a trust boundary, as functions of bytes: the targets of `fuzz/`, and of the properties below, which
//! run in `make test`. Each function panics where a parser or a side of the ring does what it must not.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::cache::{Catalog, Faults};
use crate::channel::fuzzing as channel;
use crate::getfile::{HeaderParser, Parsed};
use crate::origin::fuzzing as origin;

/// The datagrams of the command socket, and descriptors.
pub fn wire(bytes: &[u8]) {
    channel::datagrams(bytes);
    channel::descriptors(bytes);
}

/// The server's side of a lease, whose consumer writes what it likes.
pub fn producer(bytes: &[u8]) {
    channel::producer(bytes);
}

/// The client's side of a lease, whose producer writes what it likes.
pub fn consumer(bytes: &[u8]) {
    channel::consumer(bytes);
}

/// A locals file: no more entries than lines, each to be found by its key.
pub fn locals(bytes: &[u8]) {
    let memory = memfd_create(c"locals", MFdFlags::MFD_CLOEXEC).expect("a memfd");
    let mut file = std::fs::File::from(memory);
    file.write_all(bytes).expect("a file in memory");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()));
    let catalog = Catalog::load(&path, Faults::Skip).expect("a file that can be read");
    let lines = bytes.split(|&byte| byte == b'\n').count();
    assert!(catalog.len() <= lines);
    for word in bytes.split(|byte| byte.is_ascii_whitespace()) {
        if let Some(entry) = catalog.find(word) {
            assert!(!catalog.path(entry).as_os_str().is_empty());
        }
    }
}

/// A request line of a GETFILE client.
#[cfg(feature = "gfserver")]
pub fn request(bytes: &[u8]) {
    if let Ok(words) = crate::gfserver::parse_request(bytes) {
        assert!(bytes[words.protocol].eq_ignore_ascii_case(b"GETFILE"));
        assert!(bytes[words.method].eq_ignore_ascii_case(b"GET"));
        let path = &bytes[words.path];
        assert!(path.starts_with(b"/") && !path.iter().any(|byte| b" \t\r\n\0".contains(byte)));
    }
}

/// The header of a GETFILE server's answer: the same in one piece and in pieces of one byte.
pub fn header(bytes: &[u8]) {
    let whole = HeaderParser::new().push(bytes);
    let mut parser = HeaderParser::new();
    for (i, byte) in bytes.iter().enumerate() {
        match parser.push(std::slice::from_ref(byte)) {
            Ok(Parsed::Partial) => {}
            Ok(Parsed::Complete { header, used }) => {
                return assert_eq!(whole, Ok(Parsed::Complete { header, used: i + used }));
            }
            Err(error) => return assert_eq!(whole, Err(error)),
        }
    }
    assert_eq!(whole, Ok(Parsed::Partial));
}

/// The heads of an origin's responses.
pub fn head(bytes: &[u8]) {
    origin::head(bytes);
}

/// An origin's `Content-Range`.
pub fn range(bytes: &[u8]) {
    origin::range(bytes);
}

/// An origin's `Retry-After`.
pub fn retry_after(bytes: &[u8]) {
    origin::retry_after(bytes);
}

/// A compressed body of an origin.
pub fn gzip(bytes: &[u8]) {
    origin::gzip(bytes);
}

/// The URL of a base and a path, with a NUL byte between them.
pub fn url(bytes: &[u8]) {
    origin::url(bytes);
}

#[cfg(all(test, not(loom)))]
mod properties {
    use flate2::Compression;
    use flate2::write::GzEncoder;
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
        fn datagrams_of_any_bytes(bytes in bytes()) {
            wire(&bytes);
        }

        #[test]
        fn datagrams_with_a_few_wrong_bytes(kind in 0..6u8, rest in bytes(), at in 0..70usize, wrong: u8) {
            let mut datagram = [b"GFSC".as_slice(), &[kind, 0, 0, 0], &rest].concat();
            wire(&datagram);
            let at = at.min(datagram.len() - 1);
            datagram[at] = wrong;
            wire(&datagram);
        }

        #[test]
        fn a_producer_with_any_consumer(bytes in bytes()) {
            producer(&bytes);
        }

        #[test]
        fn a_consumer_with_any_producer(bytes in bytes()) {
            consumer(&bytes);
        }

        #[test]
        fn locals_of_any_bytes(bytes in text(b"/ab# \t\r\n\n\"\\\0")) {
            locals(&bytes);
        }

        #[cfg(feature = "gfserver")]
        #[test]
        fn requests_of_any_bytes(path in text(b"/ab \t\r\n\0"), case: bool) {
            let begin = if case { "GETFILE GET /" } else { "getfile\tget " };
            request(&[begin.as_bytes(), &path, b"\r\n"].concat());
            request(&path);
        }

        #[test]
        fn headers_of_any_bytes(bytes in text(b"OK 0123456789\n"), begin in 0..4usize) {
            let begin = ["", "GETFILE ", "GETFILE OK ", "GETFILE FILE_NOT_FOUND "][begin];
            header(&[begin.as_bytes(), &bytes].concat());
        }

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
