//! The head of an HTTP response, as far as a relay needs it.

use std::time::Duration;

/// The length of the body that a head announces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Length {
    #[default]
    Unknown,
    Known(u64),
    /// Not a number, two that differ, or a transfer encoding other than chunked, which was not asked for.
    Malformed,
}

/// `Content-Encoding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Encoding {
    #[default]
    None,
    Gzip,
    /// Another one, or several.
    Other,
}

/// `Content-Range: bytes first-last/total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    pub(super) last: u64,
    /// `None` is `*`.
    pub(super) total: Option<u64>,
}

/// One response head. Filled line by line; every status line begins a new one.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// The number in the status line, 0 where there is none.
    pub(super) status: u16,
    content_length: Length,
    /// What `Transfer-Encoding`, which overrides a length, says of it.
    transfer_length: Option<Length>,
    pub(super) encoding: Encoding,
    pub(super) content_range: Option<ContentRange>,
    etag: Option<Vec<u8>>,
    last_modified: Option<Vec<u8>>,
    date: Option<Vec<u8>>,
    complete: bool,
}

impl Head {
    /// Takes one line, line end included.
    pub(super) fn line(&mut self, line: &[u8]) {
        let line = line.trim_ascii_end();
        if line.starts_with(b"HTTP/") {
            *self = Self { status: status(line), ..Self::default() };
        } else if line.is_empty() {
            self.complete = true;
        } else if !self.complete
            && let Some(colon) = line.iter().position(|&b| b == b':')
        {
            self.field(&line[..colon], line[colon + 1..].trim_ascii_start());
        }
        // What follows a complete head is a trailer, which says nothing that we use.
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if is("content-length") {
            self.content_length = match (self.content_length, decimal(value)) {
                (Length::Unknown, Some(n)) => Length::Known(n),
                (Length::Known(before), Some(n)) if before == n => Length::Known(n),
                _ => Length::Malformed,
            };
        } else if is("transfer-encoding") {
            let chunked = value.eq_ignore_ascii_case(b"chunked") && self.transfer_length.is_none();
            self.transfer_length = Some(if chunked { Length::Unknown } else { Length::Malformed });
        } else if is("content-encoding") {
            self.encoding = match (&self.encoding, encoding(value)) {
                (Encoding::None, encoding) => encoding,
                (_, Encoding::None) => self.encoding,
                _ => Encoding::Other,
            };
        } else if is("content-range") {
            self.content_range = content_range(value);
        } else if is("etag") {
            self.etag = Some(value.to_vec());
        } else if is("last-modified") {
            self.last_modified = Some(value.to_vec());
        } else if is("date") {
            self.date = Some(value.to_vec());
        }
    }

    /// Whether this is all of the head of a final response. libcurl takes a connection that ends in the middle of a head
    /// for the end of a response.
    pub(super) fn is_whole(&self) -> bool {
        self.complete && !(100..200).contains(&self.status)
    }

    /// The length of the body as it is on the wire.
    pub(super) fn length(&self) -> Length {
        self.transfer_length.unwrap_or(self.content_length)
    }

    /// What names this version of the file and no other, fit for `If-Range`: a strong entity tag, else a date of
    /// modification that is old enough to be strong (RFC 9110, 8.8.2.2).
    pub(super) fn validator(&self) -> Option<Vec<u8>> {
        if let Some(tag) = &self.etag {
            let strong = tag.len() >= 2 && tag.starts_with(b"\"") && tag.ends_with(b"\"");
            return strong.then(|| tag.clone());
        }
        let modified = self.last_modified.as_ref()?;
        let age = http_date(self.date.as_ref()?)?.duration_since(http_date(modified)?).ok()?;
        (age >= Duration::from_secs(1)).then(|| modified.clone())
    }
}

fn http_date(text: &[u8]) -> Option<std::time::SystemTime> {
    httpdate::parse_http_date(str::from_utf8(text).ok()?).ok()
}

fn status(line: &[u8]) -> u16 {
    let number = line.split(|&b| b == b' ').nth(1).filter(|n| n.len() == 3);
    number.and_then(decimal).map_or(0, |n| n as u16)
}

/// A number of digits only, that fits what files can have.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = str::from_utf8(text).ok()?.parse().ok()?;
    (number <= i64::MAX as u64).then_some(number)
}

fn encoding(value: &[u8]) -> Encoding {
    let is = |name: &str| value.eq_ignore_ascii_case(name.as_bytes());
    if is("") || is("identity") {
        Encoding::None
    } else if is("gzip") || is("x-gzip") {
        Encoding::Gzip
    } else {
        Encoding::Other
    }
}

fn content_range(value: &[u8]) -> Option<ContentRange> {
    let (unit, rest) = value.split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case(b"bytes ") {
        return None;
    }
    let dash = rest.iter().position(|&b| b == b'-')?;
    let slash = rest.iter().position(|&b| b == b'/')?;
    let (first, last) = (decimal(&rest[..dash])?, decimal(rest.get(dash + 1..slash)?)?);
    let total = match &rest[slash + 1..] {
        b"*" => None,
        total => Some(decimal(total)?),
    };
    (first <= last && total.is_none_or(|t| last < t)).then_some(ContentRange { first, last, total })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[&str]) -> Head {
        let mut head = Head::default();
        lines.iter().for_each(|line| head.line(format!("{line}\r\n").as_bytes()));
        head.line(b"\r\n");
        head
    }

    #[test]
    fn takes_status_lines_of_all_versions() {
        for (line, status) in [
            ("HTTP/1.1 200 OK", 200),
            ("HTTP/1.0 404", 404),
            ("HTTP/2 206 ", 206),
            ("HTTP/1.1 2000 OK", 0),
            ("HTTP/1.1 +20", 0),
            ("HTTP/1.1", 0),
        ] {
            assert_eq!(head(&[line]).status, status, "{line}");
        }
    }

    #[test]
    fn a_length_is_digits_and_one_value() {
        for (fields, length) in [
            (&["Content-Length: 5"][..], Length::Known(5)),
            (&["content-length:5 ", "CONTENT-LENGTH: 5"], Length::Known(5)),
            (&["Content-Length: 5", "Content-Length: 6"], Length::Malformed),
            (&["Content-Length: 5, 5"], Length::Malformed),
            (&["Content-Length: -5"], Length::Malformed),
            (&["Content-Length: 18446744073709551615"], Length::Malformed),
            (&["Content-Length:"], Length::Malformed),
            (&["Content-Length: 5", "Transfer-Encoding: Chunked"], Length::Unknown),
            (&["Transfer-Encoding: chunked", "Content-Length: 5"], Length::Unknown),
            (&["Transfer-Encoding: gzip, chunked"], Length::Malformed),
            (&["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], Length::Malformed),
            (&[], Length::Unknown),
        ] {
            let lines: Vec<_> = ["HTTP/1.1 200 OK"].iter().chain(fields).copied().collect();
            assert_eq!(head(&lines).length(), length, "{fields:?}");
        }
    }

    #[test]
    fn encodings() {
        for (fields, encoding) in [
            (&[][..], Encoding::None),
            (&["Content-Encoding: Identity"], Encoding::None),
            (&["Content-Encoding: X-GZIP"], Encoding::Gzip),
            (&["Content-Encoding: identity", "Content-Encoding: gzip", "Content-Encoding:"], Encoding::Gzip),
            (&["Content-Encoding: gzip", "Content-Encoding: gzip"], Encoding::Other),
            (&["Content-Encoding: gzip, br"], Encoding::Other),
            (&["Content-Encoding: br"], Encoding::Other),
        ] {
            let lines: Vec<_> = ["HTTP/1.1 200 OK"].iter().chain(fields).copied().collect();
            assert_eq!(head(&lines).encoding, encoding, "{fields:?}");
        }
    }

    #[test]
    fn a_new_status_line_forgets_the_head_before() {
        let head = head(&["HTTP/1.1 302 Found", "Content-Length: 5", "ETag: \"a\"", "", "HTTP/1.1 200 OK"]);
        assert_eq!((head.status, head.length(), head.validator()), (200, Length::Unknown, None));
    }

    #[test]
    fn a_head_that_breaks_off_is_not_whole() {
        let mut broken = Head::default();
        for line in [&b"HTTP/1.1 200 OK\r\n"[..], b"Content-Length: 5\r\n", b"Content-Le"] {
            assert!(!broken.is_whole());
            broken.line(line);
        }
        assert!(!broken.is_whole());
        assert!(head(&["HTTP/1.1 200 OK"]).is_whole());
        assert!(!head(&["HTTP/1.1 100 Continue"]).is_whole());
    }

    #[test]
    fn trailers_change_nothing() {
        let mut head = head(&["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"]);
        head.line(b"Content-Length: 5\r\n");
        head.line(b"ETag: \"late\"\r\n");
        assert_eq!((head.content_length, head.validator()), (Length::Unknown, None));
    }

    #[test]
    fn only_strong_validators_are_taken() {
        let day = "Tue, 15 Nov 1994 12:45:26 GMT";
        let modified = format!("Last-Modified: {day}");
        let same_second = format!("Date: {day}");
        for (fields, validator) in [
            (&["ETag: \"v1\""][..], Some("\"v1\"")),
            (&["ETag: W/\"v1\"", &modified, "Date: Tue, 15 Nov 1994 12:45:27 GMT"], None),
            (&["ETag: v1"], None),
            (&["ETag: \""], None),
            (&[&modified, "Date: Tue, 15 Nov 1994 12:45:27 GMT"], Some(day)),
            (&[&modified, &same_second], None),
            (&[&modified], None),
            (&["Last-Modified: yesterday", "Date: Tue, 15 Nov 1994 12:45:27 GMT"], None),
        ] {
            let lines: Vec<_> = ["HTTP/1.1 200 OK"].iter().chain(fields).copied().collect();
            assert_eq!(head(&lines).validator(), validator.map(|v| v.as_bytes().to_vec()), "{fields:?}");
        }
    }

    #[test]
    fn content_ranges() {
        let range = |first, last, total| Some(ContentRange { first, last, total });
        for (text, expected) in [
            ("bytes 5-9/10", range(5, 9, Some(10))),
            ("Bytes 0-0/*", range(0, 0, None)),
            ("bytes */10", None),
            ("bytes 9-5/10", None),
            ("bytes 5-10/10", None),
            ("bytes 5-/10", None),
            ("bytes5-9/10", None),
            ("lines 5-9/10", None),
            ("bytes 5/9-10", None),
            ("", None),
        ] {
            assert_eq!(content_range(text.as_bytes()), expected, "{text}");
        }
    }
}
