//! Lines on their way to standard error. A thread of its own writes them, so that a reader of standard error that has
//! stopped reading stops the log and nothing else.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::{Condvar, Mutex};

/// The most bytes that wait to be written. Lines beyond it are dropped and counted.
const MOST_WAITING: usize = 1 << 20;

/// The most bytes of several lines in one write. A pipe takes this many whole (PIPE_BUF), not mixed with those of
/// another process.
const MOST_AT_ONCE: usize = 4096;

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    dropped: u64,
    lost: u64,
    /// The writer has lines in its hands.
    writing: bool,
    /// The writer is to do its last task, and to leave once all is written.
    ended: bool,
    has_left: bool,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    written: Condvar,
}

impl Queue {
    /// Adds a line, which ends with a newline. Never waits for the writer.
    pub(super) fn add(&self, line: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.lines.len() + line.len() > MOST_WAITING {
            waiting.dropped += 1;
            waiting.lost += 1;
            return;
        }
        waiting.lines.extend_from_slice(line);
        self.arrived.notify_one();
    }

    /// How many lines were dropped or refused so far.
    pub(super) fn lost(&self) -> u64 {
        self.waiting.lock().lost
    }

    /// Waits until all is written that was added before, for as long as `limit`. True if it is.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        // Not for ever: the end of the process may have come over the thread that has it.
        let Some(mut waiting) = self.waiting.try_lock_until(deadline) else { return false };
        while waiting.writing || !waiting.lines.is_empty() {
            if self.written.wait_until(&mut waiting, deadline).timed_out() {
                return false;
            }
        }
        true
    }

    /// Lets the writer leave, once it has done its last task and all is written. True if that is within `limit`.
    pub(super) fn end(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let Some(mut waiting) = self.waiting.try_lock_until(deadline) else { return false };
        waiting.ended = true;
        self.arrived.notify_one();
        while !waiting.has_left {
            if self.written.wait_until(&mut waiting, deadline).timed_out() {
                return false;
            }
        }
        true
    }

    /// The writer's thread. `told` makes the line that gives the number of dropped ones.
    pub(super) fn write_to(
        &self,
        mut target: impl Write + AsFd,
        told: impl Fn(u64) -> Vec<u8>,
        last_task: impl FnOnce(),
    ) {
        self.write_until_end(&mut target, &told);
        last_task();
        self.write_until_end(&mut target, &told);
        self.waiting.lock().has_left = true;
        self.written.notify_all();
    }

    fn write_until_end(&self, target: &mut (impl Write + AsFd), told: &impl Fn(u64) -> Vec<u8>) {
        let mut lines = Vec::new();
        while let Some(dropped) = self.take(&mut lines) {
            let refused = pieces(&lines).map(|piece| write_all(target, piece)).sum();
            lines.clear();
            // Lines are dropped after those that wait, never before.
            let untold = dropped + refused;
            if untold > 0 {
                let is_told = write_all(target, &told(untold)) == 0;
                self.note(refused, if is_told { 0 } else { untold });
            }
        }
    }

    /// Counts lines that the target refused, and dropped lines that no line has reported yet.
    fn note(&self, refused: u64, untold: u64) {
        let mut waiting = self.waiting.lock();
        waiting.lost += refused;
        waiting.dropped += untold;
    }

    /// Waits for lines and takes them all, in exchange for an empty buffer. Returns how many were dropped; None at the
    /// end.
    fn take(&self, empty: &mut Vec<u8>) -> Option<u64> {
        let mut waiting = self.waiting.lock();
        waiting.writing = false;
        while waiting.lines.is_empty() {
            self.written.notify_all();
            if waiting.ended {
                return None;
            }
            self.arrived.wait(&mut waiting);
        }
        waiting.writing = true;
        std::mem::swap(&mut waiting.lines, empty);
        Some(std::mem::take(&mut waiting.dropped))
    }
}

/// Cuts at line ends, into pieces of at most [`MOST_AT_ONCE`] bytes; a longer line is a piece of its own.
fn pieces(mut lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if lines.is_empty() {
            return None;
        }
        let end = if lines.len() <= MOST_AT_ONCE {
            lines.len()
        } else {
            let whole = memchr::memrchr(b'\n', &lines[..MOST_AT_ONCE]);
            whole.or_else(|| memchr::memchr(b'\n', lines)).map_or(lines.len(), |newline| newline + 1)
        };
        let (piece, rest) = lines.split_at(end);
        lines = rest;
        Some(piece)
    })
}

/// Writes lines. Returns how many of them the target did not take whole.
fn write_all(target: &mut (impl Write + AsFd), mut bytes: &[u8]) -> u64 {
    while !bytes.is_empty() {
        match target.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process that shares the terminal may have made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait_for_room(target),
            // A full disk, or a pipe that nobody reads any more.
            Err(_) => return memchr::memchr_iter(b'\n', bytes).count() as u64,
        }
    }
    0
}

fn wait_for_room(target: &impl AsFd) {
    // An error here is one of the next write, too.
    let _: Result<_, io::Error> =
        poll(&mut [PollFd::new(target.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE).map_err(Into::into);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_with_lines() {
        let long = [&[b'x'; 5000][..], b"\n"].concat();
        let short = [&[b'y'; 3000][..], b"\n"].concat();
        let lines = [&short[..], &short, b"z\n", &long, &short].concat();
        let lens: Vec<_> = pieces(&lines).map(<[u8]>::len).collect();
        assert_eq!(lens, [3001, 3003, 5001, 3001]);
        assert!(pieces(&lines).all(|piece| piece.ends_with(b"\n")));
        assert_eq!(pieces(b"").count(), 0);
    }

    #[test]
    fn lines_beyond_the_bound_are_dropped_and_counted() {
        let queue = Queue::default();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..1030 {
            queue.add(&line);
        }
        let mut lines = Vec::new();
        assert_eq!(queue.take(&mut lines), Some(6));
        assert_eq!(lines.len(), MOST_WAITING);
        queue.add(b"again\n");
        lines.clear();
        assert_eq!(queue.take(&mut lines), Some(0));
        assert_eq!(lines, b"again\n");
    }

    #[test]
    fn a_flush_waits_for_what_was_added_but_not_for_ever() {
        let queue = Queue::default();
        assert!(queue.flush(Duration::from_secs(60)));
        queue.add(b"nobody writes this\n");
        assert!(!queue.flush(Duration::from_millis(1)));
    }

    #[test]
    fn at_the_end_the_writer_does_its_last_task_writes_what_waits_and_leaves() {
        let queue = Queue::default();
        queue.add(b"a line\n");
        assert!(!queue.end(Duration::ZERO), "there is no writer yet");
        let (mut read, write) = io::pipe().expect("a pipe");
        queue.write_to(write, |_| Vec::new(), || queue.add(b"the last line\n"));
        assert!(queue.end(Duration::ZERO));
        let mut written = String::new();
        io::Read::read_to_string(&mut read, &mut written).expect("what the writer wrote");
        assert_eq!(written, "a line\nthe last line\n");
    }
}
