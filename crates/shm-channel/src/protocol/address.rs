//! Where the command socket is, and who may own it.

use std::env;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{self, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use crate::protocol::owner::{stranger, whose};
use crate::protocol::seqpacket::SeqPacket;
use base::fork::Private;
use base::standard::above;

/// The longest time that a killed owner still holds the lock: until its memory is unmapped. A successor that did not
/// wait for the owner's end finds the lock taken for that time.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The longest path that a socket can have: `sun_path` less the final NUL.
const MAX_PATH: usize = 107;

/// The socket that both sides use where nobody names one: `$XDG_RUNTIME_DIR/simplecached.sock`, else
/// `/tmp/gfproxy-<uid>/simplecached.sock`, too, where that directory is not there, not this user's or too long.
pub fn default_socket() -> PathBuf {
    let is_ours =
        |path: &Path| fs::metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == geteuid().as_raw());
    let directory =
        env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute() && is_ours(path));
    let socket = directory.map(|directory| directory.join(NAME)).filter(|path| path.as_os_str().len() <= MAX_PATH);
    socket.unwrap_or_else(|| own_directory().join(NAME))
}

const NAME: &str = "simplecached.sock";

/// A directory of this user's alone, where the session has none.
fn own_directory() -> PathBuf {
    PathBuf::from(format!("/tmp/gfproxy-{}", geteuid()))
}

/// Makes [`own_directory`]. In /tmp another user may have been faster.
fn make_own_directory() -> Result<(), BindError> {
    let path = own_directory();
    let io_error = |error| BindError::Io(path.clone(), error);
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io_error(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(&path).map_err(io_error)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        return Err(BindError::Foreign(path, format!("is {}", whose(&found))));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(io_error)
}

/// A path that leads to the same place wherever the program goes. As it is, where the current directory cannot be told.
pub fn settled(path: &Path) -> PathBuf {
    let absolute = if path.is_absolute() { None } else { path::absolute(path).ok() };
    absolute.unwrap_or_else(|| path.to_owned())
}

/// The same for a socket. As it is, where the system would take it for too long.
pub(crate) fn settled_socket(path: &Path) -> PathBuf {
    let settled = settled(path);
    if settled.as_os_str().len() > MAX_PATH { path.to_owned() } else { settled }
}

/// Why the command socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process serves it.
    #[error("{}: another simplecached serves this socket", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket is in its place; what and whose it is.
    #[error("{}: is not a socket but {}: remove it, or choose another socket", .0.display(), .1)]
    NotASocket(PathBuf, String),
    /// Something is in the way that is not this user's, or cannot be of use; what and whose it is.
    #[error("{}: {}: remove it, or choose another socket", .0.display(), .1)]
    Foreign(PathBuf, String),
    /// What a service manager handed over cannot be used.
    #[error("the socket of LISTEN_FDS: {0}")]
    Inherit(#[source] io::Error),
    /// The file beside it, which says whose it is, cannot be had.
    #[error("{path}: cannot lock {path}.lock: {error}", path = .0.display(), error = .1)]
    Lock(PathBuf, #[source] io::Error),
    /// Anything else.
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    Io(PathBuf, #[source] io::Error),
}

/// The listening socket. Dropping it removes the files that were made for it.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    pub(crate) socket: SeqPacket,
    /// Where it is, also if a service manager chose that.
    pub(crate) path: PathBuf,
    /// None for a socket that a service manager made.
    files: Option<SocketFiles>,
}

#[derive(Debug)]
struct SocketFiles {
    path: PathBuf,
    /// What was bound there.
    id: FileId,
    /// Dropped after the socket is gone.
    lock: LockFile,
}

/// The lock, and the file that it is on: both go together.
#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    lock: Private<Flock<File>>,
}

/// Device and inode.
type FileId = (u64, u64);

impl BoundSocket {
    /// The socket that a service manager listens on for this process, or else [`Self::bind`].
    pub(crate) fn inherit_or_bind(path: &Path) -> Result<Self, BindError> {
        let Some(socket) = SeqPacket::inherited().map_err(BindError::Inherit)? else { return Self::bind(path) };
        let path = socket.path().map_err(BindError::Inherit)?;
        Ok(Self { socket, path, files: None })
    }

    /// Takes the lock beside the socket, replaces what a dead owner left, binds and listens, mode 0600.
    pub(crate) fn bind(path: &Path) -> Result<Self, BindError> {
        let io_error = |error| BindError::Io(path.to_owned(), error);
        if path.parent() == Some(&own_directory()) {
            make_own_directory()?;
        }
        is_left_over(path)?;
        let lock = LockFile::beside(path)?;
        // With the lock in our hands its owner is dead.
        if is_left_over(path)? {
            fs::remove_file(path).map_err(io_error)?;
        }
        let (socket, id) = listen(path)?;
        let path = path.to_owned();
        Ok(Self { socket, path: path.clone(), files: Some(SocketFiles { path, id, lock }) })
    }

    /// Whether clients find it. Of a socket that a service manager made that is the manager's affair.
    pub(crate) fn is_in_place(&self) -> bool {
        self.files.as_ref().is_none_or(|files| is_at(&files.path, files.id))
    }

    /// Makes files anew that somebody removed, unless somebody else has the place now.
    pub(crate) fn restore(&mut self) -> Result<(), BindError> {
        let Some(files) = &mut self.files else { return Ok(()) };
        let path = &files.path;
        if path.parent() == Some(&own_directory()) {
            make_own_directory()?;
        }
        if fs::symlink_metadata(path).is_ok() {
            return Err(BindError::InUse(path.clone()));
        }
        if !files.lock.is_in_place() {
            let lock = take_lock(&files.lock.path).map_err(|error| BindError::Lock(path.clone(), error))?;
            files.lock.lock = lock.ok_or_else(|| BindError::InUse(path.clone()))?;
        }
        (self.socket, files.id) = listen(path)?;
        Ok(())
    }
}

/// Binds and listens, mode 0600.
fn listen(path: &Path) -> Result<(SeqPacket, FileId), BindError> {
    let io_error = |error| BindError::Io(path.to_owned(), error);
    let socket = SeqPacket::listen(path).map_err(io_error)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io_error)?;
    let id = id(&fs::symlink_metadata(path).map_err(io_error)?);
    Ok((socket, id))
}

/// Whether there is a socket of this user's. An error if there is anything else.
fn is_left_over(path: &Path) -> Result<bool, BindError> {
    if let Some(what) = stranger(path) {
        return Err(BindError::Foreign(path.to_owned(), what));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(BindError::NotASocket(path.to_owned(), whose(&found))),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BindError::Io(path.to_owned(), error)),
    }
}

impl Drop for SocketFiles {
    fn drop(&mut self) {
        remove(&self.path, self.id);
    }
}

impl LockFile {
    fn beside(socket: &Path) -> Result<Self, BindError> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let deadline = Instant::now() + LOCK_WAIT;
        // Somebody may have removed the lock file of a live owner.
        let take = || -> io::Result<Option<Self>> {
            let lock = take_lock(&path)?.map(|lock| Self { path: path.clone(), lock });
            Ok(lock.filter(|_| !is_served(socket)))
        };
        let mut taken = take();
        while matches!(taken, Ok(None)) && Instant::now() < deadline {
            thread::sleep(LOCK_WAIT / 200);
            taken = take();
        }
        match taken {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(BindError::InUse(socket.to_owned())),
            // The directory is missing, for the socket as for the lock.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(BindError::Io(socket.to_owned(), error)),
            Err(error) => Err(match fs::symlink_metadata(&path).ok().filter(|found| !is_own_file(found)) {
                Some(found) => {
                    BindError::Foreign(socket.to_owned(), format!("{} is {}", path.display(), whose(&found)))
                }
                None => BindError::Lock(socket.to_owned(), error),
            }),
        }
    }
}

impl LockFile {
    fn is_in_place(&self) -> bool {
        self.lock.metadata().is_ok_and(|mine| is_at(&self.path, id(&mine)))
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if let Ok(mine) = self.lock.metadata() {
            remove(&self.path, id(&mine));
        }
    }
}

fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

fn is_at(path: &Path, file: FileId) -> bool {
    fs::symlink_metadata(path).is_ok_and(|now| id(&now) == file)
}

/// Removes a file, unless another one is in its place: somebody removed it already, and a successor made that.
fn remove(path: &Path, mine: FileId) {
    if is_at(path, mine) {
        // Nothing can be done about a file that will not go.
        let _ = fs::remove_file(path);
    }
}

/// Whether a live process listens there, with the lock or without.
fn is_served(socket: &Path) -> bool {
    match SeqPacket::connect(socket) {
        Ok(_) => true,
        // Its queue is full; it is a socket of another type.
        Err(error) => matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EPROTOTYPE)),
    }
}

fn is_own_file(found: &Metadata) -> bool {
    found.is_file() && found.uid() == geteuid().as_raw()
}

/// The lock, or None if another process holds it. A lock file that its owner removed between our open and our lock is
/// nobody's lock: open it again.
fn take_lock(path: &Path) -> io::Result<Option<Private<Flock<File>>>> {
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // A FIFO would keep its opener waiting for a reader.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        if !is_own_file(&file.metadata()?) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let lock = match Flock::lock(above(file)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(errno.into()),
        };
        let mine = lock.metadata()?;
        if fs::symlink_metadata(path).is_ok_and(|now| id(&now) == id(&mine)) {
            let number = lock.as_raw_fd();
            return Ok(Some(Private::with(lock, number)));
        }
    }
}
