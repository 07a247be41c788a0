//! Writing from memory that another process can change.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::reply::Chunk;

/// Writes a whole chunk to a descriptor.
pub(crate) fn write_all(out: BorrowedFd<'_>, chunk: Chunk<'_>) -> io::Result<()> {
    let mut written = 0;
    while written < chunk.len() {
        // SAFETY: `written` is less than the chunk's length, so the pointer stays inside it, and the chunk stays mapped.
        // Only the kernel reads the bytes, and it answers EFAULT for those it cannot read.
        let count = unsafe { libc::write(out.as_raw_fd(), chunk.as_ptr().add(written).cast(), chunk.len() - written) };
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
