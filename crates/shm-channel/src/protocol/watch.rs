//! Word from the kernel that a file may be gone from its place (inotify).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use base::standard::above;

pub(crate) struct Watch(Inotify);

impl Watch {
    pub(crate) fn new() -> nix::Result<Self> {
        let made = above(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?.into())?;
        // SAFETY: it is an inotify instance.
        Ok(Self(unsafe { Inotify::from_owned_fd(made) }))
    }

    /// Becomes readable when the file at `path` is removed or renamed, and when its mode changes.
    pub(crate) fn look_at(&self, path: &Path) {
        // A link that is removed is a change of an attribute: the file itself stays while it is open.
        let flags = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        // Where there is no watch to be had, nothing is heard of the file.
        let _ = self.0.add_watch(path, flags);
    }

    /// Waits for the next event.
    pub(crate) fn forget_events(&self) {
        // Nothing to read is as good as read.
        let _ = self.0.read_events();
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
