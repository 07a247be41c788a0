//! Bytes in memory that another process can change, and their way into a descriptor.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Bytes for a client. They may lie in memory that another process can write at any moment, so they are a pointer
/// and a length and never a `&[u8]`: only system calls read them.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    data: *const u8,
    len: usize,
    owner: PhantomData<&'a [u8]>,
}

impl<'a> Chunk<'a> {
    /// `len` bytes from `data`, which stay mapped for `'a`.
    pub fn from_raw(data: *const u8, len: usize) -> Self {
        Self { data, len, owner: PhantomData }
    }

    /// The `len` bytes from `offset` on, all of which are the chunk's.
    pub fn part(&self, offset: usize, len: usize) -> Self {
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

/// Writes a whole chunk to a descriptor.
fn write_all(out: BorrowedFd<'_>, chunk: Chunk<'_>) -> io::Result<()> {
    let mut written = 0;
    while written < chunk.len {
        // SAFETY: `written` is less than the chunk's length, so the pointer stays inside it, and the chunk stays
        // mapped. Only the kernel reads the bytes, and it answers EFAULT for those it cannot read.
        let count = unsafe { libc::write(out.as_raw_fd(), chunk.as_ptr().add(written).cast(), chunk.len - written) };
        match count {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            1.. => written += count.cast_unsigned(),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}
