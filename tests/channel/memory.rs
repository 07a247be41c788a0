//! The area as bytes at the offsets of docs/reference/protocol.md, and datagrams with a descriptor. Shares no code with
//! the library.
#![allow(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::socket::{self, ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr};

/// A mapped area.
pub struct Memory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is the process's; words are accessed as atomics, and bytes under the rules of the protocol.
unsafe impl Send for Memory {}

impl Memory {
    pub fn map(memory: impl AsFd, len: usize) -> Self {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let size = NonZeroUsize::new(len).expect("an area is not empty");
        // SAFETY: a new mapping replaces nothing.
        let base = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, memory, 0) }.expect("mmap");
        Self { base: base.cast(), len }
    }

    fn at(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "outside of the area");
        // SAFETY: within the mapping.
        unsafe { self.base.add(at) }.as_ptr()
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4));
        // SAFETY: aligned, within the mapping, and accessed as an atomic by everybody.
        unsafe { AtomicU32::from_ptr(self.at(at, 4).cast()) }
    }

    fn long(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8));
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.at(at, 8).cast()) }
    }

    pub fn load(&self, at: usize) -> u32 {
        u32::from_le(self.word(at).load(Ordering::Acquire))
    }

    pub fn store(&self, at: usize, value: u32) {
        self.word(at).store(value.to_le(), Ordering::Release);
    }

    pub fn load_long(&self, at: usize) -> u64 {
        u64::from_le(self.long(at).load(Ordering::Acquire))
    }

    pub fn store_long(&self, at: usize, value: u64) {
        self.long(at).store(value.to_le(), Ordering::Release);
    }

    pub fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: within the mapping; the other side does not write to a chunk that is on this side.
        unsafe { self.at(at, len).copy_to_nonoverlapping(bytes.as_mut_ptr(), len) };
        bytes
    }

    pub fn put(&self, at: usize, bytes: &[u8]) {
        // SAFETY: within the mapping; the other side does not read a segment that is on this side.
        unsafe { self.at(at, bytes.len()).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// The sleeper's half of the protocol: sleeps while `word` is `value`, unless it is another by now.
    pub fn sleep(&self, word: usize, value: u32, parked: usize, timeout: Duration) {
        self.store(parked, 1);
        fence(Ordering::SeqCst);
        if self.load(word) == value {
            let timeout = libc::timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos().into() };
            // SAFETY: the word is mapped, the time on this stack.
            unsafe {
                libc::syscall(libc::SYS_futex, self.at(word, 4), libc::FUTEX_WAIT, value.to_le(), &raw const timeout)
            };
        }
        self.store(parked, 0);
    }

    /// The waker's half: stores `value` and wakes if the other side is parked.
    pub fn store_and_wake(&self, word: usize, value: u32, parked: usize) {
        self.store(word, value);
        fence(Ordering::SeqCst);
        if self.load(parked) != 0 {
            // SAFETY: FUTEX_WAKE uses the address only.
            unsafe { libc::syscall(libc::SYS_futex, self.at(word, 4), libc::FUTEX_WAKE, 1) };
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this value's own mapping.
        unsafe { munmap(self.base.cast(), self.len) }.expect("munmap");
    }
}

pub fn send(socket: BorrowedFd<'_>, datagram: &[u8], descriptor: Option<BorrowedFd<'_>>) {
    let rights = descriptor.map(|descriptor| [descriptor.as_raw_fd()]);
    let control: Vec<_> = rights.iter().map(|rights| ControlMessage::ScmRights(rights)).collect();
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = socket::sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(datagram)], &control, flags, None);
    assert_eq!(sent, Ok(datagram.len()));
}

/// A datagram and what came with it; empty at the end of the connection.
pub fn receive(socket: BorrowedFd<'_>) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut buffer = vec![0; 8192];
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 4]);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = socket::recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags);
    let message = message.expect("recvmsg");
    let mut descriptors = Vec::new();
    for control in message.cmsgs().expect("control messages") {
        if let ControlMessageOwned::ScmRights(rights) = control {
            // SAFETY: just received, and nobody else's.
            descriptors.extend(rights.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let len = message.bytes;
    buffer.truncate(len);
    (buffer, descriptors)
}

/// Little-endian numbers of any size, one after another.
#[macro_export]
macro_rules! datagram {
    ($($number:expr),* $(,)?) => {{
        let mut datagram = Vec::new();
        $(datagram.extend_from_slice(&$number.to_le_bytes());)*
        datagram
    }};
}
