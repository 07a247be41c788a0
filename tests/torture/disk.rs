//! What happens to files on the disk, one event at a time.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fastrand::Rng;

use crate::ledger::{Ledger, ON_DISK, State};
use crate::stream::content;

/// How long a file that has another name may be served in the place of its successor: docs/reference/locals.md.
const OTHER_NAME: Duration = Duration::from_millis(1100);
/// The lengths of most versions: the edges of blocks, pages and segments, and what fits half of them or does not.
const LENGTHS: [u64; 14] =
    [0, 1, 15, 16, 823, 5_000, 65_535, 65_536, 65_537, 250_001, 700_001, 3 << 20, 6 << 20, 6 << 20];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A new file, by rename.
    Replace,
    /// The same with the length and the time of the old one, as `cp -p` and `rsync -t` do.
    ReplaceAlike,
    /// The old one goes first, so that the new one may have its inode.
    Reborn,
    /// New content in the same file.
    Rewrite,
    /// The same, and then the old time.
    RewriteAlike,
    Truncate,
    Append,
    Remove,
    /// A second name.
    Link,
    /// Another time, of whole seconds.
    Touch,
}

const EVENTS: [Event; 16] = [
    Event::Replace,
    Event::Replace,
    Event::Replace,
    Event::Replace,
    Event::ReplaceAlike,
    Event::ReplaceAlike,
    Event::Reborn,
    Event::Rewrite,
    Event::Rewrite,
    Event::RewriteAlike,
    Event::RewriteAlike,
    Event::Truncate,
    Event::Append,
    Event::Remove,
    Event::Link,
    Event::Touch,
];

pub struct Disk<'l> {
    directory: PathBuf,
    ledger: &'l Ledger,
    /// Names for new files.
    made: u32,
}

impl<'l> Disk<'l> {
    /// Makes the files, and a locals file of them.
    pub fn start(directory: &Path, ledger: &'l Ledger, random: &mut Rng) -> Self {
        let mut disk = Self { directory: directory.to_owned(), ledger, made: 0 };
        let locals: String = (0..ON_DISK).map(|file| format!("/f/{file} {file}\n")).collect();
        fs::write(directory.join("locals.txt"), locals).expect("locals.txt");
        (0..ON_DISK).for_each(|file| disk.perform(Event::Replace, file, random));
        disk
    }

    /// One event. All that is random is drawn from `random` in an order that depends on it alone.
    pub fn step(&mut self, file: usize, random: &mut Rng) {
        self.perform(EVENTS[random.usize(..EVENTS.len())], file, random);
    }

    fn path(&self, file: usize) -> PathBuf {
        self.directory.join(file.to_string())
    }

    /// Whether the file is reached through a symbolic link.
    fn is_turned(file: usize) -> bool {
        file % 4 == 3
    }

    fn perform(&mut self, event: Event, file: usize, random: &mut Rng) {
        let (ledger, old, length) = (self.ledger, self.ledger.state(file), draw_length(random));
        let part = random.f64();
        let event = if old.len.is_none() { Event::Replace } else { event };
        let (now, path) = (old.len.unwrap_or(0), self.path(file));
        let alike = State { version: old.version + 1, len: old.len };
        let new = State { version: old.version + 1, len: Some(length) };
        ledger.note(format!("disk /f/{file} {event:?}: {old:?}, {new:?} unless it keeps its length"));
        match event {
            Event::Replace => self.replace(file, new, None),
            Event::ReplaceAlike => self.replace(file, alike, Some(times(&path))),
            Event::Reborn => {
                let before = times(&path);
                self.remove(file, old.version);
                self.replace(file, alike, Some(before));
            }
            Event::Rewrite | Event::RewriteAlike => {
                let (before, bytes) = (times(&path), content(file, alike.version, 0, now));
                ledger.write(file, alike, || {
                    let opened = File::options().write(true).open(&path).expect("it is there");
                    opened.write_all_at(&bytes, 0).expect("write");
                    if event == Event::RewriteAlike {
                        opened.set_times(before).expect("set its times");
                    }
                });
                if event == Event::RewriteAlike {
                    ledger.backdate(file);
                }
            }
            Event::Truncate => {
                let shorter = (now as f64 * part) as u64;
                let open = || File::options().write(true).open(&path).expect("it is there");
                ledger.write(file, State { len: Some(shorter), ..old }, || open().set_len(shorter).expect("truncate"));
            }
            Event::Append => {
                let more =
                    content(file, old.version, now / 16 * 16, now + length % 100_000).split_off((now % 16) as usize);
                let longer = State { len: Some(now + more.len() as u64), ..old };
                let open = || File::options().write(true).open(&path).expect("it is there");
                ledger.write(file, longer, || open().write_all_at(&more, now).expect("append"));
            }
            Event::Remove => self.remove(file, old.version),
            Event::Link => ledger.write(file, old, || link(&path)),
            Event::Touch => ledger.write(file, old, || {
                let opened = File::options().write(true).open(&path).expect("it is there");
                let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + length);
                opened.set_times(FileTimes::new().set_modified(old)).expect("set its times");
            }),
        }
    }

    /// Puts a new file where the old one was, by rename; with this time, if one is given.
    fn replace(&mut self, file: usize, new: State, times: Option<FileTimes>) {
        let (path, name) = (self.path(file), self.directory.join(format!("new-{}", self.made)));
        self.made += 1;
        fs::write(&name, content(file, new.version, 0, new.len.expect("a file"))).expect("a new file");
        if let Some(times) = times {
            File::options().write(true).open(&name).expect("made above").set_times(times).expect("set its times");
        }
        let longer = self.longer(file);
        if Self::is_turned(file) {
            let former = fs::read_link(&path);
            let turned = self.directory.join("turned");
            symlink(&name, &turned).expect("a symbolic link");
            self.ledger.change(file, new, longer, || fs::rename(&turned, &path).expect("rename"));
            former.map(fs::remove_file).into_iter().for_each(|removed| removed.expect("the former target"));
        } else {
            self.ledger.change(file, new, longer, || fs::rename(&name, &path).expect("rename"));
        }
        let _ = fs::remove_file(other_name(&path));
    }

    fn remove(&mut self, file: usize, version: u32) {
        let (path, longer) = (self.path(file), self.longer(file));
        let former = fs::read_link(&path);
        let none = State { version, len: None };
        self.ledger.change(file, none, longer, || fs::remove_file(&path).expect("it was there"));
        former.map(fs::remove_file).into_iter().for_each(|removed| removed.expect("the former target"));
        let _ = fs::remove_file(other_name(&path));
    }

    /// How long the old file may be served after it was replaced.
    fn longer(&self, file: usize) -> Duration {
        let named = Self::is_turned(file) || other_name(&self.path(file)).exists();
        if named { OTHER_NAME } else { Duration::ZERO }
    }
}

pub fn draw_length(random: &mut Rng) -> u64 {
    let edge = LENGTHS[random.usize(..LENGTHS.len())];
    if random.bool() { edge } else { random.u64(..100_000) }
}

fn other_name(path: &Path) -> PathBuf {
    path.with_extension("link")
}

/// Gives the file a second name, or takes it away.
fn link(path: &Path) {
    if fs::remove_file(other_name(path)).is_err() {
        let target = fs::canonicalize(path).expect("it is there");
        fs::hard_link(target, other_name(path)).expect("a link");
    }
}

fn times(path: &Path) -> FileTimes {
    let modified = fs::metadata(path).expect("stat").modified().expect("a time");
    FileTimes::new().set_modified(modified)
}
