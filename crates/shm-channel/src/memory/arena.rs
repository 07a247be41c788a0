//! The shared memory itself: a sealed memfd, mapped by both processes. Outside of this file a pointer to it is only
//! seen as a [`Chunk`] on its way to a system call.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use nix::sys::signal::Signal;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use crate::memory::layout::{Control, FIRST_SEQUENCE, Header, Layout, MAGIC};
use crate::memory::ring::{Area, Run};
use crate::memory::shortage::shortage;
use crate::memory::sync::Ordering;
use crate::protocol::wire::VERSION;
use base::Chunk;
use base::process::without_signal;
use base::standard::above;

/// What both sides rely on: nobody can shrink the file under a mapping (SIGBUS), grow it, or lift these seals.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// Areas up to this size are faulted in when they are mapped; larger ones as they are used.
const POPULATE_LIMIT: u64 = 64 << 20;

/// A mapped area of control words and segments. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Arena {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the mapping belongs to the process, not to a thread. All access is through atomics (control words) or system
// calls (segments).
unsafe impl Send for Arena {}
// SAFETY: as above; no method hands out a plain reference to the mapping.
unsafe impl Sync for Arena {}

/// Why there is no shared memory.
#[derive(Debug, thiserror::Error)]
#[error("no {bytes} bytes of shared memory: {step}: {error}")]
pub struct MemoryError {
    bytes: u64,
    step: &'static str,
    #[source]
    /// Why it was refused.
    pub error: io::Error,
}

/// Why a peer's memory was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error("its memory lacks the seals SHRINK, GROW and SEAL")]
    Unsealed,
    #[error("its memory is no memfd of ordinary pages")]
    NotTmpfs,
    #[error("its memory has {got} bytes, {want} were announced")]
    Size { got: u64, want: u64 },
    #[error("its memory is not reserved: {got} of {want} bytes are there")]
    Sparse { got: u64, want: u64 },
    #[error("its memory does not begin with the header of this version")]
    Header,
    #[error("its memory cannot be mapped: {0}")]
    Map(#[from] io::Error),
}

impl Arena {
    /// Creates, sizes, seals and maps an area; the descriptor is for the peer.
    pub(crate) fn create(layout: Layout) -> Result<(Self, OwnedFd), MemoryError> {
        let bytes = layout.total();
        if let Some(reason) = shortage(bytes) {
            return Err(MemoryError {
                bytes,
                step: "reserve",
                error: io::Error::new(io::ErrorKind::OutOfMemory, reason),
            });
        }
        let failed = |step| move |errno: Errno| MemoryError { bytes, step, error: errno.into() };
        let fd = memfd_create(c"gfproxy", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .and_then(above)
            .map_err(failed("memfd_create"))?;
        // Reserves the pages: out of memory is an error here, not a SIGBUS later.
        without_signal(Signal::SIGXFSZ, || fallocate(&fd, FallocateFlags::empty(), 0, bytes.cast_signed()))
            .map_err(failed("fallocate"))?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS)).map_err(failed("F_ADD_SEALS"))?;
        let arena = Self::map(fd.as_fd(), layout).map_err(failed("mmap"))?;
        arena.initialise();
        Ok((arena, fd))
    }

    /// Checks and maps a peer's area.
    pub(crate) fn adopt(fd: &OwnedFd, layout: Layout) -> Result<Self, AdoptError> {
        // Only memfds (and their like on tmpfs and hugetlbfs) answer F_GET_SEALS at all.
        let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|_| AdoptError::Unsealed)?;
        if !SealFlag::from_bits_retain(seals).contains(SEALS) {
            return Err(AdoptError::Unsealed);
        }
        // A sealed hugetlb file can still raise SIGBUS, when no huge page is left.
        if fstatfs(fd).map_err(io::Error::from)?.filesystem_type() != TMPFS_MAGIC {
            return Err(AdoptError::NotTmpfs);
        }
        let status = nix::sys::stat::fstat(fd).map_err(io::Error::from)?;
        let (got, want) = (status.st_size.cast_unsigned(), layout.total());
        if got != want {
            return Err(AdoptError::Size { got, want });
        }
        // Pages that the peer has not reserved would be ours to pay for.
        let got = status.st_blocks.cast_unsigned() * 512;
        if got < want {
            return Err(AdoptError::Sparse { got, want });
        }
        let arena = Self::map(fd.as_fd(), layout).map_err(io::Error::from)?;
        // Nor do this process's children need it. Where that is refused they just have it.
        // SAFETY: the mapping stays as it is in this process.
        let _ = unsafe { madvise(arena.base.cast(), layout.total() as usize, MmapAdvise::MADV_DONTFORK) };
        let header = arena.header();
        if header.magic.load(Ordering::Relaxed) != MAGIC || header.version.load(Ordering::Relaxed) != u32::from(VERSION)
        {
            return Err(AdoptError::Header);
        }
        Ok(arena)
    }

    fn map(fd: BorrowedFd<'_>, layout: Layout) -> nix::Result<Self> {
        let len = NonZeroUsize::new(layout.total() as usize).expect("an area has at least a header");
        let mut flags = MapFlags::MAP_SHARED;
        if layout.total() <= POPULATE_LIMIT {
            flags |= MapFlags::MAP_POPULATE;
        }
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe { mmap(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags, fd, 0)? };
        Ok(Self { base: base.cast(), layout })
    }

    /// Gives a child of fork(2) the memory of its parent's back: private pages take its place, which cost nothing until
    /// they are used.
    pub(crate) fn forsake(&self) {
        let len = NonZeroUsize::new(self.layout.total() as usize).expect("an area has at least a header");
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS | MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
        // SAFETY: replaces this value's own mapping, all of it, by one of the same size and rights.
        let replaced =
            unsafe { mmap_anonymous(Some(self.base.addr()), len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) };
        debug_assert!(replaced.is_ok());
    }

    fn initialise(&self) {
        let header = self.header();
        header.segments.store(self.layout.segments, Ordering::Relaxed);
        header.segment_size.store(self.layout.segment_size, Ordering::Relaxed);
        header.data_offset.store(self.layout.data_offset(), Ordering::Relaxed);
        header.total.store(self.layout.total(), Ordering::Relaxed);
        header.version.store(u32::from(VERSION), Ordering::Relaxed);
        for segment in 0..self.layout.segments {
            let control = self.control(segment as u16);
            control.producer.produced.store(FIRST_SEQUENCE, Ordering::Relaxed);
            control.consumer.consumed.store(FIRST_SEQUENCE, Ordering::Relaxed);
        }
        header.magic.store(MAGIC, Ordering::Release);
    }

    /// The generation of the answers that the producer gives from now on.
    pub(crate) fn generation(&self) -> u32 {
        self.header().generation.load(Ordering::Acquire)
    }

    /// Begins a generation: the producer's part.
    pub(crate) fn begin_generation(&self, generation: u32) {
        self.header().generation.store(generation, Ordering::Release);
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping begins with a header, is page aligned, and lives as long as `self`; all fields are
        // atomics, which may change under the reference.
        unsafe { self.base.cast().as_ref() }
    }

    /// The bytes of a run, for a system call that reads them.
    pub(crate) fn chunk(&self, run: Run) -> Chunk<'_> {
        Chunk::from_raw(self.data(run), run.len as usize)
    }

    /// Reads the bytes of a run, at `offset` of the file, with pread(2): the one place where the producer writes
    /// payload. A page that cannot be had is EFAULT. Short only at the end of the file.
    pub(crate) fn fill(&self, run: Run, file: &File, offset: u64) -> io::Result<u32> {
        let data = self.data(run);
        let mut filled = 0;
        while filled < run.len {
            let at = (offset + u64::from(filled)).cast_signed();
            let left = (run.len - filled) as usize;
            // SAFETY: `data` has room for `run.len` bytes (see `data`), and the kernel alone writes them.
            let got = unsafe { libc::pread(file.as_raw_fd(), data.add(filled as usize).cast(), left, at) };
            match got {
                0 => break,
                1.. => filled += got as u32,
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(filled)
    }

    fn data(&self, run: Run) -> *mut u8 {
        let begin = self.layout.segment_offset(run.first);
        assert!(u32::from(run.first) < self.layout.segments && begin + u64::from(run.len) <= self.layout.total());
        // SAFETY: within the mapping by the assertion and `Layout`.
        unsafe { self.base.add(begin as usize) }.as_ptr()
    }
}

impl Area for Arena {
    /// The control words of a segment below `layout().segments`.
    fn control(&self, segment: u16) -> &Control {
        assert!(u32::from(segment) < self.layout.segments);
        // SAFETY: within the mapping by the assertion and `Layout`, aligned to 64 bytes, alive as long as `self`; all
        // fields are atomics.
        unsafe { self.base.add(self.layout.control_offset(segment) as usize).cast().as_ref() }
    }

    fn segment_size(&self) -> u32 {
        self.layout.segment_size
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and every reference into it borrowed from `self`.
        let unmapped = unsafe { munmap(self.base.cast(), self.layout.total() as usize) };
        debug_assert!(unmapped.is_ok());
    }
}
