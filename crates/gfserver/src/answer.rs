//! What may still be sent in answer to a request, and how its connection ends. The rules that keep a client from a
//! corrupt file: one header, never more bytes than it announced, never a text behind it, and a visible cut where there
//! were fewer.

use std::ffi::c_int;
use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;

use super::instance::WorkerSlot;
use crate::abi::{GF_ERROR, GF_FILE_NOT_FOUND, GF_OK};
use crate::contexts::{Called, View};
use crate::net;
use base::Chunk;

/// The answer to a request that no handler answers.
pub(super) const ERROR_HEADER: &[u8] = b"GETFILE ERROR 0\n";
const NOT_FOUND_HEADER: &[u8] = b"GETFILE FILE_NOT_FOUND 0\n";

/// How far the answer to one request is. Atomic, since a handler may send from threads of its own, one after another.
#[derive(Default)]
pub(super) struct Progress(AtomicU8);

/// Nothing was sent.
const SILENT: u8 = 0;
/// A header that announces a file was sent, and some or all of the file.
const FILE: u8 = 1;
/// A header that announces none was sent.
const NO_FILE: u8 = 2;
/// A send failed: the connection has lost bytes and takes no more.
const BROKEN: u8 = 3;

/// What the server does with the connection after the handler's return.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The answer is complete.
    Complete,
    /// The handler answered nothing: the client is told of an error.
    Error,
    /// The client has a part of a file: it must see that there is no more.
    Cut,
}

impl Progress {
    pub(super) fn reset(&self) {
        self.set(SILENT);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self, progress: u8) {
        self.0.store(progress, Ordering::Release);
    }

    pub(super) fn ending(&self, called: &Called) -> Ending {
        match self.get() {
            SILENT => Ending::Error,
            NO_FILE => Ending::Complete,
            FILE if called.returned >= 0 && called.sent >= called.file_len => Ending::Complete,
            _ => Ending::Cut,
        }
    }
}

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
    // The FIN follows as soon as the handler returns: held back until then, the last bytes leave in one segment with it.
    // Of a handler that does not return, the kernel sends them after 200 ms.
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

    fn ending(progress: u8, returned: isize, file_len: usize, sent: usize) -> Ending {
        let state = Progress::default();
        state.set(progress);
        state.ending(&Called { returned, file_len, sent })
    }

    #[test]
    fn only_a_whole_file_or_a_header_without_one_is_complete() {
        assert_eq!(ending(FILE, 10, 10, 10), Ending::Complete);
        assert_eq!(ending(FILE, 0, 0, 0), Ending::Complete);
        assert_eq!(ending(NO_FILE, 0, 0, 0), Ending::Complete);
        assert_eq!(ending(NO_FILE, -1, 0, 0), Ending::Complete);
    }

    #[test]
    fn a_short_or_failed_file_is_cut() {
        assert_eq!(ending(FILE, 9, 10, 9), Ending::Cut);
        assert_eq!(ending(FILE, -1, 10, 0), Ending::Cut);
        assert_eq!(ending(FILE, -1, 10, 10), Ending::Cut);
        assert_eq!(ending(BROKEN, 10, 10, 10), Ending::Cut);
    }

    #[test]
    fn silence_is_an_error_whatever_the_handler_returned() {
        assert_eq!(ending(SILENT, -1, 0, 0), Ending::Error);
        assert_eq!(ending(SILENT, 0, 0, 0), Ending::Error);
    }

    #[test]
    fn the_longest_header_fits() {
        assert_eq!(ok_header(&mut [0; 40], usize::MAX), format!("GETFILE OK {} ", usize::MAX).as_bytes());
        assert_eq!(ok_header(&mut [0; 40], 0), b"GETFILE OK 0 ");
    }
}
