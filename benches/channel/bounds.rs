//! Two processes that take turns by a futex: what a hand-off costs at least.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::mman::{MapFlags, ProtFlags, mmap};

use crate::served::Role;

/// Where the words and the bytes are: each on lines of its own.
const SIZE_AT: usize = 0;
const ASKED_AT: usize = 128;
const ANSWERED_AT: usize = 256;
const DATA_AT: usize = 4096;
/// Tells the other process to end.
const END: u32 = u32::MAX;

/// A mapping that is kept until the process ends.
struct Area(NonNull<u8>);

impl Area {
    fn map(file: &File) -> Self {
        let len = NonZeroUsize::new(file.metadata().expect("fstat").len() as usize).expect("a length");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping replaces nothing.
        let base = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE, file, 0) };
        Self(base.expect("mmap").cast())
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: aligned, within the mapping's first page, and an atomic for both processes.
        unsafe { AtomicU32::from_ptr(self.0.add(at).as_ptr().cast()) }
    }

    /// Stores a word and wakes who sleeps on it.
    fn tell(&self, at: usize, value: u32) {
        self.word(at).store(value, Ordering::SeqCst);
        // SAFETY: FUTEX_WAKE uses the address only.
        unsafe { libc::syscall(libc::SYS_futex, self.word(at).as_ptr(), libc::FUTEX_WAKE, 1) };
    }

    /// Sleeps until a word is another than `value`.
    fn await_change(&self, at: usize, value: u32) -> u32 {
        loop {
            let now = self.word(at).load(Ordering::SeqCst);
            if now != value {
                return now;
            }
            let word = self.word(at).as_ptr();
            // SAFETY: the word is mapped; there is no timeout.
            unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, value, ptr::null::<libc::timespec>()) };
        }
    }
}

/// The other process: for each question reads the next bytes of a file into the area, and answers.
pub fn answer(area: &Path, file: &Path) {
    let area = Area::map(&OpenOptions::new().read(true).write(true).open(area).expect("the area"));
    let file = File::open(file).expect("the file");
    let size = area.word(SIZE_AT).load(Ordering::SeqCst) as usize;
    // SAFETY: the area has so many bytes from there on, and the asking side does not touch them.
    let data = unsafe { std::slice::from_raw_parts_mut(area.0.add(DATA_AT).as_ptr(), size) };
    let chunks = file.metadata().expect("fstat").len() / size as u64;
    let mut asked = 0;
    loop {
        asked = area.await_change(ASKED_AT, asked);
        if asked == END {
            return;
        }
        file.read_exact_at(data, u64::from(asked) % chunks * size as u64).expect("pread");
        area.tell(ANSWERED_AT, asked);
    }
}

pub struct PingPong {
    area: Area,
    _answering: Role,
}

impl PingPong {
    pub fn start(path: &Path, file: &Path, size: usize) -> Self {
        let memory = OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("the area");
        memory.set_len((DATA_AT + size) as u64).expect("ftruncate");
        let area = Area::map(&memory);
        area.word(SIZE_AT).store(size as u32, Ordering::SeqCst);
        Self { area, _answering: Role::start(&["answer".as_ref(), path, file]) }
    }

    pub fn run(&self, turns: usize) -> Duration {
        let first = self.area.word(ANSWERED_AT).load(Ordering::SeqCst);
        let turn = |answered: u32| {
            self.area.tell(ASKED_AT, answered + 1);
            self.area.await_change(ANSWERED_AT, answered)
        };
        // The other process may have to begin yet.
        let mut answered = turn(first);
        let begun = Instant::now();
        for _ in 0..turns {
            answered = turn(answered);
        }
        begun.elapsed()
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.area.tell(ASKED_AT, END);
    }
}
