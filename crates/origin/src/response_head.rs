//! The head of an HTTP response, as far as a relay needs it.

use std::mem;
use std::time::{Duration, SystemTime};

/// The length of the body that a head announces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Length {
    #[default]
    Unknown,
    Known(u64),
    /// Not a number, two that differ, a transfer encoding other than chunked, which was not asked for, or a field that
    /// can be read in two ways.
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
    /// Whether there is a `Transfer-Encoding`, be it one that encodes nothing.
    has_transfer_encoding: bool,
    pub(super) encoding: Encoding,
    content_range: Option<Vec<u8>>,
    /// Whether the body is a list of ranges, each with a head of its own.
    byteranges: bool,
    etag: Option<Vec<u8>>,
    last_modified: Option<Vec<u8>>,
    date: Option<Vec<u8>>,
    retry_after: Option<Vec<u8>>,
    /// Where the redirects before this head led to, without queries: those hold signatures that change.
    place: Vec<u8>,
    complete: bool,
    /// Whether the last line was a field that counts here, and whether one of those can be read in two ways.
    counts: bool,
    is_ambiguous: bool,
}

impl Head {
    /// Takes one line, line end included.
    pub(super) fn line(&mut self, line: &[u8]) {
        let is_fold = line.starts_with(b" ") || line.starts_with(b"\t");
        let line = line.trim_ascii_end();
        if is_fold {
            // It goes on with the field before (RFC 9112, 5.2), which libcurl does not see.
            self.is_ambiguous |= self.counts && !self.complete;
        } else if line.starts_with(b"HTTP/") {
            *self = Self { status: status(line), place: mem::take(&mut self.place), ..Self::default() };
        } else if line.is_empty() {
            self.complete = true;
        } else if !self.complete
            && let Some(colon) = line.iter().position(|&b| b == b':')
        {
            let name = &line[..colon];
            self.counts = self.field(name.trim_ascii_end(), line[colon + 1..].trim_ascii_start());
            // libcurl does not know the field with a blank before its colon.
            self.is_ambiguous |= self.counts && name.last().is_some_and(u8::is_ascii_whitespace);
        }
        // What follows a complete head is a trailer, which says nothing that we use.
    }

    /// Whether the field is one of those that count.
    fn field(&mut self, name: &[u8], value: &[u8]) -> bool {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if is("content-length") {
            self.content_length = match (self.content_length, decimal(value)) {
                (Length::Unknown, Some(n)) => Length::Known(n),
                (Length::Known(before), Some(n)) if before == n => Length::Known(n),
                _ => Length::Malformed,
            };
        } else if is("transfer-encoding") {
            self.has_transfer_encoding = true;
            for coding in list(value).filter(|coding| !is_one_of(coding, &["identity"])) {
                let chunked = is_one_of(coding, &["chunked"]) && self.transfer_length.is_none();
                self.transfer_length = Some(if chunked { Length::Unknown } else { Length::Malformed });
            }
        } else if is("content-encoding") {
            for coding in list(value).filter(|coding| !is_one_of(coding, &PLAIN)) {
                let gzip = is_one_of(coding, &["gzip", "x-gzip"]) && self.encoding == Encoding::None;
                self.encoding = if gzip { Encoding::Gzip } else { Encoding::Other };
            }
        } else if is("content-range") {
            put(&mut self.content_range, value);
        } else if is("content-type") {
            let kind = b"multipart/byteranges";
            self.byteranges = value.get(..kind.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(kind));
        } else if is("etag") {
            put(&mut self.etag, value);
        } else if is("last-modified") {
            put(&mut self.last_modified, value);
        } else if is("date") {
            put(&mut self.date, value);
        } else if is("retry-after") {
            put(&mut self.retry_after, value);
        } else if is("location") && (300..400).contains(&self.status) {
            self.follow(value);
        } else {
            return false;
        }
        true
    }

    fn follow(&mut self, location: &[u8]) {
        let path = location.split(|b| b"?#".contains(b)).next().unwrap_or_default();
        if path.windows(3).any(|bytes| bytes == b"://") {
            self.place.clear();
        }
        self.place.extend_from_slice(path);
    }

    /// Whether this is all of the head of a final response. libcurl takes a connection that ends in the middle of a
    /// head for the end of a response.
    pub(super) fn is_whole(&self) -> bool {
        self.complete && !(100..200).contains(&self.status)
    }

    /// Whether libcurl may follow it. Its body is not the file's.
    pub(super) fn is_redirect(&self) -> bool {
        (300..400).contains(&self.status)
    }

    /// The length of the body as it is on the wire.
    pub(super) fn length(&self) -> Length {
        if self.is_ambiguous { Length::Malformed } else { self.transfer_length.unwrap_or(self.content_length) }
    }

    /// The one range that the body is.
    pub(super) fn content_range(&self) -> Option<ContentRange> {
        content_range(self.content_range.as_deref().filter(|_| !self.byteranges)?)
    }

    /// Whether the end of the connection is the only end of the body, but in HTTP/2 and later.
    pub(super) fn ends_by_close(&self) -> bool {
        self.transfer_length.is_none() && self.content_length == Length::Unknown
    }

    /// The length of a body that libcurl would read up to the close all the same: it does not believe a length beside a
    /// `Transfer-Encoding`, even where that encodes nothing.
    pub(super) fn unheeded_length(&self) -> Option<u64> {
        match self.length() {
            Length::Known(length) if self.has_transfer_encoding => Some(length),
            _ => None,
        }
    }

    /// What names this version of the file and no other, fit for `If-Range`: a strong entity tag, else a date of
    /// modification that is old enough to be strong (RFC 9110, 8.8.2.2).
    pub(super) fn validator(&self) -> Option<&[u8]> {
        // A 203 may be another's version of the file. Encodings that have no name here cannot be told apart.
        if self.status != 200 || self.encoding == Encoding::Other {
            return None;
        }
        if let Some(tag) = &self.etag {
            let opaque = tag.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\""));
            let fits = |opaque: &[u8]| !opaque.iter().any(|&b| b == b'"' || b.is_ascii_control());
            return opaque.is_some_and(fits).then_some(tag);
        }
        let modified = self.last_modified.as_ref()?;
        let age = http_date(self.date.as_ref()?)?.duration_since(http_date(modified)?).ok()?;
        (age >= Duration::from_secs(1)).then_some(modified)
    }

    /// Whether this is of the version that `first`, which has a validator, began with. A server that ignores `If-Range`
    /// goes on with any version, so all that tells versions apart must be the same. Validators of two places say
    /// nothing about each other. Only `Last-Modified` may be left out, next to an entity tag (RFC 9110, 15.3.7).
    pub(super) fn is_version_of(&self, first: &Self) -> bool {
        let no_date = first.etag.is_some() && self.last_modified.is_none();
        self.etag == first.etag
            && (no_date || self.last_modified == first.last_modified)
            && self.encoding == first.encoding
            && self.place == first.place
    }

    /// What `Retry-After` asks to wait. A date is taken by the origin's own clock, if it tells that.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let value = self.retry_after.as_ref()?;
        if let Some(seconds) = decimal(value) {
            return Some(Duration::from_secs(seconds));
        }
        let now = self.date.as_deref().and_then(http_date).unwrap_or_else(SystemTime::now);
        Some(http_date(value)?.duration_since(now).unwrap_or_default())
    }
}

/// Notes a field that a head has once. Values that differ become a list, which is no value of any of these fields.
fn put(field: &mut Option<Vec<u8>>, value: &[u8]) {
    match field {
        None => *field = Some(value.to_vec()),
        Some(before) if before == value => {}
        Some(before) => {
            before.extend_from_slice(b", ");
            before.extend_from_slice(value);
        }
    }
}

fn http_date(text: &[u8]) -> Option<SystemTime> {
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

/// Labels that origins put on plain bytes: the encoding of an upload to the store (`aws-chunked`), a charset, a word of
/// MIME.
const PLAIN: [&str; 10] =
    ["identity", "none", "aws-chunked", "binary", "7bit", "8bit", "utf-8", "utf8", "us-ascii", "iso-8859-1"];

/// The elements of a list that are not empty.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

fn is_one_of(word: &[u8], names: &[&str]) -> bool {
    names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
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
            (&["Transfer-Encoding: Identity", "Content-Length: 5"], Length::Known(5)),
            (&["Transfer-Encoding:"], Length::Unknown),
            (&["Transfer-Encoding: identity, chunked", "Content-Length: 5"], Length::Unknown),
            (&["Transfer-Encoding: identity, gzip", "Content-Length: 5"], Length::Malformed),
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
            (&["Content-Encoding: AWS-chunked"], Encoding::None),
            (&["Content-Encoding: none, binary,,utf-8", "Content-Encoding: identity"], Encoding::None),
            (&["Content-Encoding: aws-chunked,gzip"], Encoding::Gzip),
            (&["Content-Encoding: br, identity"], Encoding::Other),
            (&["Content-Encoding: zstd"], Encoding::Other),
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
    fn the_close_ends_what_nothing_else_ends() {
        for (line, fields, ends_by_close) in [
            ("HTTP/1.0 200 OK", &[][..], true),
            ("HTTP/1.1 200 OK", &["Transfer-Encoding: identity"], true),
            ("HTTP/1.1 200 OK", &["Content-Length: 5"], false),
            ("HTTP/1.1 200 OK", &["Transfer-Encoding: chunked"], false),
        ] {
            let lines: Vec<_> = [line].iter().chain(fields).copied().collect();
            assert_eq!(head(&lines).ends_by_close(), ends_by_close, "{line} {fields:?}");
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
            (&["ETag: \"v1\"", "ETag: \"v1\""], Some("\"v1\"")),
            (&["ETag: \"v1\"", "ETag: \"v2\""], None),
            (&["ETag: \"v1\"", "Content-Encoding: br"], None),
            (&["ETag: \"v1\", \"v2\""], None),
            (&["ETag: \"v\r1\""], None),
            (&["ETag: v1"], None),
            (&["ETag: \""], None),
            (&[&modified, "Date: Tue, 15 Nov 1994 12:45:27 GMT"], Some(day)),
            (&[&modified, &same_second], None),
            (&[&modified], None),
            (&["Last-Modified: yesterday", "Date: Tue, 15 Nov 1994 12:45:27 GMT"], None),
        ] {
            let lines: Vec<_> = ["HTTP/1.1 200 OK"].iter().chain(fields).copied().collect();
            assert_eq!(head(&lines).validator(), validator.map(str::as_bytes), "{fields:?}");
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
    #[test]
    fn a_wait_is_told_in_seconds_or_by_the_origins_clock() {
        let date = "Date: Tue, 15 Nov 1994 12:45:26 GMT";
        for (fields, seconds) in [
            (&["Retry-After: 120"][..], Some(120)),
            (&["Retry-After: Tue, 15 Nov 1994 12:46:26 GMT", date], Some(60)),
            (&["Retry-After: Tue, 15 Nov 1994 12:44:26 GMT", date], Some(0)),
            (&["Retry-After: Tue, 15 Nov 1994 12:44:26 GMT"], Some(0)),
            (&["Retry-After: 1", "Retry-After: 2"], None),
            (&["Retry-After: -1"], None),
            (&["Retry-After: soon"], None),
            (&[], None),
        ] {
            let lines: Vec<_> = ["HTTP/1.1 503 Busy"].iter().chain(fields).copied().collect();
            assert_eq!(head(&lines).retry_after(), seconds.map(Duration::from_secs), "{fields:?}");
        }
    }

    #[test]
    fn a_place_is_where_the_last_redirect_led_to() {
        let place = |locations: &[&str]| {
            let mut head = Head::default();
            for location in locations {
                head.line(b"HTTP/1.1 302 Found\r\n");
                head.line(format!("Location: {location}\r\n\r\n").as_bytes());
            }
            head.line(b"HTTP/1.1 200 OK\r\n");
            head.line(b"Location: elsewhere\r\n");
            String::from_utf8(head.place).expect("ASCII")
        };
        assert_eq!(place(&[]), "");
        assert_eq!(place(&["http://a/x?signature=1", "/y"]), "http://a/x/y");
        assert_eq!(place(&["/z", "http://a/x#part"]), "http://a/x");
        assert_eq!(place(&["/x?from=http://a/"]), "/x");
    }
}
