//! One line of a locals file: blank, a comment, or two words.

use std::ops::Range;

use shm_channel::MAX_KEY;

/// The longest path, Linux's PATH_MAX less the NUL.
const MAX_PATH: usize = 4095;

/// Where the key and the path of a line stand in the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) key: Range<usize>,
    pub(super) path: Range<usize>,
}

/// Takes the line in `text[line]`, without its newline, apart. Quoted words are unquoted in place. None for a blank
/// line and for a comment.
pub(super) fn parse(text: &mut [u8], mut line: Range<usize>) -> Result<Option<Words>, &'static str> {
    if text[line.clone()].ends_with(b"\r") {
        line.end -= 1;
    }
    skip_blanks(text, &mut line);
    if line.start == line.end || text[line.start] == b'#' {
        return Ok(None);
    }
    if memchr::memchr(0, &text[line.clone()]).is_some() {
        return Err("a NUL byte");
    }
    let key = take_word(text, &mut line)?;
    if line.start == line.end {
        return Err("a key without a path");
    }
    let path = take_word(text, &mut line)?;
    if line.start < line.end {
        return Err("text after the path (a name with spaces needs double quotes)");
    }
    if key.is_empty() || path.is_empty() {
        return Err("an empty key or path");
    }
    if key.len() > MAX_KEY {
        return Err("a key longer than 4095 bytes");
    }
    if path.len() > MAX_PATH {
        return Err("a path longer than 4095 bytes");
    }
    Ok(Some(Words { key, path }))
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn skip_blanks(text: &[u8], line: &mut Range<usize>) {
    while line.start < line.end && is_blank(text[line.start]) {
        line.start += 1;
    }
}

/// The first word of `line`, which is not empty and does not begin with a blank: up to a blank, or quoted. Leaves what
/// follows the blanks after it.
fn take_word(text: &mut [u8], line: &mut Range<usize>) -> Result<Range<usize>, &'static str> {
    let word = if text[line.start] == b'"' {
        take_quoted(text, line)?
    } else {
        let len = memchr::memchr2(b' ', b'\t', &text[line.clone()]).unwrap_or(line.len());
        let word = line.start..line.start + len;
        line.start = word.end;
        word
    };
    skip_blanks(text, line);
    Ok(word)
}

/// A word in double quotes, in which `\"` and `\\` stand for the second character.
fn take_quoted(text: &mut [u8], line: &mut Range<usize>) -> Result<Range<usize>, &'static str> {
    let (mut from, mut to) = (line.start + 1, line.start);
    while from < line.end {
        match text[from] {
            b'"' => {
                let word = line.start..to;
                line.start = from + 1;
                if line.start < line.end && !is_blank(text[line.start]) {
                    return Err("text right after a closing quote");
                }
                return Ok(word);
            }
            b'\\' if from + 1 < line.end && matches!(text[from + 1], b'"' | b'\\') => from += 1,
            _ => {}
        }
        text[to] = text[from];
        from += 1;
        to += 1;
    }
    Err("an open quote")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key and path of one line.
    fn words(line: &[u8]) -> Result<Option<(String, String)>, &'static str> {
        let mut text = line.to_vec();
        let words = parse(&mut text, 0..line.len())?;
        let word = |range: Range<usize>| String::from_utf8_lossy(&text[range]).into_owned();
        Ok(words.map(|words| (word(words.key), word(words.path))))
    }

    #[track_caller]
    fn assert_words(line: &[u8], key: &str, path: &str) {
        assert_eq!(words(line), Ok(Some((key.to_owned(), path.to_owned()))), "{}", line.escape_ascii());
    }

    #[test]
    fn blanks_part_words() {
        assert_words(b"/a x", "/a", "x");
        assert_words(b"/a x ", "/a", "x");
        assert_words(b" \t/a \t x\t\r", "/a", "x");
        assert_words(b"/#a c#", "/#a", "c#");
        assert_words(b"/a\x0b \xc3\xbc\r\r", "/a\x0b", "\u{fc}\r");
    }

    #[test]
    fn quotes_hold_blanks_quotes_and_hashes() {
        assert_words(br##""/a b" "c	d""##, "/a b", "c\td");
        assert_words(br##""#" "#"	"##, "#", "#");
        assert_words(br#""/q\"\\x" "\y""#, r#"/q"\x"#, r"\y");
        // Only a word that begins with a quote is quoted.
        assert_words(br#"/a"b c"d""#, r#"/a"b"#, r#"c"d""#);
        assert_words("\"/a b\" x\r".as_bytes(), "/a b", "x");
    }

    #[test]
    fn blank_lines_and_comments_say_nothing() {
        for line in [&b""[..], b"\r", b" \t ", b"\t\r", b"#", b"# /a x", b"  #/a x"] {
            assert_eq!(words(line), Ok(None), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn every_fault_has_its_reason() {
        let long_key = [&b"/"[..], &[b'k'; MAX_KEY], b" x"].concat();
        let long_path = [&b"/a /"[..], &[b'p'; MAX_PATH]].concat();
        for (line, reason) in [
            (&b"/only-a-key"[..], "a key without a path"),
            (b"/only-a-key \t", "a key without a path"),
            (b"/a x y", "text after the path (a name with spaces needs double quotes)"),
            (b"/a x # y", "text after the path (a name with spaces needs double quotes)"),
            (b"\"/a x", "an open quote"),
            (b"/a \"x", "an open quote"),
            (b"/a \"x\\\"", "an open quote"),
            (b"\"/a\"x y", "text right after a closing quote"),
            (b"\"\" x", "an empty key or path"),
            (b"/a \"\"", "an empty key or path"),
            (b"/a\0b x", "a NUL byte"),
            (b"/a \"x\0y\"", "a NUL byte"),
            (b"\0 \0", "a NUL byte"),
            (&long_key, "a key longer than 4095 bytes"),
            (&long_path, "a path longer than 4095 bytes"),
        ] {
            assert_eq!(words(line), Err(reason), "{}", line.escape_ascii());
        }
        // The longest that go.
        let longest = [&b"/"[..], &[b'k'; MAX_KEY - 1], b" /", &[b'p'; MAX_PATH - 1]].concat();
        assert_eq!(words(&longest).map(|words| words.is_some()), Ok(true));
    }
}
