//! The request line: `GETFILE GET /path\r\n\r\n`, or with a space before its line break.

use std::ops::Range;

use thiserror::Error;

use crate::contexts::Words;

/// The longest request line, its line break included.
pub(super) const MAX_LINE: usize = 4096;

/// Why a request is not answered by the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    #[error("the first word is not GETFILE")]
    Protocol,
    #[error("the second word is not GET")]
    Method,
    #[error("the path does not begin with /")]
    Path,
    #[error("there is a NUL in it")]
    Nul,
    #[error("it is longer than {MAX_LINE} bytes")]
    TooLong,
    #[error("the client ended it in the middle")]
    Unfinished,
    #[error("it was not complete in time")]
    TooSlow,
}

/// Finds the words of a line that ends with its line break. Words end at a space, tab, CR or LF; protocol and method
/// compare without case; what follows the path is ignored, as the provided server does.
pub fn parse(line: &[u8]) -> Result<Words, Malformed> {
    if line.contains(&0) {
        return Err(Malformed::Nul);
    }
    let mut at = 0;
    let mut next = || next_word(line, &mut at);
    let protocol = next().filter(|word| line[word.clone()].eq_ignore_ascii_case(b"GETFILE"));
    let protocol = protocol.ok_or(Malformed::Protocol)?;
    let method = next().filter(|word| line[word.clone()].eq_ignore_ascii_case(b"GET")).ok_or(Malformed::Method)?;
    let path = next().filter(|word| line[word.start] == b'/').ok_or(Malformed::Path)?;
    Ok(Words { protocol, method, path })
}

/// The word that begins at or after `at`, if a separator ends it.
fn next_word(line: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let separator = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let start = *at + line[*at..].iter().position(|byte| !separator(byte))?;
    let end = start + line[start..].iter().position(separator)?;
    *at = end;
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(line: &[u8]) -> Result<&[u8], Malformed> {
        parse(line).map(|words| &line[words.path])
    }

    #[test]
    fn both_forms_of_the_clients() {
        assert_eq!(path(b"GETFILE GET /a/b.jpg\r\n"), Ok(&b"/a/b.jpg"[..]));
        assert_eq!(path(b"GETFILE GET /a/b.jpg \r\n"), Ok(&b"/a/b.jpg"[..]));
    }

    #[test]
    fn any_separators_and_any_case() {
        assert_eq!(path(b" getfile\t \tGet  / \n"), Ok(&b"/"[..]));
        assert_eq!(path(b"GETFILE GET /a b c\r\n"), Ok(&b"/a"[..]));
        assert_eq!(path(b"GETFILE GET /\xff\xfe\n"), Ok(&b"/\xff\xfe"[..]));
    }

    #[test]
    fn malformed_lines_name_their_fault() {
        for (line, fault) in [
            (&b"\n"[..], Malformed::Protocol),
            (b"GETFILES GET /a\n", Malformed::Protocol),
            (b"GET /a HTTP/1.0\r\n", Malformed::Protocol),
            (b"GETFILE\n", Malformed::Method),
            (b"GETFILE PUT /a\n", Malformed::Method),
            (b"GETFILE GET\r\n", Malformed::Path),
            (b"GETFILE GET a\r\n", Malformed::Path),
            (b"GETFILE GET /a\0b\r\n", Malformed::Nul),
        ] {
            assert_eq!(parse(line), Err(fault), "{}", line.escape_ascii());
        }
    }
}
