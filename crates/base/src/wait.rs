use std::time::Duration;

use nix::poll::{PollFd, PollTimeout, poll};

/// poll(2) that does not return for the time before `limit` is over, though that is no whole number of milliseconds.
/// `None` is no limit.
///
/// Returns how many of `fds` are ready; fails as poll(2) does, also with `EINTR`.
pub fn poll_within(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> nix::Result<i32> {
    let timeout = limit.map_or(PollTimeout::NONE, |limit| {
        PollTimeout::try_from(limit.saturating_add(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX)
    });
    poll(fds, timeout)
}
