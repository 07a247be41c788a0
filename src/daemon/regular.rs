//! Regular files, opened in a state in which a write shows.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use base::standard::above;
use shm_channel::{MTIME_TICK, OpenFile};

/// Opens a regular file and nothing else: opening a FIFO could wait, opening a device could do something. One that was
/// written within the last tick is looked at so often.
pub(super) fn open_regular(path: &Path, looks: u32) -> io::Result<OpenFile> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = without_lease(looks, || {
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC).open(path)
    })?;
    OpenFile::after(above(file)?, Some(path.to_owned()), looks)
}

/// What `open` gives once nobody holds a lease on the file: it asks the holder, as Samba and knfsd are, to give it up,
/// and with O_NONBLOCK does not wait for that.
fn without_lease(looks: u32, open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    for _ in 1..looks {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(MTIME_TICK),
            opened => return opened,
        }
    }
    open().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::ResourceBusy, "is leased to another program"),
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::*;
    use shm_channel::MAX_OPEN_LOOKS;

    #[test]
    fn a_file_written_just_now_is_opened_a_tick_later() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("young");
        for _ in 0..3 {
            fs::write(&path, "young").expect("write");
            let file = open_regular(&path, MAX_OPEN_LOOKS).expect("it is there");
            let written = file.file().metadata().and_then(|metadata| metadata.modified()).expect("a time");
            assert!(written.elapsed().expect("not in the future") >= Duration::from_millis(10));
        }
        let future = SystemTime::now() + Duration::from_secs(3600);
        fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(future)).expect("utimes");
        open_regular(&path, MAX_OPEN_LOOKS).expect("a time in the future keeps nobody waiting");
    }
}
