//! Whose a file is. What another user has put in the way of a socket is neither followed nor used.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::unistd::{Uid, User, geteuid};

/// What is there, and whose it is: "a FIFO of user 1001 (eve)".
pub(crate) fn whose(found: &Metadata) -> String {
    let kind = match found.file_type() {
        kind if kind.is_socket() => "a socket",
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_file() => "a file",
        _ => "a device",
    };
    format!("{kind} of {}", user(found.uid()))
}

/// A user for people.
pub(crate) fn user(uid: u32) -> String {
    if uid == geteuid().as_raw() {
        return "this user".to_owned();
    }
    let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    known.map_or_else(|| format!("user {uid}"), |user| format!("user {uid} ({})", user.name))
}

/// Whether a process of this user may rely on what that one made.
pub(crate) fn is_trusted(uid: u32) -> bool {
    uid == geteuid().as_raw() || uid == 0
}

/// What of a path is another user's: the file itself, as a name or where it leads, or a symbolic link on the way.
pub(crate) fn stranger(path: &Path) -> Option<String> {
    let of_another = |found: &Metadata| !is_trusted(found.uid());
    let leads_to = fs::metadata(path).ok().filter(of_another).map(|found| format!("it is {}", whose(&found)));
    let names = path.ancestors().filter_map(|name| Some((name, fs::symlink_metadata(name).ok()?)));
    let mut links = names.filter(|(name, found)| of_another(found) && (found.is_symlink() || *name == path));
    let link = links.next().map(|(name, found)| match name == path {
        true => format!("it is {}", whose(&found)),
        false => format!("{} is {}", name.display(), whose(&found)),
    });
    link.or(leads_to)
}
