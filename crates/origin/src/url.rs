//! From a base URL and the path of a request to the URL that is fetched. Whatever the path is, the URL names the base's
//! host and lies below the base's path.

use std::ffi::CString;

use crate::curl::{Part, Url};

/// A checked `-s`.
#[derive(Debug)]
pub(super) struct Base {
    /// Without a slash at the end.
    url: String,
    secure: bool,
}

impl Base {
    /// `text` is an http or https URL; without a scheme it is taken for http, as curl does. The error is what is wrong
    /// with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let absolute = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&absolute)?;
        let scheme = url.get(Part::Scheme).unwrap_or_default();
        if scheme != "http" && scheme != "https" {
            return Err(format!("its scheme is {scheme}, which is neither http nor https"));
        }
        if url.get(Part::Query).is_some() || absolute.contains('?') {
            return Err("it has a query, behind which no path can go".to_owned());
        }
        if url.get(Part::Fragment).is_some() || absolute.contains('#') {
            return Err("it has a fragment, behind which no path can go".to_owned());
        }
        if url.get(Part::Port).is_some_and(|port| port == "0") {
            return Err("its port is 0".to_owned());
        }
        let whole = url.get(Part::Whole).ok_or("it cannot be put together again")?;
        let url = whole.strip_suffix('/').unwrap_or(&whole).to_owned();
        Ok(Self { url, secure: scheme == "https" })
    }

    /// Whether the base is https.
    pub(super) fn is_secure(&self) -> bool {
        self.secure
    }

    /// The URL of a path, `None` if it would climb above the base.
    pub(super) fn join(&self, path: &[u8]) -> Option<CString> {
        let mut segments: Vec<&[u8]> = Vec::new();
        let mut parts = path.strip_prefix(b"/").unwrap_or(path).split(|&b| b == b'/').peekable();
        while let Some(segment) = parts.next() {
            let is_last = parts.peek().is_none();
            match dots(segment) {
                Dots::None => segments.push(segment),
                Dots::Stay if is_last => segments.push(b""),
                Dots::Stay => {}
                Dots::Up => {
                    segments.pop()?;
                    if is_last {
                        segments.push(b"");
                    }
                }
                Dots::Hidden => return None,
            }
        }
        let mut url = Vec::with_capacity(self.url.len() + path.len() + 16);
        url.extend_from_slice(self.url.as_bytes());
        for segment in segments {
            url.push(b'/');
            encode(segment, &mut url);
        }
        CString::new(url).ok()
    }
}

enum Dots {
    None,
    /// `.`
    Stay,
    /// `..`
    Up,
    /// `..` for a server that decodes twice, takes `\` for `/`, or drops `;parameters`.
    Hidden,
}

/// What a segment, which holds no slash, is to the server.
fn dots(segment: &[u8]) -> Dots {
    if !segment.iter().any(|&b| b == b'.' || b == b'%') {
        return Dots::None;
    }
    let mut decoded = decode(segment);
    match &decoded[..] {
        b"." => return Dots::Stay,
        b".." => return Dots::Up,
        _ => {}
    }
    loop {
        let climbs = |piece: &[u8]| piece.split(|&b| b == b';').next() == Some(b"..");
        if decoded.split(|&b| b == b'/' || b == b'\\').any(climbs) {
            return Dots::Hidden;
        }
        let again = decode(&decoded);
        if again.len() == decoded.len() {
            return Dots::None;
        }
        decoded = again;
    }
}

fn escape(text: &[u8]) -> Option<u8> {
    let hex = |digit: u8| char::from(digit).to_digit(16);
    match text {
        [b'%', high, low, ..] => Some((hex(*high)? * 16 + hex(*low)?) as u8),
        _ => None,
    }
}

fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(&first) = rest.first() {
        let (byte, length) = escape(rest).map_or((first, 1), |byte| (byte, 3));
        decoded.push(byte);
        rest = &rest[length..];
    }
    decoded
}

/// Appends a segment: escapes stay, and every byte that RFC 3986 does not allow in a segment becomes one. So `?` and
/// `#` are parts of a file's name.
fn encode(segment: &[u8], url: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for (at, &byte) in segment.iter().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
        if plain || (byte == b'%' && escape(&segment[at..]).is_some()) {
            url.push(byte);
        } else {
            url.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(base: &str, path: &[u8]) -> Option<String> {
        Base::parse(base).expect("a base").join(path).map(|url| url.into_string().expect("ASCII"))
    }

    #[test]
    fn bases() {
        for (base, url) in [
            ("http://h", "http://h/f"),
            ("http://h/", "http://h/f"),
            ("HTTP://h/a/b/", "http://h/a/b/f"),
            ("http://h/a/../b", "http://h/b/f"),
            ("https://h:8443/a", "https://h:8443/a/f"),
            ("http://[::1]:80/a", "http://[::1]:80/a/f"),
            ("http://user:p%40ss@h/a", "http://user:p%40ss@h/a/f"),
            ("http://h/a b", "http://h/a%20b/f"),
            ("localhost:8080", "http://localhost:8080/f"),
        ] {
            assert_eq!(join(base, b"/f").as_deref(), Some(url), "{base}");
        }
    }

    #[test]
    fn bad_bases_are_named() {
        for (base, reason) in [
            ("", "host"),
            ("http://", "host"),
            ("ftp://h", "ftp"),
            ("file:///etc", "file"),
            ("http://h:99999", "ort"),
            ("http://h:port", "ort"),
            ("http://h:0", "port is 0"),
            ("http://[::1", "IPv6"),
            ("http://h/?q", "query"),
            ("http://h/?", "query"),
            ("http://h/#f", "fragment"),
            ("http://h\n/", "ostname"),
            ("http://h h/", "ost"),
        ] {
            let error = Base::parse(base).expect_err(base).to_string();
            assert!(error.contains(reason), "{base}: {error}");
            assert!(!error.contains('\n'), "{base}: {error}");
        }
    }

    #[test]
    fn paths_are_encoded_as_needed() {
        for (path, url) in [
            ("/", "/"),
            ("/a/b.txt", "/a/b.txt"),
            ("a", "/a"),
            ("/a%20b", "/a%20b"),
            ("/a b\t", "/a%20b%09"),
            ("/100%", "/100%25"),
            ("/%zz%4", "/%25zz%254"),
            ("/a?b=c#d", "/a%3Fb=c%23d"),
            ("/grün", "/gr%C3%BCn"),
            ("//other/x", "//other/x"),
            ("/@other/x", "/@other/x"),
            ("/a\\b[1]", "/a%5Cb%5B1%5D"),
            ("/a/./b/", "/a/b/"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/...", "/..."),
            ("/a..b/..c", "/a..b/..c"),
            ("/a%2Fb", "/a%2Fb"),
        ] {
            let expected = format!("http://h/base{url}");
            assert_eq!(join("http://h/base", path.as_bytes()), Some(expected), "{path}");
        }
        assert_eq!(join("http://h", b"/\xff\x01").as_deref(), Some("http://h/%FF%01"));
    }

    #[test]
    fn nothing_climbs_above_the_base() {
        for path in [
            "/..",
            "/../x",
            "/a/../../x",
            "/%2e%2e/x",
            "/.%2E/x",
            "/a/%2e./%2e%2e/x",
            "/..%2fx",
            "/a/..%2f..%2fx",
            "/a%2f../x/..%5c..",
            "/..\\x",
            "/%252e%252e/x",
            "/%25252e%25252e%25252fx",
            "/a/..;v=1/x",
            "/%2e%2e%3bx/y",
        ] {
            assert_eq!(join("http://h/base", path.as_bytes()), None, "{path}");
        }
    }
}
