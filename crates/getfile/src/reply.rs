//! What a handler sees of its client: a header, then bytes. Handlers write to the [`Reply`] trait, so that their logic
//! is tested without a server; gfproxy's `kit_abi` holds the one adapter that calls `gfs_sendheader` and `gfs_send`.

use base::Chunk;

/// The status of a GETFILE answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `GETFILE OK <length> `, then the file.
    Ok,
    /// `GETFILE FILE_NOT_FOUND 0`: no such file, or no access, which must look the same.
    FileNotFound,
    /// `GETFILE ERROR 0`: the file could not be had.
    Error,
}

/// The client closed its connection, or did not read for longer than the send timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client left or stopped reading")]
pub struct ClientGone;

/// Where a handler writes its answer: one header, then exactly the announced number of bytes.
pub trait Reply {
    /// Sends the header. `len` is the length of the file in bytes, 0 unless `status` is [`Status::Ok`].
    fn header(&mut self, status: Status, len: u64) -> Result<(), ClientGone>;

    /// Sends the next bytes of the file.
    fn body(&mut self, chunk: Chunk<'_>) -> Result<(), ClientGone>;

    /// The transfer broke off at its source and goes on. Nothing of it reaches the client.
    fn resumed(&mut self) {}
}

/// How a handler ended. The C boundary turns it into what keeps a client from a corrupt file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A whole file of this many bytes was sent.
    Sent(u64),
    /// There is no such file (or no access). Nothing was sent yet.
    NotFound,
    /// The file could not be had, for this reason. Nothing was sent yet: the client gets `GETFILE ERROR`.
    Failed(String),
    /// The file broke off after its header, for this reason: the connection must be cut, so that the client sees a
    /// short file.
    Cut(String),
}
