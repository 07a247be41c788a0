//! What may still be sent in answer to a request, and how its connection ends. The rules that keep a client from a
//! corrupt file: one header, never more bytes than it announced, never a text behind it, and a visible cut where there
//! were fewer.

use std::ffi::c_int;
use std::io::Write;

use nix::errno::Errno;

use super::slot::{BROKEN, FILE, NO_FILE, Progress, SILENT, WorkerSlot};
use crate::abi::{GF_ERROR, GF_FILE_NOT_FOUND, GF_OK};
use crate::contexts::View;
use crate::net;
use base::Chunk;

/// The answer to a request that no handler answers.
pub(super) const ERROR_HEADER: &[u8] = b"GETFILE ERROR 0\n";
const NOT_FOUND_HEADER: &[u8] = b"GETFILE FILE_NOT_FOUND 0\n";

/// `gfs_sendheader`: the number of bytes of the header, or -1.
pub fn send_header(view: &mut View, slot: &WorkerSlot, status: c_int, file_len: usize) -> isize {
    let progress = slot.progress();
    if progress.get() != SILENT {
        return -1;
    }
    let mut buffer = [0; 40];
    let (header, file_len) = match status {
        GF_OK => (ok_header(&mut buffer, file_len), file_len),
        GF_FILE_NOT_FOUND => (NOT_FOUND_HEADER, 0),
        GF_ERROR => (ERROR_HEADER, 0),
        _ => return -1,
    };
    view.set_file_len(file_len);
    progress.set(if status == GF_OK { FILE } else { NO_FILE });
    // The kernel holds the header of a file back until the first bytes of the file: both leave in one segment.
    transmit(view, progress, Chunk::from(header), file_len > 0, |_, _| ())
}

fn ok_header(buffer: &mut [u8; 40], file_len: usize) -> &[u8] {
    let mut rest = &mut buffer[..];
    write!(rest, "GETFILE OK {file_len} ").expect("a length has at most 20 digits");
    let unused = rest.len();
    &buffer[..buffer.len() - unused]
}

/// `gfs_send`: the number of bytes, all of `chunk`, or -1.
pub fn send(view: &mut View, slot: &WorkerSlot, chunk: Chunk<'_>) -> isize {
    let progress = slot.progress();
    if progress.get() != FILE || chunk.len() > view.remaining() {
        return -1;
    }
    // The FIN follows as soon as the handler returns: held back until then, the last bytes leave in one segment with
    // it. Of a handler that does not return, the kernel sends them after 200 ms.
    let last = chunk.len() == view.remaining();
    transmit(view, progress, chunk, last, View::add_sent)
}

fn transmit(
    view: &mut View,
    progress: &Progress,
    chunk: Chunk<'_>,
    more: bool,
    count: impl Fn(&mut View, usize),
) -> isize {
    let result = net::send_all(view.socket(), chunk, more, |sent| count(view, sent));
    match result {
        Ok(()) => chunk.len() as isize,
        Err(e) => {
            progress.set(BROKEN);
            // For callers that look at errno, as after the provided server's write(2).
            Errno::set(e);
            -1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_header_fits() {
        assert_eq!(ok_header(&mut [0; 40], usize::MAX), format!("GETFILE OK {} ", usize::MAX).as_bytes());
        assert_eq!(ok_header(&mut [0; 40], 0), b"GETFILE OK 0 ");
    }
}
