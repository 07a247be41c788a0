//! A body whose length is not known until its end, kept until then: in memory while it is small, then in an unlinked
//! temporary file.

use std::env;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapMut;

use super::config::Config;
use super::sink::Sink;
use base::standard::above;
use getfile::ClientGone;

/// Memory is taken in mappings of this size: a buffer that grows is copied, and malloc(3) keeps what was freed.
const PIECE: usize = 64 << 10;

/// What all bodies of an origin that are being kept may take together.
#[derive(Debug)]
pub(super) struct Budgets {
    memory: Arc<Budget>,
    disk: Arc<Budget>,
}

impl Budgets {
    pub(super) fn new(config: &Config) -> Self {
        let budget = |total| Arc::new(Budget { total, left: AtomicU64::new(total) });
        Self { memory: budget(config.spool_memory_total), disk: budget(config.spool_disk_total) }
    }

    /// Nothing yet, of the disk.
    pub(super) fn disk(&self) -> Portion {
        Portion { budget: Arc::clone(&self.disk), taken: 0 }
    }

    fn memory(&self) -> Portion {
        Portion { budget: Arc::clone(&self.memory), taken: 0 }
    }
}

#[derive(Debug)]
struct Budget {
    total: u64,
    left: AtomicU64,
}

/// What one body has of a budget. Given back when dropped.
#[derive(Debug)]
pub(super) struct Portion {
    budget: Arc<Budget>,
    taken: u64,
}

impl Portion {
    /// Whether there is room for `bytes` in all, which are then this body's.
    pub(super) fn grow_to(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.taken);
        let take = |left: u64| left.checked_sub(more);
        let granted = more == 0 || self.budget.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if granted {
            self.taken += more;
        }
        granted
    }

    fn give_back(&mut self) {
        self.budget.left.fetch_add(std::mem::take(&mut self.taken), Ordering::Relaxed);
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Why a spool takes no more.
#[derive(Debug, thiserror::Error)]
enum Full {
    #[error("the body has no announced length and is larger than {0} bytes")]
    Ceiling(u64),
    #[error("the bodies without an announced length may take {0} bytes on disk, and do")]
    Disk(u64),
}

/// A file without a name.
pub(super) fn temporary_file() -> io::Result<File> {
    let file = tempfile::tempfile().map_err(named)?;
    Ok(above(file)?)
}

/// Says in an error of a temporary file where that would be.
fn named(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("TMPDIR, {}: {error}", env::temp_dir().display()))
}

/// One body.
#[derive(Debug)]
pub(super) struct Spool {
    pieces: Vec<MmapMut>,
    /// Instead of the pieces, once they do not suffice.
    file: Option<File>,
    len: u64,
    ceiling: u64,
    most_in_memory: u64,
    memory: Portion,
    disk: Portion,
}

impl Spool {
    pub(super) fn new(config: &Config, budgets: &Budgets) -> Self {
        Self {
            pieces: Vec::new(),
            file: None,
            len: 0,
            ceiling: config.spool_ceiling,
            most_in_memory: config.spool_memory,
            memory: budgets.memory(),
            disk: budgets.disk(),
        }
    }

    /// The number of bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is memory for a body of `len` bytes.
    fn fits_memory(&mut self, len: u64) -> bool {
        if self.file.is_some() || len > self.most_in_memory {
            return false;
        }
        let pieces = len.div_ceil(PIECE as u64);
        if !self.memory.grow_to(pieces * PIECE as u64) {
            return false;
        }
        while (self.pieces.len() as u64) < pieces {
            let Ok(piece) = MmapMut::map_anon(PIECE) else { return false };
            self.pieces.push(piece);
        }
        true
    }

    /// Appends to the pieces, where there is room for it.
    fn keep(&mut self, mut data: &[u8]) {
        let mut at = self.len as usize;
        while !data.is_empty() {
            let room = &mut self.pieces[at / PIECE][at % PIECE..];
            let (now, later) = data.split_at(data.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            at += now.len();
            data = later;
        }
    }

    /// Appends to the file. What was in memory moves to it.
    fn spill(&mut self, data: &[u8]) -> io::Result<()> {
        if !self.disk.grow_to(self.len + data.len() as u64) {
            return Err(io::Error::other(Full::Disk(self.disk.budget.total)));
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut file = temporary_file()?;
                filled(&self.pieces, self.len).try_for_each(|piece| file.write_all(piece)).map_err(named)?;
                self.pieces = Vec::new();
                self.memory.give_back();
                none.insert(file)
            }
        };
        file.write_all(data).map_err(named)
    }

    /// Sends all of it; the header has been sent.
    pub(super) fn deliver(&mut self, sink: &mut dyn Sink) -> Result<(), DeliverError> {
        match &mut self.file {
            Some(file) => deliver_file(file, self.len, sink),
            None => Ok(filled(&self.pieces, self.len).try_for_each(|piece| sink.body(piece))?),
        }
    }
}

/// What the first `len` bytes of these pieces hold.
fn filled(pieces: &[MmapMut], len: u64) -> impl Iterator<Item = &[u8]> {
    let begins = (0..len).step_by(PIECE);
    pieces.iter().zip(begins).map(move |(piece, begin)| &piece[..PIECE.min((len - begin) as usize)])
}

fn deliver_file(file: &mut File, len: u64, sink: &mut dyn Sink) -> Result<(), DeliverError> {
    file.rewind()?;
    let mut buffer = MmapMut::map_anon(PIECE)?;
    let mut left = len;
    while left > 0 {
        let want = PIECE.min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..want])?;
        sink.body(&buffer[..want])?;
        left -= want as u64;
    }
    Ok(())
}

impl Write for Spool {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let len = self.len + data.len() as u64;
        if len > self.ceiling {
            return Err(io::Error::other(Full::Ceiling(self.ceiling)));
        }
        if self.fits_memory(len) {
            self.keep(data);
        } else {
            self.spill(data)?;
        }
        self.len = len;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
