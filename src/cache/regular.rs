//! Regular files, opened in a state in which a write shows.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use crate::channel::{OpenFile, TICK};

/// How often a file is looked at, as a rule, before it counts as written all the time.
pub(super) const LOOKS: u32 = 10;

/// Opens a regular file and nothing else: opening a FIFO could wait, opening a device could do something. The file was
/// last written at least a tick ago, so a write from now on changes its time, and can be seen. One that was written within
/// the last tick is looked at so often, a tick apart.
pub(super) fn open_regular(path: &Path, looks: u32) -> io::Result<OpenFile> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    settle(looks, || file.metadata()?.modified())?;
    OpenFile::new(file)
}

/// Waits until a file's time is a tick old, for so many looks.
fn settle(looks: u32, modified: impl Fn() -> io::Result<SystemTime>) -> io::Result<()> {
    for look in 1.. {
        let modified = modified()?;
        match SystemTime::now().duration_since(modified).map(|age| TICK.saturating_sub(age)) {
            Ok(left) if !left.is_zero() && look == looks => break,
            Ok(left) if !left.is_zero() => thread::sleep(left),
            // Old enough, or in the future, which says nothing about when it was written.
            _ => return Ok(()),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "is being written all the time"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_written_just_now_is_opened_a_tick_later() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("young");
        for _ in 0..3 {
            fs::write(&path, "young").expect("write");
            let file = open_regular(&path, LOOKS).expect("it is there");
            let written = file.file().metadata().and_then(|metadata| metadata.modified()).expect("a time");
            assert!(written.elapsed().expect("not in the future") >= TICK);
        }
        let future = SystemTime::now() + Duration::from_secs(3600);
        fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(future)).expect("utimes");
        open_regular(&path, LOOKS).expect("a time in the future keeps nobody waiting");
    }

    #[test]
    fn a_file_that_is_written_all_the_time_is_busy() {
        let looks = Cell::new(0);
        let written_now = || {
            looks.set(looks.get() + 1);
            Ok(SystemTime::now())
        };
        let error = settle(LOOKS, written_now).expect_err("it is never a tick old");
        assert_eq!((error.kind(), looks.get()), (io::ErrorKind::ResourceBusy, LOOKS));
        settle(1, || Ok(SystemTime::now() - TICK)).expect("it is a tick old");
    }
}
