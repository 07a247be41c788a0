//! A transfer as one of the readers of a segment that holds a part of its file.

use std::sync::Arc;

use super::held::{Held, Part, Wanted};
use super::session::Session;
use crate::ring::{Consumer, Run};
use base::Chunk;

/// Keeps the segment as it is until it is dropped.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) session: Arc<Session>,
    pub(super) part: Part,
}

impl Reading {
    /// Of the segment that holds what is wanted, if there is one.
    pub(super) fn attach(session: &Arc<Session>, wanted: &Wanted<'_>) -> Option<Self> {
        let part = session.pool.attach(wanted)?;
        Some(Self { session: Arc::clone(session), part })
    }

    /// The same, with the segments of a lease that has ended.
    pub(super) fn attach_to(
        session: Arc<Session>,
        segments: impl IntoIterator<Item = (Consumer, Option<Held>)>,
        wanted: &Wanted<'_>,
    ) -> Option<Self> {
        let part = session.pool.give_back_holding(segments, Some(wanted))?;
        Some(Self { session, part })
    }

    /// The bytes from `at` of the file on.
    pub(super) fn chunk(&self, at: u64) -> Chunk<'_> {
        let Part { segment, at: begin, len, .. } = self.part;
        let skipped = (at - begin) as usize;
        self.session.arena.chunk(Run { first: segment, count: 1, len }).part(skipped, len as usize - skipped)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.session.pool.detach(self.part);
    }
}
