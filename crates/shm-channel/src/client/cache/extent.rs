//! The extents: what segments still hold of the files that were read into them, and which transfers may have that.

use std::time::Instant;

use crate::memory::layout::Validator;
use crate::store::EXTENT_MAX_AGE;

/// When a request was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestStamp {
    pub(crate) at: Instant,
    /// That of the area, at that time or before.
    pub(crate) generation: u32,
}

/// What a segment holds: a file, or a part of one.
#[derive(Debug)]
pub(crate) struct Extent {
    /// What led to the file, if this is where it begins.
    key: Option<Box<[u8]>>,
    pub(crate) file: Validator,
    /// Where in the file it begins, and its bytes.
    pub(crate) at: u64,
    pub(crate) len: u32,
    /// That of the last request that the daemon answered with this state of the file.
    generation: u32,
    /// When the request was made that the daemon answered by reading the file.
    pub(crate) read: Instant,
    /// When the last request was made that the daemon answered with this state of the file.
    pub(crate) confirmed: Instant,
}

impl Extent {
    /// What a segment holds after an answer with `len` bytes, `at` of the file, to a request that offered `offered`.
    pub(crate) fn after(
        offered: Option<Self>,
        key: &[u8],
        file: Validator,
        at: u64,
        len: u32,
        RequestStamp { at: asked, generation }: RequestStamp,
    ) -> Self {
        match offered {
            Some(offered) if offered.file == file && offered.len == len => {
                Self { confirmed: asked, generation, ..offered }
            }
            _ => {
                let key = (at == 0).then(|| key.into());
                Self { key, file, at, len, generation, read: asked, confirmed: asked }
            }
        }
    }

    /// Whether it is what the file behind `key` begins with.
    pub(crate) fn begins(&self, key: &[u8]) -> bool {
        self.key.as_deref() == Some(key)
    }

    /// Whether it needs no second reading, should the daemon say that the file is unchanged.
    pub(crate) fn is_worth_an_offer(&self, now: Instant) -> bool {
        now.duration_since(self.read) < EXTENT_MAX_AGE
    }
}

/// Which bytes a transfer wants.
#[derive(Debug)]
pub(crate) enum Lookup<'a> {
    /// The first bytes of the file that the key leads to.
    First { key: &'a [u8], asked: RequestStamp },
    /// The bytes at `at` of `file`, with which the transfer began at the time `begun`.
    At { file: Validator, at: u64, begun: Instant },
}

impl Lookup<'_> {
    /// Whether the extent has these bytes.
    pub(crate) fn are_in(&self, extent: &Extent) -> bool {
        match self {
            Self::First { key, .. } => extent.begins(key),
            Self::At { file, at, .. } => {
                extent.file == *file && (extent.at..extent.at + u64::from(extent.len)).contains(at)
            }
        }
    }

    /// Whether the extent was read late enough for this transfer.
    pub(crate) fn accept(&self, extent: &Extent) -> bool {
        match self {
            Self::First { asked, .. } => extent.is_worth_an_offer(asked.at) && extent.generation == asked.generation,
            Self::At { begun, .. } => extent.is_worth_an_offer(*begun),
        }
    }
}

/// What a reader sees of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExtentView {
    pub(crate) segment: u16,
    pub(crate) file: Validator,
    /// Where in the file the segment begins, and its bytes.
    pub(crate) at: u64,
    pub(crate) len: u32,
}
