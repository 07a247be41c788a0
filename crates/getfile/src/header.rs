//! An incremental parser for the header of an answer: bytes come in whatever pieces the network made of them.

use crate::Status;

/// What an answer begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How the server answered.
    pub status: Status,
    /// The length of the file in bytes; 0 unless the status is [`Status::Ok`].
    pub len: u64,
}

/// What a piece of an answer completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The header goes on in the next piece.
    Partial,
    /// The header ended after the first `used` bytes of this piece; what follows is the file.
    Complete {
        /// The header.
        header: Header,
        /// How many bytes of this piece belong to the header.
        used: usize,
    },
}

/// Why a header is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The answer does not begin with the protocol's name.
    #[error("it does not begin with GETFILE")]
    Protocol,
    /// The status is none of the three.
    #[error("its status is none of OK, FILE_NOT_FOUND and ERROR")]
    Status,
    /// The length is missing, is not a decimal number of at most 64 bits, or is not followed by one space.
    #[error("its length is not a number followed by one space")]
    Length,
}

/// The statuses as they stand on the wire. A server may end a refusal with a space and a length of 0, or at once with a
/// line end. Only a space leads on to the length of a file.
const STATUSES: [(&[u8], Status); 3] =
    [(b"OK", Status::Ok), (b"FILE_NOT_FOUND", Status::FileNotFound), (b"ERROR", Status::Error)];

/// The longest status and the byte that ends it.
const LONGEST_WORD: usize = 15;

/// Reads one header, piece by piece. The header of a refusal is complete with its status: nothing after it matters.
#[derive(Clone, Debug, Default)]
pub struct HeaderParser {
    field: Field,
    word: [u8; LONGEST_WORD],
    word_len: usize,
    digits: u32,
    len: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum Field {
    #[default]
    Protocol,
    Status,
    Length,
}

impl HeaderParser {
    /// A parser at the first byte of an answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of the answer.
    pub fn push(&mut self, piece: &[u8]) -> Result<Parsed, HeaderError> {
        for (at, &byte) in piece.iter().enumerate() {
            if let Some(header) = self.push_byte(byte)? {
                return Ok(Parsed::Complete { header, used: at + 1 });
            }
        }
        Ok(Parsed::Partial)
    }

    fn push_byte(&mut self, byte: u8) -> Result<Option<Header>, HeaderError> {
        match self.field {
            Field::Protocol => {
                self.push_word(byte, HeaderError::Protocol)?;
                if byte == b' ' {
                    if !self.take_word().eq_ignore_ascii_case(b"GETFILE") {
                        return Err(HeaderError::Protocol);
                    }
                    self.field = Field::Status;
                }
            }
            Field::Status => {
                self.push_word(byte, HeaderError::Status)?;
                if matches!(byte, b' ' | b'\r' | b'\n') {
                    let word = self.take_word();
                    match STATUSES.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)) {
                        Some((_, Status::Ok)) if byte == b' ' => self.field = Field::Length,
                        Some((_, Status::Ok)) => return Err(HeaderError::Length),
                        Some(&(_, status)) => return Ok(Some(Header { status, len: 0 })),
                        None => return Err(HeaderError::Status),
                    }
                }
            }
            Field::Length => match byte {
                b'0'..=b'9' => {
                    let longer = self.len.checked_mul(10).and_then(|len| len.checked_add(u64::from(byte - b'0')));
                    self.len = longer.ok_or(HeaderError::Length)?;
                    // Zeros in front never overflow the length, so the digits are counted too.
                    self.digits += 1;
                    if self.digits > u64::MAX.ilog10() + 1 {
                        return Err(HeaderError::Length);
                    }
                }
                b' ' if self.digits > 0 => return Ok(Some(Header { status: Status::Ok, len: self.len })),
                _ => return Err(HeaderError::Length),
            },
        }
        Ok(None)
    }

    fn push_word(&mut self, byte: u8, overlong: HeaderError) -> Result<(), HeaderError> {
        *self.word.get_mut(self.word_len).ok_or(overlong)? = byte;
        self.word_len += 1;
        Ok(())
    }

    /// The word before the byte that ended it; the next word begins empty.
    fn take_word(&mut self) -> &[u8] {
        let len = std::mem::take(&mut self.word_len) - 1;
        &self.word[..len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(status: Status, len: u64) -> Header {
        Header { status, len }
    }

    const ANSWERS: [(&[u8], Status, u64); 9] = [
        (b"GETFILE OK 0 ", Status::Ok, 0),
        (b"GETFILE OK 1048599 ", Status::Ok, 1_048_599),
        (b"GETFILE OK 18446744073709551615 ", Status::Ok, u64::MAX),
        (b"getfile ok 7 ", Status::Ok, 7),
        (b"GETFILE FILE_NOT_FOUND ", Status::FileNotFound, 0),
        (b"GETFILE FILE_NOT_FOUND\r", Status::FileNotFound, 0),
        (b"GETFILE ERROR ", Status::Error, 0),
        (b"GETFILE ERROR\n", Status::Error, 0),
        (b"GETFILE OK 00000000000000000012 ", Status::Ok, 12),
    ];

    #[test]
    fn every_answer_is_read_however_it_is_split() {
        for (bytes, status, len) in ANSWERS {
            let whole = [bytes, b" body"].concat();
            for split in 0..bytes.len() {
                let mut parser = HeaderParser::new();
                assert_eq!(parser.push(&whole[..split]), Ok(Parsed::Partial), "{split}");
                let complete = Parsed::Complete { header: header(status, len), used: bytes.len() - split };
                assert_eq!(parser.push(&whole[split..]), Ok(complete), "{split}");
            }
            let mut parser = HeaderParser::new();
            for &byte in &bytes[..bytes.len() - 1] {
                assert_eq!(parser.push(&[byte]), Ok(Parsed::Partial));
            }
            let complete = Parsed::Complete { header: header(status, len), used: 1 };
            assert_eq!(parser.push(&bytes[bytes.len() - 1..]), Ok(complete));
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let cases: [(&[u8], HeaderError); 15] = [
            (b" OK 1 ", HeaderError::Protocol),
            (b"HTTP/1.1 200 OK\r\n", HeaderError::Protocol),
            (b"GETFILEGETFILEGETFILE", HeaderError::Protocol),
            (b"GETFILE\nOK 1 ", HeaderError::Protocol),
            (b"GETFILE  OK 1 ", HeaderError::Status),
            (b"GETFILE MAYBE 1 ", HeaderError::Status),
            (b"GETFILE FILE_NOT_FOUNDED ", HeaderError::Status),
            (b"GETFILE OK\n", HeaderError::Length),
            (b"GETFILE OK  1 ", HeaderError::Length),
            (b"GETFILE OK 1\n", HeaderError::Length),
            (b"GETFILE OK 1\t", HeaderError::Length),
            (b"GETFILE OK -1 ", HeaderError::Length),
            (b"GETFILE OK 0x1 ", HeaderError::Length),
            (b"GETFILE OK 18446744073709551616 ", HeaderError::Length),
            (b"GETFILE OK 000000000000000000000 ", HeaderError::Length),
        ];
        for (bytes, error) in cases {
            assert_eq!(HeaderParser::new().push(bytes), Err(error), "{}", bytes.escape_ascii());
        }
    }
}
