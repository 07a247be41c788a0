//! GETFILE: what a request looks like, how an answer's header is read, one whole exchange of a client, and what a
//! server answers to ([`Reply`]).
//!
//! A client sends `GETFILE GET /path\r\n\r\n`. A server answers `GETFILE OK <length> ` (one space, then at once the
//! bytes of the file) or `GETFILE FILE_NOT_FOUND 0\n` or `GETFILE ERROR 0\n`. After the last byte the server waits for
//! the client to close.

mod client;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod reply;

pub use client::{Client, FetchError, Timeouts};
pub use header::{Header, HeaderError, HeaderParser, Parsed};
pub use reply::{ClientGone, Outcome, Reply, Status};

/// The port that the clients ask where none is given.
pub const DEFAULT_PORT: u16 = 6200;

/// The request for `path`, ready to be sent in one write.
pub fn request(path: &[u8]) -> Vec<u8> {
    [b"GETFILE GET ", path, b"\r\n\r\n"].concat()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_request_carries_the_path_byte_for_byte() {
        assert_eq!(super::request(b"/\xff\x01"), b"GETFILE GET /\xff\x01\r\n\r\n");
    }
}
