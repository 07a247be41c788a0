//! A transfer as one of the readers of a segment that holds a part of its file.

use std::sync::Arc;

use crate::client::cache::extent::{Extent, ExtentView, Lookup};
use crate::client::session::Session;
use crate::memory::ring::{Consumer, Run};
use base::Chunk;

/// Keeps the segment as it is until it is dropped.
#[derive(Debug)]
pub(crate) struct ExtentGuard {
    pub(crate) session: Arc<Session>,
    pub(crate) view: ExtentView,
}

impl ExtentGuard {
    /// Of the segment that holds what is wanted, if there is one.
    pub(crate) fn attach(session: &Arc<Session>, lookup: &Lookup<'_>) -> Option<Self> {
        let view = session.pool.attach(lookup)?;
        Some(Self { session: Arc::clone(session), view })
    }

    /// The same, with the segments of a stream that has ended.
    pub(crate) fn attach_to(
        session: Arc<Session>,
        segments: impl IntoIterator<Item = (Consumer, Option<Extent>)>,
        lookup: &Lookup<'_>,
    ) -> Option<Self> {
        let view = session.pool.give_back_cached(segments, Some(lookup))?;
        Some(Self { session, view })
    }

    /// The bytes from `at` of the file on.
    pub(crate) fn chunk(&self, at: u64) -> Chunk<'_> {
        let ExtentView { segment, at: begin, len, .. } = self.view;
        let skipped = (at - begin) as usize;
        self.session.arena.chunk(Run { first: segment, count: 1, len }).part(skipped, len as usize - skipped)
    }
}

impl Drop for ExtentGuard {
    fn drop(&mut self) {
        self.session.pool.detach(self.view);
    }
}
