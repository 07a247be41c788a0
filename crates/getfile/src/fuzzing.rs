//! The header of an answer, as a function of bytes: a target of `fuzz/`, and of the property below.

use crate::{HeaderParser, Parsed};

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

#[cfg(all(test, not(loom)))]
mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Mostly the letters that mean something.
    fn text(alphabet: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
        let letter = prop_oneof![9 => prop::sample::select(alphabet), 1 => any::<u8>()];
        prop::collection::vec(letter, 0..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn headers_of_any_bytes(bytes in text(b"OK 0123456789\n"), begin in 0..4usize) {
            let begin = ["", "GETFILE ", "GETFILE OK ", "GETFILE FILE_NOT_FOUND "][begin];
            header(&[begin.as_bytes(), &bytes].concat());
        }
    }
}
