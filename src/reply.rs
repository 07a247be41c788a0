//! What a handler sees of its client: a header, then bytes. Handlers write to the [`Reply`] trait, so that their logic
//! is tested without a server; `sys::gfserver` holds the one adapter that calls `gfs_sendheader` and `gfs_send`.

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;

use crate::sys::write::write_all;

/// The status of a GETFILE answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `GETFILE OK <length> `, then the file.
    Ok,
    /// `GETFILE FILE_NOT_FOUND 0`: no such file, or no access, which must look the same.
    FileNotFound,
    /// `GETFILE ERROR 0`: the file could not be had.
    Error,
}

/// Bytes for the client. They may lie in memory that another process can write at any moment, so they are a pointer
/// and a length and never a `&[u8]`: only system calls read them.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    data: *const u8,
    len: usize,
    owner: PhantomData<&'a [u8]>,
}

impl<'a> Chunk<'a> {
    /// `len` bytes from `data`, which stay mapped for `'a`.
    pub(crate) fn from_raw(data: *const u8, len: usize) -> Self {
        Self { data, len, owner: PhantomData }
    }

    /// The `len` bytes from `offset` on, all of which are the chunk's.
    pub(crate) fn part(&self, offset: usize, len: usize) -> Self {
        assert!(offset <= self.len && len <= self.len - offset);
        Self { data: self.data.wrapping_add(offset), len, owner: PhantomData }
    }

    /// Where the bytes begin. Reading through it is unsafe: the memory may change under the reader.
    pub fn as_ptr(&self) -> *const u8 {
        self.data
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes all the bytes to a file, pipe or socket, with write(2).
    pub fn write_to(&self, out: impl AsFd) -> io::Result<()> {
        write_all(out.as_fd(), *self)
    }
}

impl<'a> From<&'a [u8]> for Chunk<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::from_raw(bytes.as_ptr(), bytes.len())
    }
}

/// The client closed its connection, or did not read for longer than the send timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client left or stopped reading")]
pub struct ClientGone;

/// Where a handler writes its answer: one header, then exactly the announced number of bytes.
pub trait Reply {
    /// Sends the header. `len` is the length of the file in bytes, 0 unless `status` is [`Status::Ok`].
    fn header(&mut self, status: Status, len: u64) -> Result<(), ClientGone>;

    /// Sends the next bytes of the file.
    fn body(&mut self, chunk: Chunk<'_>) -> Result<(), ClientGone>;

    /// The transfer broke off at its source and goes on. Nothing of it reaches the client.
    fn resumed(&mut self) {}
}

/// How a handler ended. The C boundary turns it into what keeps a client from a corrupt file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A whole file, of so many bytes, was sent.
    Sent(u64),
    /// There is no such file (or no access). Nothing was sent yet.
    NotFound,
    /// The file could not be had, for this reason. Nothing was sent yet: the client gets `GETFILE ERROR`.
    Failed(String),
    /// The file broke off after its header, for this reason: the connection must be cut, so that the client sees a
    /// short file.
    Cut(String),
}
