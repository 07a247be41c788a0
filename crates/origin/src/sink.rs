//! Where a fetched file goes.

use getfile::ClientGone;

/// Where the file goes: its length, then exactly that many bytes.
pub(super) trait Sink {
    fn header(&mut self, len: u64) -> Result<(), ClientGone>;
    fn body(&mut self, data: &[u8]) -> Result<(), ClientGone>;
    /// The origin broke off and is asked for the rest.
    fn resumed(&mut self);
    /// Whether all are known to have left for whom the file is fetched. Asked while the origin is waited for.
    fn is_abandoned(&self) -> bool;
}
