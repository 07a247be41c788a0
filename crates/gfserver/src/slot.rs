//! What one worker shares with others: how far the answer to its request is, and on which connection.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;

use super::worker_limit::Calls;
use crate::contexts::Called;
use crate::net;

/// What one worker shares with those who send for its handler and with those who end the server.
#[derive(Default)]
pub struct WorkerSlot {
    progress: Progress,
    calls: Calls,
    /// The connection that the worker's handler is answering. It is closed only after this is empty again.
    current: Mutex<Option<RawFd>>,
}

impl WorkerSlot {
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(super) fn calls(&self) -> &Calls {
        &self.calls
    }

    pub(super) fn take_up(&self, socket: &OwnedFd) {
        self.progress.reset();
        *self.current.lock() = Some(socket.as_raw_fd());
    }

    pub(super) fn leave(&self, called: &Called) -> Ending {
        *self.current.lock() = None;
        self.progress.ending(called)
    }

    /// Cuts the connection that is being answered, if one is.
    pub(super) fn cut_current(&self) -> bool {
        // The lock keeps the worker from closing the socket, and the number from being another's, during the call.
        self.current.lock().map(net::cut).is_some()
    }
}

/// How far the answer to one request is. Atomic, since a handler may send from threads of its own, one after another.
#[derive(Default)]
pub(super) struct Progress(AtomicU8);

/// Nothing was sent.
pub(super) const SILENT: u8 = 0;
/// A header that announces a file was sent, and some or all of the file.
pub(super) const FILE: u8 = 1;
/// A header that announces none was sent.
pub(super) const NO_FILE: u8 = 2;
/// A send failed: the connection has lost bytes and takes no more.
pub(super) const BROKEN: u8 = 3;

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

    pub(super) fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, progress: u8) {
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
}
