//! What the second server says of files that the library's client looks at itself.

use std::fs::{self, File};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::socket::{self, ControlMessage, MsgFlags, UnixAddr};

use super::{MAGIC, accept, client, listen, rest};
use crate::datagram;
use crate::memory::send;
use crate::store::bytes;

/// device, inode, length, modification time, change time
fn validator(file: &Path) -> [u64; 5] {
    let seen = fs::metadata(file).expect("stat");
    let nanoseconds = |seconds: i64, rest: i64| seconds as u64 * 1_000_000_000 + rest as u64;
    let modified = nanoseconds(seen.mtime(), seen.mtime_nsec());
    [seen.dev(), seen.ino(), seen.len(), modified, nanoseconds(seen.ctime(), seen.ctime_nsec())]
}

fn witness(generation: u32, key: &[u8], path: &[u8]) -> Vec<u8> {
    let head = datagram![MAGIC, 5u16, 0u16, generation, key.len() as u16, path.len() as u16];
    [&head[..], key, path].concat()
}

#[test]
fn a_client_with_a_witness_asks_again_after_each_change_and_each_epoch() {
    const EPOCH: usize = 32;
    let here = tempfile::tempdir().expect("a directory");
    let (path, file) = (here.path().join("socket"), here.path().join("file"));
    fs::write(&file, bytes(500)).expect("write");
    let age = |by| {
        let file = File::options().write(true).open(&file).expect("it is there");
        file.set_modified(SystemTime::now() - Duration::from_secs(by)).expect("utimes");
    };
    age(100);
    let listener = listen(&path);
    let requests = AtomicUsize::new(0);
    let generation = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let session = accept(&listener, 3);
            while let Some(request) = session.request() {
                requests.fetch_add(1, Ordering::SeqCst);
                session.memory.store(EPOCH, generation.load(Ordering::SeqCst));
                let mut lease = session.lease(&request);
                lease.stream(&bytes(500), validator(&file), 0, 1024, usize::MAX);
                if request.wants_witness {
                    let now = session.memory.load(EPOCH);
                    send(session.socket.as_fd(), &witness(now, &request.key, file.as_os_str().as_bytes()), None);
                }
            }
        });
        let client = client(&path, 2);
        let get = || assert!(rest(&mut client.open(b"file").expect("open")).expect("transfer") == bytes(500));
        let watchdog = Instant::now() + Duration::from_secs(60);
        // True once a request was answered by a look at the file; the first one's answer is made by the server in any
        // case.
        let reuses = || {
            let before = client.stats().reused;
            while client.stats().reused == before {
                assert!(Instant::now() < watchdog, "it never looks for itself");
                get();
            }
        };
        for round in 1..5 {
            reuses();
            age(100 + round);
            let before = requests.load(Ordering::SeqCst);
            get();
            assert_eq!(requests.load(Ordering::SeqCst), before + 1, "a change goes unseen");
            reuses();
            generation.fetch_add(1, Ordering::SeqCst);
            // The server tells of the epoch with the next answer, which is to another key.
            rest(&mut client.open(b"other").expect("open")).expect("transfer");
            let before = requests.load(Ordering::SeqCst);
            get();
            assert_eq!(requests.load(Ordering::SeqCst), before + 1, "a generation goes unseen");
            reuses();
            // One that begins between a request and its answer: the answer is one of the epoch before.
            age(200 + round);
            generation.fetch_add(1, Ordering::SeqCst);
            get();
            let before = requests.load(Ordering::SeqCst);
            get();
            assert_eq!(
                requests.load(Ordering::SeqCst),
                before + 1,
                "a generation is taken for one that came before its request"
            );
        }
    });
}

/// What a server sends when it is asked for a witness: datagrams with descriptors.
type Testimony = Vec<(Vec<u8>, Vec<OwnedFd>)>;

#[test]
fn a_server_that_bears_false_witness_is_left_and_one_that_bears_none_is_not() {
    let here = tempfile::tempdir().expect("a directory");
    let (path, file) = (here.path().join("socket"), here.path().join("file"));
    fs::write(&file, bytes(500)).expect("write");
    let old = File::options().write(true).open(&file).expect("it is there");
    old.set_modified(SystemTime::now() - Duration::from_secs(100)).expect("utimes");
    let datagram = || witness(0, b"file", file.as_os_str().as_bytes());
    let open = || OwnedFd::from(File::open(&file).expect("open"));
    let cases: [(&str, bool, Testimony); 10] = [
        ("none", true, vec![]),
        ("another key", true, vec![(witness(0, b"other", b"/dev/null"), vec![])]),
        ("a descriptor", false, vec![(datagram(), vec![open()])]),
        ("one more", false, vec![(datagram(), vec![]), (datagram(), vec![])]),
        ("too short", false, vec![(datagram()[..15].to_vec(), vec![])]),
        ("too long", false, vec![([datagram(), vec![0; 100]].concat(), vec![])]),
        ("a relative path", false, vec![(witness(0, b"file", b"file"), vec![])]),
        ("a path with a NUL", false, vec![(witness(0, b"file", b"/a\0b"), vec![])]),
        ("no path", false, vec![(witness(0, b"file", b""), vec![])]),
        ("another datagram", false, vec![(datagram![MAGIC, 2u16, 0u16, 2u16, 0u16, 0u32, 3u64], vec![])]),
    ];
    let listener = listen(&path);
    for (name, stays, testimony) in cases {
        let asked = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for features in [3, 0] {
                    let session = accept(&listener, features);
                    while let Some(request) = session.request() {
                        session.lease(&request).stream(&bytes(500), validator(&file), 0, 1024, usize::MAX);
                        if request.wants_witness && asked.fetch_add(1, Ordering::SeqCst) == 0 {
                            testimony.iter().for_each(|(datagram, descriptors)| {
                                send_all(&session.socket, datagram, descriptors);
                            });
                        }
                    }
                    if stays {
                        return;
                    }
                }
            });
            let client = client(&path, 1);
            let watchdog = Instant::now() + Duration::from_secs(60);
            // One that stays is asked again, a second later.
            while if stays { asked.load(Ordering::SeqCst) < 2 } else { client.stats().sessions < 2 } {
                assert!(Instant::now() < watchdog, "{name}");
                assert!(rest(&mut client.open(b"file").expect("open")).expect("transfer") == bytes(500), "{name}");
            }
            assert_eq!(client.stats().sessions, if stays { 1 } else { 2 }, "{name}");
        });
    }
}

/// Sends a datagram with these descriptors to a client that may have left.
fn send_all(socket: &OwnedFd, datagram: &[u8], descriptors: &[OwnedFd]) {
    let rights: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let control = if rights.is_empty() { vec![] } else { vec![ControlMessage::ScmRights(&rights)] };
    let (slices, flags) = ([IoSlice::new(datagram)], MsgFlags::MSG_NOSIGNAL);
    let _ = socket::sendmsg::<UnixAddr>(socket.as_raw_fd(), &slices, &control, flags, None);
}
