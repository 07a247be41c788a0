//! A body that is kept until its end, because its length is not known before: chunked, up to the close, or compressed.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;

use super::spool::Spool;

/// A body that is being kept, as the file that it is.
pub(super) enum Body {
    Plain(Spool),
    /// Compressed though that was not asked for. The decoder checks length and checksum, which tell a truncated one.
    Gzip(Box<MultiGzDecoder<Spool>>),
}

impl Body {
    pub(super) fn plain(spool: Spool) -> Self {
        Self::Plain(spool)
    }

    pub(super) fn gzip(spool: Spool) -> Self {
        Self::Gzip(Box::new(MultiGzDecoder::new(spool)))
    }

    pub(super) fn push(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(spool) => spool.write_all(data),
            Self::Gzip(decoder) => decoder.write_all(data),
        }
    }

    /// The whole file.
    pub(super) fn finish(self) -> io::Result<Spool> {
        match self {
            Self::Plain(spool) => Ok(spool),
            Self::Gzip(decoder) => decoder.finish(),
        }
    }
}
