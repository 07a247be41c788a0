//! A server written from docs/reference/protocol.md, with the library's client.

mod witness;

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use shm_channel::{Client, ClientConfig, OpenError, Transfer, TransferError};

use crate::datagram;
use crate::memory::{Memory, receive, send};
use crate::store::bytes;

const MAGIC: u32 = 0x4353_4647; // "GFSC", first byte first
const PRODUCED: usize = 0;
const PRODUCER_PARKED: usize = 4;
const WAKE_AT: usize = 8;
const FILE_WORDS: usize = 16;
const CHUNKS: usize = 64;
const CONSUMED: usize = 128;
const CONSUMER_PARKED: usize = 132;
const CANCELLED: usize = 136;
const LENT_COUNT: usize = 140;
const KEPT: usize = 144;
const LENT: usize = 148;

const DATA: u8 = 0;
const END: u8 = 1;
const PARKED: u8 = 2;
const NOT_FOUND: u8 = 3;
const CHANGED: u8 = 5;
const CANCELLED_KIND: u8 = 6;

/// A session of the second server.
struct Session {
    socket: OwnedFd,
    memory: Memory,
    segments: usize,
    size: usize,
    features: u64,
}

/// A lease in its private state.
struct Lease<'s> {
    session: &'s Session,
    control: usize,
    lead: usize,
    produced: u32,
    consumed: u32,
    lent: u32,
    free: Vec<usize>,
    in_flight: Vec<usize>,
    /// How many of its chunks lay in a lent segment.
    in_loans: u32,
}

struct Request {
    lead: usize,
    sequence: u32,
    offset: usize,
    validator: Option<[u64; 5]>,
    /// What the lead holds.
    held: Option<[u64; 5]>,
    wants_witness: bool,
    key: Vec<u8>,
}

fn number(datagram: &[u8], at: usize, len: usize) -> u64 {
    datagram[at..at + len].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn listen(path: &Path) -> OwnedFd {
    let socket =
        socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path).expect("path")).expect("bind");
    socket::listen(&socket, Backlog::new(1).expect("1")).expect("listen");
    socket
}

/// The next client's session, with these of its features.
fn accept(listener: &OwnedFd, features: u64) -> Session {
    let socket = socket::accept(listener.as_raw_fd()).expect("accept");
    let socket = owned(socket);
    let (hello, mut descriptors) = receive(socket.as_fd());
    assert_eq!(hello.len(), 36);
    assert_eq!(hello[..12], datagram![MAGIC, 1u16, 0u16, 2u16, 2u16]);
    let (segments, size) = (number(&hello, 12, 4) as usize, number(&hello, 16, 4) as usize);
    assert_eq!(number(&hello, 28, 8), 3, "features");
    let data = (64 + 256 * segments).next_multiple_of(4096) + 2048;
    let total = data + segments * size;
    let memory = descriptors.pop().expect("the area");
    assert!(descriptors.is_empty());
    assert_eq!(File::from(memory.try_clone().expect("dup")).metadata().expect("fstat").len(), total as u64);
    let memory = Memory::map(memory, total);
    let header = datagram![MAGIC, 2u32, segments as u32, size as u32, data as u64, total as u64];
    assert_eq!(memory.bytes(0, 32), header);
    send(socket.as_fd(), &datagram![MAGIC, 2u16, 0u16, 2u16, 0u16, 0u32, features], None);
    Session { socket, memory, segments, size, features }
}

#[allow(unsafe_code)]
fn owned(fd: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: accept returned it to this caller alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

impl Session {
    /// The next request; None when the client has left.
    fn request(&self) -> Option<Request> {
        let (get, descriptors) = receive(self.socket.as_fd());
        if get.is_empty() {
            return None;
        }
        assert!(descriptors.is_empty());
        assert_eq!(get[..8], datagram![MAGIC, 4u16, 0u16]);
        assert_eq!(number(&get, 20, 4), 0);
        let flags = number(&get, 8, 4);
        let validator = std::array::from_fn(|i| number(&get, 32 + 8 * i, 8));
        let offers = flags == 2 && self.features & 1 != 0 || flags == 6 && self.features == 3;
        assert!(flags <= 1 || offers && number(&get, 24, 8) == 0);
        let key = get[72..].to_vec();
        assert_eq!(number(&get, 18, 2) as usize, key.len());
        Some(Request {
            lead: number(&get, 16, 2) as usize,
            sequence: number(&get, 12, 4) as u32,
            offset: number(&get, 24, 8) as usize,
            validator: (flags == 1).then_some(validator),
            held: offers.then_some(validator),
            wants_witness: flags == 6,
            key,
        })
    }

    fn lease(&self, request: &Request) -> Lease<'_> {
        assert!(request.lead < self.segments);
        Lease {
            session: self,
            control: 64 + 256 * request.lead,
            lead: request.lead,
            produced: request.sequence,
            consumed: request.sequence,
            lent: 0,
            free: vec![request.lead],
            in_flight: vec![0; 8],
            in_loans: 0,
        }
    }
}

impl Lease<'_> {
    fn load(&self, word: usize) -> u32 {
        self.session.memory.load(self.control + word)
    }

    fn look(&mut self) {
        let lent = self.load(LENT_COUNT);
        let consumed = self.load(CONSUMED);
        let kept = self.load(KEPT);
        assert!(consumed.wrapping_sub(self.consumed) <= self.produced.wrapping_sub(self.consumed));
        while self.consumed != consumed {
            let at = self.consumed as usize % 8;
            let segment = self.in_flight[at];
            if kept & 1 << at == 0 || segment == self.lead {
                self.free.push(segment);
            }
            self.consumed = self.consumed.wrapping_add(1);
        }
        assert!(lent >= self.lent && lent <= 6);
        while self.lent < lent {
            let segment = self.load(LENT + 4 * self.lent as usize) as usize;
            assert!(segment < self.session.segments && !self.free.contains(&segment));
            self.free.push(segment);
            self.lent += 1;
        }
    }

    fn publish(&mut self, segment: usize, data: &[u8], kind: u8) {
        let begin = (64 + 256 * self.session.segments).next_multiple_of(4096) + 2048;
        self.session.memory.put(begin + segment * self.session.size, data);
        self.tell(segment, data.len(), kind);
    }

    fn tell(&mut self, segment: usize, len: usize, kind: u8) {
        let memory = &self.session.memory;
        let at = self.produced as usize % 8;
        self.in_flight[at] = segment;
        self.in_loans += u32::from(segment != self.lead);
        let descriptor = len as u64 | (segment as u64) << 32 | u64::from(kind) << 48;
        memory.store_long(self.control + CHUNKS + 8 * at, descriptor);
        self.produced = self.produced.wrapping_add(1);
        memory.store_and_wake(self.control + PRODUCED, self.produced, self.control + CONSUMER_PARKED);
    }

    /// A free segment, or None once the lease is cancelled.
    fn segment(&mut self) -> Option<usize> {
        loop {
            self.look();
            if self.load(CANCELLED) != 0 {
                return None;
            }
            if let Some(segment) = self.free.pop() {
                return Some(segment);
            }
            // Wants one release: the next.
            let memory = &self.session.memory;
            memory.store(self.control + WAKE_AT, self.consumed.wrapping_add(1));
            let (word, parked) = (self.control + CONSUMED, self.control + PRODUCER_PARKED);
            memory.sleep(word, self.consumed, parked, Duration::from_millis(1));
        }
    }

    fn describe(&self, [device, inode, len, modified, changed]: [u64; 5]) {
        let words = self.control + FILE_WORDS;
        for (i, word) in [len, device, inode, modified, changed].into_iter().enumerate() {
            self.session.memory.store_long(words + 8 * i, word);
        }
    }

    /// The file from `offset` on, in chunks of at most `step` bytes; parks after `most` chunks.
    fn stream(&mut self, file: &[u8], validator: [u64; 5], offset: usize, step: usize, most: usize) {
        self.describe(validator);
        let mut at = offset;
        for count in 1.. {
            let Some(segment) = self.segment() else {
                return self.publish(self.lead, &[], CANCELLED_KIND);
            };
            let end = (at + step.min(self.session.size)).min(file.len());
            let kind = match () {
                () if end == file.len() => END,
                () if count == most => PARKED,
                () => DATA,
            };
            self.publish(segment, &file[at..end], kind);
            at = end;
            if kind != DATA {
                return;
            }
        }
    }
}

/// Serves one client until it leaves: one file, parked after `most` chunks, and nothing else. Says how many chunks lay
/// in lent segments.
fn serve(session: &Session, file: &[u8], step: usize, most: usize) -> u32 {
    let mut in_loans = 0;
    while let Some(request) = session.request() {
        let validator = [7, 8, file.len() as u64, 9, 10];
        let mut lease = session.lease(&request);
        if request.key != b"file" {
            lease.publish(request.lead, &[], NOT_FOUND);
            continue;
        }
        assert_eq!(request.validator.is_some(), request.offset > 0);
        assert!(request.validator.is_none_or(|wanted| wanted == validator));
        lease.stream(file, validator, request.offset, step, most);
        in_loans += lease.in_loans;
    }
    in_loans
}

fn client(path: &Path, segments: u32) -> Client {
    let wait = Duration::from_secs(20);
    Client::start(ClientConfig { socket: path.to_owned(), segments, segment_size: 1024, wait }).expect("a client")
}

fn rest(transfer: &mut Transfer<'_>) -> Result<Vec<u8>, TransferError> {
    let mut file = tempfile::tempfile().expect("a file");
    while let Some(chunk) = transfer.next_chunk()? {
        chunk.write_to(&file).expect("write");
    }
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("read");
    Ok(bytes)
}

#[test]
fn the_clients_files_arrive_over_one_segment_and_over_loans() {
    let here = tempfile::tempdir().expect("a directory");
    let path = here.path().join("socket");
    let listener = listen(&path);
    for (segments, len, step, most) in
        [(1, 0, 1024, usize::MAX), (1, 20_001, 1024, usize::MAX), (4, 100_000, 1024, usize::MAX), (4, 30_000, 999, 7)]
    {
        let file = bytes(len);
        let expected = file.clone();
        let listener = listener.try_clone().expect("dup");
        let server = thread::spawn(move || serve(&accept(&listener, 0), &file, step, most));
        let client = client(&path, segments);
        let mut transfer = client.open(b"file").expect("open");
        assert_eq!(transfer.len(), len as u64);
        assert!(rest(&mut transfer).expect("transfer") == expected);
        drop(transfer);
        assert_eq!(client.open(b"other").err(), Some(OpenError::NotFound));
        drop(client);
        assert_eq!(server.join().expect("the second server") > 0, segments > 1);
    }
}

#[test]
fn a_transfer_that_is_dropped_is_cancelled_and_its_segments_come_back() {
    let here = tempfile::tempdir().expect("a directory");
    let path = here.path().join("socket");
    let listener = listen(&path);
    let file = bytes(200_000);
    let expected = file.clone();
    let server = thread::spawn(move || serve(&accept(&listener, 0), &file, 1024, usize::MAX));
    let client = client(&path, 3);
    for _ in 0..20 {
        let mut transfer = client.open(b"file").expect("open");
        for _ in 0..3 {
            transfer.next_chunk().expect("transfer").expect("a chunk");
        }
    }
    assert!(rest(&mut client.open(b"file").expect("open")).expect("transfer") == expected);
    let stats = client.stats();
    assert_eq!((stats.sessions, stats.free + stats.quarantined), (1, 3), "{stats:?}");
    drop(client);
    server.join().expect("the second server");
}

/// So often a client asks again for a file that changed before it had a byte of it.
const ATTEMPTS: usize = 5;

#[test]
fn a_file_that_changes_before_its_first_bytes_are_there_is_asked_for_again() {
    let here = tempfile::tempdir().expect("a directory");
    let path = here.path().join("socket");
    let listener = listen(&path);
    let (file, asked) = (bytes(3000), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let session = accept(&listener, 0);
            while let Some(request) = session.request() {
                let count = asked.fetch_add(1, Ordering::SeqCst);
                let mut lease = session.lease(&request);
                if request.key == b"restless" || request.offset == 0 && count < ATTEMPTS {
                    // Each time another one: it is nothing to hold the next answer to.
                    lease.describe([7, 8, 5000, 9, count as u64]);
                    lease.publish(request.lead, &[], CHANGED);
                } else {
                    lease.stream(&file, [7, 8, 3000, 9, 10], request.offset, 1024, usize::MAX);
                }
            }
        });
        let client = client(&path, 1);
        assert!(rest(&mut client.open(b"file").expect("open")).expect("transfer") == file);
        let before = asked.load(Ordering::SeqCst);
        assert_eq!(client.open(b"restless").err(), Some(OpenError::Failed));
        assert_eq!(asked.load(Ordering::SeqCst) - before, ATTEMPTS + 1);
    });
}

#[test]
fn a_file_that_changes_after_its_first_bytes_is_not_gone_on_with() {
    let here = tempfile::tempdir().expect("a directory");
    let path = here.path().join("socket");
    let listener = listen(&path);
    let file = bytes(30_000);
    let same = [7, 8, 30_000, 9, 10];
    // A server that says so, and ones that go on with another file, of another device, inode, length or time.
    let answers: Vec<Option<[u64; 5]>> = std::iter::once(None)
        .chain((0..5).map(|i| Some(std::array::from_fn(|j| same[j] + u64::from(i == j)))))
        .collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            let session = accept(&listener, 0);
            let mut answers = answers.iter();
            while let Some(request) = session.request() {
                let mut lease = session.lease(&request);
                if request.offset == 0 {
                    lease.stream(&file, same, 0, 1024, 3);
                    continue;
                }
                match answers.next().expect("one for each transfer") {
                    None => lease.publish(request.lead, &[], CHANGED),
                    Some(other) => lease.stream(&file, *other, request.offset, 1024, usize::MAX),
                }
            }
        });
        let client = client(&path, 1);
        for answer in &answers {
            let mut transfer = client.open(b"file").expect("open");
            assert_eq!(rest(&mut transfer).err(), Some(TransferError::Changed), "{answer:?}");
        }
    });
}

#[test]
fn what_a_segment_holds_is_offered_to_a_server_that_agreed_and_may_be_read_again_all_the_same() {
    let here = tempfile::tempdir().expect("a directory");
    let path = here.path().join("socket");
    let listener = listen(&path);
    let (old, new) = (bytes(500), bytes(600));
    // How many offers were answered, and with them the file as it is: confirmed, changed, not cared for.
    let offers = AtomicUsize::new(0);
    let file =
        || if offers.load(Ordering::SeqCst) < 2 { (&old, [7, 8, 500, 9, 10]) } else { (&new, [7, 8, 600, 9, 11]) };
    thread::scope(|scope| {
        scope.spawn(|| {
            let session = accept(&listener, 1);
            while let Some(request) = session.request() {
                let mut lease = session.lease(&request);
                if let Some(held) = request.held {
                    assert_eq!(held, file().1);
                    offers.fetch_add(1, Ordering::SeqCst);
                    if offers.load(Ordering::SeqCst) == 1 {
                        lease.describe(held);
                        lease.tell(request.lead, 500, END);
                        continue;
                    }
                }
                let (content, validator) = file();
                lease.stream(content, validator, 0, 1024, usize::MAX);
            }
        });
        let client = client(&path, 1);
        let watchdog = Instant::now() + Duration::from_secs(60);
        while offers.load(Ordering::SeqCst) < 3 {
            assert!(Instant::now() < watchdog, "no more offers");
            let got = rest(&mut client.open(b"file").expect("open")).expect("transfer");
            assert!(got == *file().0, "{} bytes, after {offers:?} offers", got.len());
        }
    });
}

#[test]
fn a_server_that_did_not_agree_gets_no_offers() {
    let here = tempfile::tempdir().expect("a directory");
    let path = here.path().join("socket");
    let listener = listen(&path);
    let file = bytes(500);
    let expected = file.clone();
    // Each of its requests must be one without flags: see `Session::request`.
    let server = thread::spawn(move || serve(&accept(&listener, 0), &file, 1024, usize::MAX));
    let client = client(&path, 1);
    for _ in 0..10 {
        assert!(rest(&mut client.open(b"file").expect("open")).expect("transfer") == expected);
    }
    drop(client);
    server.join().expect("the second server");
}
