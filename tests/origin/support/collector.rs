//! A client of a handler, in memory: collects what it is sent, and can leave in the middle.

use base::Chunk;
use getfile::{ClientGone, Reply, Status};

#[derive(Debug, Default)]
pub struct Collector {
    pub header: Option<(Status, u64)>,
    pub body: Vec<u8>,
    /// After so many bytes the client is gone.
    pub leaves_after: Option<usize>,
    /// Called with the number of bytes after each chunk.
    pub on_chunk: Option<OnChunk>,
}

pub struct OnChunk(pub Box<dyn FnMut(usize) + Send>);

impl std::fmt::Debug for OnChunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnChunk")
    }
}

impl Reply for Collector {
    fn header(&mut self, status: Status, len: u64) -> Result<(), ClientGone> {
        assert_eq!(self.header, None, "a second header");
        self.header = Some((status, len));
        Ok(())
    }

    fn body(&mut self, chunk: Chunk<'_>) -> Result<(), ClientGone> {
        let (_, len) = self.header.expect("a header before the body");
        self.body.extend_from_slice(bytes(&chunk));
        assert!(self.body.len() as u64 <= len, "more than the header says");
        if let Some(OnChunk(call)) = &mut self.on_chunk {
            call(self.body.len());
        }
        match self.leaves_after {
            Some(limit) if self.body.len() >= limit => Err(ClientGone),
            _ => Ok(()),
        }
    }
}

#[allow(unsafe_code)]
fn bytes<'a>(chunk: &'a Chunk<'_>) -> &'a [u8] {
    // SAFETY: the origin's chunks are slices of this process's own memory.
    unsafe { std::slice::from_raw_parts(chunk.as_ptr(), chunk.len()) }
}

/// Bytes that differ from place to place, so that a mixed up or shifted file shows.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}
