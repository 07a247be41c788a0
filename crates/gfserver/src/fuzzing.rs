//! The request line, as a function of bytes: a target of `fuzz/`, and of the property below.

use crate::request::parse;

/// A request line of a GETFILE client.
pub fn request(bytes: &[u8]) {
    if let Ok(words) = parse(bytes) {
        assert!(bytes[words.protocol].eq_ignore_ascii_case(b"GETFILE"));
        assert!(bytes[words.method].eq_ignore_ascii_case(b"GET"));
        let path = &bytes[words.path];
        assert!(path.starts_with(b"/") && !path.iter().any(|byte| b" \t\r\n\0".contains(byte)));
    }
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
        fn requests_of_any_bytes(path in text(b"/ab \t\r\n\0"), case: bool) {
            let begin = if case { "GETFILE GET /" } else { "getfile\tget " };
            request(&[begin.as_bytes(), &path, b"\r\n"].concat());
            request(&path);
        }
    }
}
