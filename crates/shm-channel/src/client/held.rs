//! What segments hold of the files that were read into them, and who may have that.

use std::time::Instant;

use crate::layout::Validator;
use crate::store::HOLDS_FOR;

/// When a request was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    /// That of the area, at that time or before.
    pub(crate) epoch: u32,
}

/// What a segment holds: a file, or a part of one.
#[derive(Debug)]
pub(crate) struct Held {
    /// What led to the file, if this is where it begins.
    key: Option<Box<[u8]>>,
    pub(crate) file: Validator,
    /// Where in the file it begins, and its bytes.
    pub(super) at: u64,
    pub(super) len: u32,
    /// That of the last request that the daemon answered with this state of the file.
    epoch: u32,
    /// When the request was made that the daemon answered by reading the file.
    pub(super) read: Instant,
    /// When the last request was made that the daemon answered with this state of the file.
    pub(super) confirmed: Instant,
}

impl Held {
    /// What a segment holds after an answer with `len` bytes, `at` of the file, to a request that offered `offered`.
    pub(crate) fn after(
        offered: Option<Self>,
        key: &[u8],
        file: Validator,
        at: u64,
        len: u32,
        Asked { at: asked, epoch }: Asked,
    ) -> Self {
        match offered {
            Some(offered) if offered.file == file && offered.len == len => Self { confirmed: asked, epoch, ..offered },
            _ => {
                let key = (at == 0).then(|| key.into());
                Self { key, file, at, len, epoch, read: asked, confirmed: asked }
            }
        }
    }

    /// Whether it is what the file behind `key` begins with.
    pub(super) fn begins(&self, key: &[u8]) -> bool {
        self.key.as_deref() == Some(key)
    }

    /// Whether it needs no second reading, should the daemon say that the file is unchanged.
    pub(crate) fn is_worth_an_offer(&self, now: Instant) -> bool {
        now.duration_since(self.read) < HOLDS_FOR
    }
}

/// Which bytes a transfer wants.
#[derive(Debug)]
pub(crate) enum Wanted<'a> {
    /// The first ones of whatever file the key leads to.
    First { key: &'a [u8], asked: Asked },
    /// Those at a place of a file that the transfer has begun with at that time.
    At { file: Validator, at: u64, begun: Instant },
}

impl Wanted<'_> {
    /// Whether a segment holds them.
    pub(super) fn are_in(&self, held: &Held) -> bool {
        match self {
            Self::First { key, .. } => held.begins(key),
            Self::At { file, at, .. } => held.file == *file && (held.at..held.at + u64::from(held.len)).contains(at),
        }
    }

    /// Whether that was read late enough for this transfer.
    pub(super) fn accept(&self, held: &Held) -> bool {
        match self {
            Self::First { asked, .. } => held.is_worth_an_offer(asked.at) && held.epoch == asked.epoch,
            Self::At { begun, .. } => held.is_worth_an_offer(*begun),
        }
    }
}

/// What a reader sees of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) segment: u16,
    pub(crate) file: Validator,
    /// Where in the file the segment begins, and its bytes.
    pub(crate) at: u64,
    pub(crate) len: u32,
}
