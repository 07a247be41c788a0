//! Why there is no transfer, or no end of one.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::protocol::wire::MAX_KEY;

/// A daemon that gave no answer in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absence {
    /// Its command socket.
    pub socket: PathBuf,
    /// How long it was waited for.
    pub wait: Duration,
    /// Why the last attempt to reach it failed; None where it was reached and is silent.
    pub reason: Option<String>,
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { socket, wait, reason } = self;
        write!(f, "no answer from the cache daemon at {} within {} s", socket.display(), wait.as_secs_f32())?;
        reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// Why there is no transfer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The daemon has no such file.
    #[error("not found")]
    NotFound,
    /// The key is longer than [`super::super::MAX_KEY`].
    #[error("a key of {0} bytes, at most {MAX_KEY} are allowed")]
    KeyTooLong(usize),
    /// The daemon has the file and cannot read it.
    #[error("the cache daemon cannot read the file")]
    Failed,
    /// No answer within [`super::ClientConfig::wait`].
    #[error("{0}")]
    Unavailable(Absence),
    /// All segments were in use for [`super::ClientConfig::wait`].
    #[error("no free segment within {} s", .0.as_secs_f32())]
    NoSegment(Duration),
    /// The client was stopped.
    #[error("the channel is closed")]
    Stopped,
}

/// Why a transfer broke off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The file is not the same any more.
    #[error("the file changed")]
    Changed,
    /// The daemon cannot read on.
    #[error("the cache daemon cannot read the file")]
    Failed,
    /// No answer within [`super::ClientConfig::wait`].
    #[error("{0}")]
    Unavailable(Absence),
    /// All segments were in use for [`super::ClientConfig::wait`].
    #[error("no free segment within {} s", .0.as_secs_f32())]
    NoSegment(Duration),
    /// The client was stopped.
    #[error("the channel is closed")]
    Stopped,
}
