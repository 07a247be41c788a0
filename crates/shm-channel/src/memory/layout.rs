//! The layout of the memory that the two processes share. `docs/reference/protocol.md` gives it byte by byte.
//!
//! ```text
//! 0                 Header
//! 64                Control of segment 0, of segment 1, ... (256 bytes each)
//! data_offset       segment 0, segment 1, ... (each `segment_size` bytes, without gaps)
//! ```
//!
//! Nothing here is a pointer or has the size of one. Each word is written by one side; the words of the two sides lie
//! on different cache lines. A peer can write anything at any time: a reader loads a word once and checks what it
//! loaded.

use crate::memory::sync::{AtomicU32, AtomicU64};

/// The fewest bytes of a segment, the kit's limit.
pub const MIN_SEGMENT_SIZE: u32 = 824;
/// The most bytes of a segment.
pub const MAX_SEGMENT_SIZE: u32 = 64 << 20;
/// The most segments of an area.
pub const MAX_SEGMENTS: u32 = 4096;
/// The most bytes of an area's segments together.
pub const MAX_AREA: u64 = 4 << 30;

/// The most segments that one transfer has in its ring: its own and those granted to it. One less than the descriptors,
/// so that an end without data always has a descriptor of its own.
pub(crate) const MAX_RING: usize = 7;
/// Descriptors of a ring.
pub(crate) const DESCRIPTORS: usize = 8;

/// Where a fresh area's counters begin: close to the wrap, so that every run crosses it.
pub(crate) const FIRST_SEQUENCE: u32 = u32::MAX - 3;

pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"GFSC");
const CACHE_LINE: u64 = 64;
const PAGE: u64 = 4096;
/// Where in a page segment 0 begins. Files begin with a page, and sockets copy to just behind the header of an answer:
/// half a page is far from both. The kernel copies with `rep movsb`. On some processors (AMD Zen 3) it is up to 20
/// times slower where the target lies 1 to 31 bytes behind the source, modulo 4096. See
/// docs/decisions/0015-segments-begin-half-a-page-off.md.
const SKEW: u64 = PAGE / 2;

/// The first bytes of an area. The owner writes them before anyone else sees the area; only the generation is the
/// producer's. The sizes are for people with a debugger: those that count come with HELLO and live in private memory.
#[repr(C, align(64))]
pub(crate) struct Header {
    pub(crate) magic: AtomicU32,
    pub(crate) version: AtomicU32,
    pub(crate) segments: AtomicU32,
    pub(crate) segment_size: AtomicU32,
    pub(crate) data_offset: AtomicU64,
    pub(crate) total: AtomicU64,
    /// Moves when keys lead to other files: what was answered before must be asked for again.
    pub(crate) generation: AtomicU32,
}

/// The words that the producer (the daemon) writes.
#[repr(C, align(64))]
pub(crate) struct ProducerWords {
    /// Chunks published so far, modulo 2^32. The consumer sleeps on it.
    pub(crate) produced: AtomicU32,
    /// 1 while the producer sleeps on `consumed`.
    pub(crate) sleeping: AtomicU32,
    /// While `sleeping`: the value of `consumed` from which the producer wants to be woken.
    pub(crate) notify_at: AtomicU32,
    _pad: AtomicU32,
    /// The file: valid from a stream's first chunk on, unless that chunk says that there is none.
    pub(crate) file_len: AtomicU64,
    pub(crate) device: AtomicU64,
    pub(crate) inode: AtomicU64,
    pub(crate) modified_ns: AtomicU64,
    pub(crate) changed_ns: AtomicU64,
}

/// What the producer tells of each chunk: chunk k's is at k modulo 8.
#[repr(C, align(64))]
pub(crate) struct Descriptors {
    pub(crate) chunk: [AtomicU64; DESCRIPTORS],
}

/// The words that the consumer (the proxy) writes.
#[repr(C, align(64))]
pub(crate) struct ConsumerWords {
    /// Chunks released so far, modulo 2^32. The producer sleeps on it.
    pub(crate) consumed: AtomicU32,
    /// 1 while the consumer sleeps on `produced`.
    pub(crate) sleeping: AtomicU32,
    /// 1 once the consumer wants no more of this stream.
    pub(crate) cancelled: AtomicU32,
    /// Segments granted to this stream so far.
    pub(crate) granted_count: AtomicU32,
    /// Bit k modulo 8: the segment of released chunk k was taken back and is the producer's no more.
    pub(crate) reclaimed: AtomicU32,
    /// The indices of the granted segments.
    pub(crate) granted: [AtomicU32; MAX_RING - 1],
    /// 1 if the consumer releases nothing of this stream, which is to end once its ring is full.
    pub(crate) retains: AtomicU32,
}

/// The control words of one segment.
#[repr(C)]
pub(crate) struct Control {
    pub(crate) producer: ProducerWords,
    pub(crate) descriptors: Descriptors,
    pub(crate) consumer: ConsumerWords,
    _reserved: Reserved,
}

/// Rounds a control block up to four cache lines, so that neighbours never share a pair of lines.
#[repr(C, align(64))]
struct Reserved([AtomicU64; 8]);

#[cfg(any(test, fuzzing))]
impl Control {
    /// Control words outside of shared memory, as a fresh area has them.
    pub(crate) fn new(sequence: u32) -> Self {
        use std::array::from_fn;
        let (word, long) = (|_| AtomicU32::new(0), |_| AtomicU64::new(0));
        Self {
            producer: ProducerWords {
                produced: AtomicU32::new(sequence),
                sleeping: word(0),
                notify_at: word(0),
                _pad: word(0),
                file_len: long(0),
                device: long(0),
                inode: long(0),
                modified_ns: long(0),
                changed_ns: long(0),
            },
            descriptors: Descriptors { chunk: from_fn(long) },
            consumer: ConsumerWords {
                consumed: AtomicU32::new(sequence),
                sleeping: word(0),
                cancelled: word(0),
                granted_count: word(0),
                reclaimed: word(0),
                granted: from_fn(word),
                retains: word(0),
            },
            _reserved: Reserved(from_fn(long)),
        }
    }
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Header>() == 64);
    assert!(size_of::<Control>() == 256);
    assert!(offset_of!(Control, producer) == 0);
    assert!(offset_of!(Control, descriptors) == 64);
    assert!(offset_of!(Control, consumer) == 128);
    assert!(offset_of!(ProducerWords, notify_at) == 8);
    assert!(offset_of!(ProducerWords, file_len) == 16);
    assert!(offset_of!(ProducerWords, modified_ns) == 40);
    assert!(offset_of!(ProducerWords, changed_ns) == 48);
    assert!(size_of::<ProducerWords>() == 64);
    assert!(offset_of!(ConsumerWords, granted_count) == 12);
    assert!(offset_of!(ConsumerWords, granted) == 20);
    assert!(offset_of!(ConsumerWords, retains) == 44);
    assert!(size_of::<ConsumerWords>() == 64);
};

/// The sizes of an area, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(crate) segments: u32,
    pub(crate) segment_size: u32,
}

/// Why an area cannot have these sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The number of segments is out of range.
    #[error("{0} segments: not in 1 to {MAX_SEGMENTS}")]
    Segments(u32),
    /// The size of a segment is out of range.
    #[error("segments of {0} bytes: not in {MIN_SEGMENT_SIZE} to {MAX_SEGMENT_SIZE}")]
    SegmentSize(u32),
    /// The segments are too large together.
    #[error("{0} segments of {1} bytes: more than {MAX_AREA} bytes together")]
    Area(u32, u32),
}

impl Layout {
    /// `segments` of `segment_size` bytes, where a client may have them.
    pub fn new(segments: u32, segment_size: u32) -> Result<Self, LayoutError> {
        if !(1..=MAX_SEGMENTS).contains(&segments) {
            return Err(LayoutError::Segments(segments));
        }
        if !(MIN_SEGMENT_SIZE..=MAX_SEGMENT_SIZE).contains(&segment_size) {
            return Err(LayoutError::SegmentSize(segment_size));
        }
        // Where addresses have 32 bits, a quarter of them.
        if u64::from(segments) * u64::from(segment_size) > MAX_AREA.min(isize::MAX as u64 / 2) {
            return Err(LayoutError::Area(segments, segment_size));
        }
        Ok(Self { segments, segment_size })
    }

    /// Where the control words of a segment are.
    pub(crate) fn control_offset(&self, segment: u16) -> u64 {
        CACHE_LINE + u64::from(segment) * size_of::<Control>() as u64
    }

    /// Where segment 0 begins.
    pub(crate) fn data_offset(&self) -> u64 {
        (CACHE_LINE + u64::from(self.segments) * size_of::<Control>() as u64).next_multiple_of(PAGE) + SKEW
    }

    /// Where a segment begins.
    pub(crate) fn segment_offset(&self, segment: u16) -> u64 {
        self.data_offset() + u64::from(segment) * u64::from(self.segment_size)
    }

    /// The exact size of the memory file.
    pub(crate) fn total(&self) -> u64 {
        self.data_offset() + u64::from(self.segments) * u64::from(self.segment_size)
    }
}

/// What a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Data; more chunks follow in this stream.
    Data = 0,
    /// The last data of the file (none, if the file is empty). The stream ends.
    End = 1,
    /// Data or none; the stream ends before the file does: ask again from here.
    Paused = 2,
    /// There is no such file, or no access. The stream ends.
    NotFound = 3,
    /// The file cannot be read. The stream ends.
    Failed = 4,
    /// The file is not the one that the request's validator names, or it changed while it was read. The stream ends.
    Changed = 5,
    /// The consumer cancelled. The stream ends.
    Cancelled = 6,
}

impl Kind {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Data,
            1 => Self::End,
            2 => Self::Paused,
            3 => Self::NotFound,
            4 => Self::Failed,
            5 => Self::Changed,
            6 => Self::Cancelled,
            _ => return None,
        })
    }

    pub(crate) fn ends_stream(self) -> bool {
        self != Self::Data
    }
}

/// A chunk's descriptor, one word in shared memory: length (32 bits), segment (16), kind (8), zero (8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) len: u32,
    pub(crate) segment: u16,
    pub(crate) kind: Kind,
}

impl Descriptor {
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.len) | u64::from(self.segment) << 32 | (self.kind as u64) << 48
    }

    /// None for a word that no honest producer writes.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let kind = Kind::from_bits((bits >> 48) as u8)?;
        (bits >> 56 == 0).then_some(Self { len: bits as u32, segment: (bits >> 32) as u16, kind })
    }
}

/// What names one state of one file: a transfer goes on in another stream, or after the daemon's restart, only if it
/// fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validator {
    /// st_dev
    pub device: u64,
    /// st_ino
    pub inode: u64,
    /// st_size, in bytes
    pub len: u64,
    /// st_mtim in nanoseconds since 1970, modulo 2^64
    pub modified_ns: u64,
    /// st_ctim, the same: nobody sets it back, nor brings it along to a file that takes the inode of another.
    pub changed_ns: u64,
}
