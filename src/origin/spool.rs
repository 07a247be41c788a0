//! A body whose length is not known until its end, kept until then: in memory while it is small, then in an unlinked
//! temporary file.

use std::io::{self, Read, Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::SpooledTempFile;

use super::config::Config;
use super::transfer::Sink;
use crate::reply::ClientGone;

/// The memory that all spools of an origin may take together.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicU64,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(bytes) })
    }

    fn take(&self, bytes: u64) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Why a spool takes no more.
#[derive(Debug, thiserror::Error)]
#[error("the body has no announced length and is larger than {0} bytes")]
struct Ceiling(u64);

/// One body.
#[derive(Debug)]
pub(super) struct Spool {
    file: SpooledTempFile,
    len: u64,
    ceiling: u64,
    memory: u64,
    /// Taken from the budget; 0 once the body is in a file.
    reserved: u64,
    budget: Arc<Budget>,
}

impl Spool {
    /// What is reserved of the budget at a time.
    const STEP: u64 = 256 << 10;

    pub(super) fn new(config: &Config, budget: &Arc<Budget>) -> Self {
        Self {
            // Rolls over where we say, which depends on the budget too.
            file: SpooledTempFile::new(usize::MAX),
            len: 0,
            ceiling: config.spool_ceiling,
            memory: config.spool_memory,
            reserved: 0,
            budget: Arc::clone(budget),
        }
    }

    /// The number of bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    fn fits_memory(&mut self, len: u64) -> bool {
        if len > self.memory {
            return false;
        }
        let wanted = len.next_multiple_of(Self::STEP);
        let more = wanted.saturating_sub(self.reserved);
        let granted = more == 0 || self.budget.take(more);
        if granted {
            self.reserved += more;
        }
        granted
    }

    fn release(&mut self) {
        self.budget.give(std::mem::take(&mut self.reserved));
    }

    /// Sends all of it; the header has been sent.
    pub(super) fn deliver(&mut self, sink: &mut dyn Sink) -> Result<(), DeliverError> {
        self.file.rewind()?;
        let mut buffer = vec![0; self.len.min(256 << 10) as usize];
        let mut left = self.len;
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.file.read_exact(&mut buffer[..want])?;
            sink.body(&buffer[..want])?;
            left -= want as u64;
        }
        Ok(())
    }
}

impl Write for Spool {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let len = self.len + data.len() as u64;
        if len > self.ceiling {
            return Err(io::Error::other(Ceiling(self.ceiling)));
        }
        if !self.file.is_rolled() && !self.fits_memory(len) {
            self.file.roll()?;
            self.release();
        }
        self.file.write_all(data)?;
        self.len = len;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.release();
    }
}

/// Why a spooled body was not delivered whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeliverError {
    #[error("the kept body cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Client(#[from] ClientGone),
}
