//! A client written from docs/reference/protocol.md, with the library's server.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};

use crate::datagram;
use crate::memory::{Memory, receive, send};
use crate::store::{Served, bytes};

const MAGIC: u32 = 0x4353_4647; // "GFSC", first byte first
const PRODUCED: usize = 0;
const PRODUCER_PARKED: usize = 4;
const FILE_WORDS: usize = 16;
const CHUNKS: usize = 64;
const CONSUMED: usize = 128;
const CONSUMER_PARKED: usize = 132;
const CANCELLED: usize = 136;
const LENT_COUNT: usize = 140;
const KEPT: usize = 144;
const LENT: usize = 148;
const KEEPS: usize = 172;

const DATA: u8 = 0;
const END: u8 = 1;
const PARKED: u8 = 2;
const NOT_FOUND: u8 = 3;
const CHANGED: u8 = 5;

pub struct SecondClient {
    socket: OwnedFd,
    memory: Memory,
    segments: usize,
    size: usize,
    /// For each segment: the number of its next chunk.
    next: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Chunk {
    number: u32,
    len: usize,
    segment: usize,
    kind: u8,
}

impl SecondClient {
    fn area_len(segments: usize, size: usize) -> (usize, usize) {
        let data = (64 + 256 * segments).next_multiple_of(4096) + 2048;
        (data, data + segments * size)
    }

    fn connect(path: &Path, segments: usize, size: usize) -> Self {
        Self::connect_with(path, segments, size, 1, 1)
    }

    /// Says HELLO with these features, of which the server must take those `agreed`.
    fn connect_with(path: &Path, segments: usize, size: usize, features: u64, agreed: u64) -> Self {
        let client = Self::say_hello(path, segments, size, features);
        let (welcome, descriptors) = receive(client.socket.as_fd());
        assert_eq!(welcome, datagram![MAGIC, 2u16, 0u16, 2u16, 0u16, 0u32, agreed]);
        assert!(descriptors.is_empty());
        client
    }

    /// Says HELLO, and does not look at the answer.
    pub fn say_hello(path: &Path, segments: usize, size: usize, features: u64) -> Self {
        let first = u32::MAX - 1;
        let (data, total) = Self::area_len(segments, size);
        let memfd = memfd_create(c"second", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("memfd");
        fallocate(&memfd, FallocateFlags::empty(), 0, total as i64).expect("fallocate");
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&memfd, FcntlArg::F_ADD_SEALS(seals)).expect("seals");
        let memory = Memory::map(&memfd, total);
        memory.put(0, &datagram![MAGIC, 2u32, segments as u32, size as u32, data as u64, total as u64]);
        for segment in 0..segments {
            memory.store(64 + 256 * segment + PRODUCED, first);
            memory.store(64 + 256 * segment + CONSUMED, first);
        }

        let socket =
            socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
        socket::connect(socket.as_raw_fd(), &UnixAddr::new(path).expect("path")).expect("connect");
        let hello = datagram![MAGIC, 1u16, 0u16, 2u16, 2u16, segments as u32, size as u32, 0xfeed_u64, features];
        assert_eq!(hello.len(), 36);
        send(socket.as_fd(), &hello, Some(memfd.as_fd()));
        Self { socket, memory, segments, size, next: vec![first; segments] }
    }

    fn control(&self, lead: usize) -> usize {
        assert!(lead < self.segments);
        64 + 256 * lead
    }

    /// Begins a lease.
    fn get(&self, lead: usize, key: &[u8], offset: u64, validator: Option<[u64; 5]>) {
        self.ask(lead, key, offset, u32::from(validator.is_some()), validator.unwrap_or_default());
    }

    /// Begins a lease with these flags.
    fn ask(&self, lead: usize, key: &[u8], offset: u64, flags: u32, validator: [u64; 5]) {
        self.prepare(lead);
        self.send(lead, key, offset, flags, validator);
    }

    /// Makes the words of a segment ready for a lease.
    fn prepare(&self, lead: usize) {
        let control = self.control(lead);
        for word in [LENT_COUNT, KEPT, KEEPS, CANCELLED] {
            self.memory.store(control + word, 0);
        }
        self.memory.store(control + CONSUMED, self.next[lead]);
    }

    fn send(&self, lead: usize, key: &[u8], offset: u64, flags: u32, validator: [u64; 5]) {
        let [device, inode, len, modified, changed] = validator;
        let (sequence, key_len) = (self.next[lead], key.len() as u16);
        let mut get = datagram![MAGIC, 4u16, 0u16, flags, sequence, lead as u16, key_len, 0u32, offset];
        get.extend(datagram![device, inode, len, modified, changed]);
        assert_eq!(get.len(), 72);
        get.extend_from_slice(key);
        send(self.socket.as_fd(), &get, None);
    }

    /// Takes the next chunk.
    fn take(&mut self, lead: usize) -> Chunk {
        let (control, number) = (self.control(lead), self.next[lead]);
        let watchdog = Instant::now() + Duration::from_secs(20);
        while self.memory.load(control + PRODUCED) == number {
            assert!(Instant::now() < watchdog, "no chunk {number}");
            self.memory.sleep(control + PRODUCED, number, control + CONSUMER_PARKED, Duration::from_secs(1));
        }
        let descriptor = self.memory.load_long(control + CHUNKS + 8 * (number as usize % 8));
        assert_eq!(descriptor >> 56, 0);
        self.next[lead] = number.wrapping_add(1);
        Chunk {
            number,
            len: descriptor as u32 as usize,
            segment: (descriptor >> 32) as u16 as usize,
            kind: (descriptor >> 48) as u8,
        }
    }

    fn data(&self, chunk: Chunk) -> Vec<u8> {
        let (data, _) = Self::area_len(self.segments, self.size);
        self.memory.bytes(data + chunk.segment * self.size, chunk.len)
    }

    /// Releases the oldest chunk that was taken, and keeps its segment or not.
    fn release(&self, lead: usize, chunk: Chunk, keep: bool) {
        let control = self.control(lead);
        let bit = 1 << (chunk.number % 8);
        let kept = self.memory.load(control + KEPT);
        self.memory.store(control + KEPT, if keep { kept | bit } else { kept & !bit });
        let consumed = chunk.number.wrapping_add(1);
        self.memory.store_and_wake(control + CONSUMED, consumed, control + PRODUCER_PARKED);
    }

    fn lend(&self, lead: usize, segment: usize) {
        let control = self.control(lead);
        let count = self.memory.load(control + LENT_COUNT);
        self.memory.store(control + LENT + 4 * count as usize, segment as u32);
        self.memory.store(control + LENT_COUNT, count + 1);
    }

    /// Takes all of a lease, releasing at once.
    fn finish(&mut self, lead: usize) -> (Vec<u8>, u8) {
        let mut got = Vec::new();
        loop {
            let chunk = self.take(lead);
            got.extend(self.data(chunk));
            if chunk.kind != DATA {
                return (got, chunk.kind);
            }
            self.release(lead, chunk, false);
        }
    }

    /// A whole file, over as many leases as it takes.
    fn fetch(&mut self, lead: usize, key: &[u8]) -> Vec<u8> {
        self.get(lead, key, 0, None);
        let (mut got, mut kind) = self.finish(lead);
        while kind == PARKED {
            self.get(lead, key, got.len() as u64, Some(self.file(lead)));
            let (more, ended) = self.finish(lead);
            got.extend(more);
            kind = ended;
        }
        assert_eq!((kind, self.file(lead)[2]), (END, got.len() as u64));
        got
    }

    /// device, inode, length, modification time, change time
    fn file(&self, lead: usize) -> [u64; 5] {
        let words = self.control(lead) + FILE_WORDS;
        let [len, device, inode, modified, changed] = std::array::from_fn(|i| self.memory.load_long(words + 8 * i));
        [device, inode, len, modified, changed]
    }
}

#[test]
fn files_of_every_length_arrive() {
    let size = 1000;
    let lengths = [0, 1, 999, 1000, 1001, 2000, 25_003];
    let files: BTreeMap<String, Vec<u8>> = lengths.iter().map(|&len| (format!("f{len}"), bytes(len))).collect();
    let served = Served::start(&files.iter().map(|(name, file)| (name.as_str(), file.as_slice())).collect::<Vec<_>>());
    let mut client = SecondClient::connect(&served.path("socket"), 3, size);
    for lead in [0, 2, 1] {
        for (name, file) in &files {
            assert!(client.fetch(lead, name.as_bytes()) == *file, "{name} differs");
        }
    }
    client.get(1, b"none", 0, None);
    assert_eq!(client.take(1), Chunk { number: client.next[1].wrapping_sub(1), len: 0, segment: 1, kind: NOT_FOUND });
}

#[test]
fn an_offset_and_a_validator_go_on_with_a_file_or_tell_that_it_changed() {
    let file = bytes(5000);
    let served = Served::start(&[("f", &file)]);
    let mut client = SecondClient::connect(&served.path("socket"), 1, 1024);
    client.fetch(0, b"f");
    let validator = client.file(0);
    client.get(0, b"f", 4000, Some(validator));
    assert_eq!(client.finish(0), (file[4000..].to_vec(), END));
    client.get(0, b"f", 5000, Some(validator));
    assert_eq!(client.finish(0), (Vec::new(), END));
    for at in 0..5 {
        let mut other = validator;
        other[at] ^= 1;
        client.get(0, b"f", 4000, Some(other));
        assert_eq!(client.finish(0), (Vec::new(), CHANGED));
    }
    client.get(0, b"f", 5001, Some(validator));
    assert_eq!(client.finish(0), (Vec::new(), CHANGED));
}

#[test]
fn a_segment_that_holds_the_file_is_not_filled_again_unless_it_changed() {
    const HELD: u32 = 2;
    let (file, long) = (bytes(1000), bytes(1001));
    let served = Served::start(&[("f", &file), ("empty", b""), ("long", &long)]);
    let mut client = SecondClient::connect(&served.path("socket"), 2, 1000);
    assert!(client.fetch(0, b"f") == file);
    let validator = client.file(0);
    // Lead 1 holds nothing of the kind: what is handed out shows that nobody wrote to it.
    client.ask(1, b"f", 0, HELD, validator);
    assert_eq!(client.finish(1), (vec![0; 1000], END));
    assert_eq!(client.file(1), validator);
    for at in 0..5 {
        let mut other = validator;
        other[at] ^= 1;
        client.ask(0, b"f", 0, HELD, other);
        assert_eq!(client.finish(0), (file.clone(), END));
        assert_eq!(client.file(0), validator);
    }
    client.ask(0, b"none", 0, HELD, validator);
    assert_eq!(client.finish(0), (Vec::new(), NOT_FOUND));
    client.fetch(0, b"empty");
    client.ask(0, b"empty", 0, HELD, client.file(0));
    assert_eq!(client.finish(0), (Vec::new(), END));
    // Of a longer file it holds the first bytes, and the rest is for another lease.
    client.fetch(0, b"long");
    let validator_of_long = client.file(0);
    client.get(0, b"long", 0, None);
    assert_eq!(client.take(0).kind, DATA);
    client.ask(1, b"long", 0, HELD, validator_of_long);
    assert_eq!(client.finish(1), (vec![0; 1000], PARKED));
    client.get(1, b"long", 1000, Some(validator_of_long));
    assert_eq!(client.finish(1), (long[1000..].to_vec(), END));
    // What is held begins at 0.
    client.ask(0, b"f", 1, HELD, validator);
    assert!(receive(client.socket.as_fd()).0.is_empty(), "the server hangs up");
}

#[test]
fn a_lease_that_keeps_its_segments_ends_when_they_are_full() {
    let file = bytes(4500);
    let served = Served::start(&[("f", &file)]);
    let mut client = SecondClient::connect(&served.path("socket"), 4, 1000);
    let (mut got, mut validator) = (Vec::new(), [0; 5]);
    for (loans, chunks, last) in [(0, 1, PARKED), (2, 3, PARKED), (3, 1, END)] {
        client.prepare(0);
        client.memory.store(client.control(0) + KEEPS, 1);
        (1..=loans).for_each(|segment| client.lend(0, segment));
        client.send(0, b"f", got.len() as u64, u32::from(!got.is_empty()), validator);
        let taken: Vec<_> = (0..chunks).map(|_| client.take(0)).collect();
        let end = if last == PARKED { client.take(0) } else { taken[chunks - 1] };
        assert_eq!(
            (end.kind, taken.iter().map(|chunk| chunk.segment).collect()),
            (last, (0..chunks).collect::<Vec<_>>())
        );
        // All of them at once: nothing was released.
        taken.iter().for_each(|&chunk| got.extend(client.data(chunk)));
        validator = client.file(0);
    }
    assert!(got == file);
}

#[test]
fn the_server_takes_what_both_can_do() {
    let files: &[(&str, &[u8])] = &[("f", b"content")];
    for (served, all) in [(Served::start(files), 1), (Served::start_witnessed(files), 3)] {
        for features in [0, 1, 2, 3, u64::MAX] {
            let mut client = SecondClient::connect_with(&served.path("socket"), 1, 1000, features, features & all);
            assert_eq!(client.fetch(0, b"f"), b"content");
        }
    }
}

#[test]
fn a_witness_tells_where_the_file_is() {
    const HELD_AND_WITNESS: u32 = 6;
    let served = Served::start_witnessed(&[("f", b"content")]);
    let mut client = SecondClient::connect_with(&served.path("socket"), 1, 1000, 3, 3);
    client.fetch(0, b"f");
    let file = client.file(0);
    // No second one comes before the first was received.
    for _ in 0..10 {
        client.ask(0, b"f", 0, HELD_AND_WITNESS, file);
        assert_eq!(client.finish(0), (b"content".to_vec(), END));
    }
    let path = served.path("f");
    let path_bytes = path.as_os_str().as_bytes();
    let witness = [&datagram![MAGIC, 5u16, 0u16, 0u32, 1u16, path_bytes.len() as u16][..], b"f", path_bytes].concat();
    assert_eq!(receive(client.socket.as_fd()).0, witness);
    fs::write(&path, "other content").expect("write");
    // A lead that holds another state gets none.
    client.ask(0, b"f", 0, HELD_AND_WITNESS, file);
    assert_eq!(client.finish(0), (b"other content".to_vec(), END));
    client.ask(0, b"f", 0, HELD_AND_WITNESS, client.file(0));
    client.finish(0);
    assert_eq!(receive(client.socket.as_fd()).0, witness);
    let unread = fcntl(&client.socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .and_then(|_| socket::recv(client.socket.as_raw_fd(), &mut [0], MsgFlags::empty()));
    assert_eq!(unread, Err(Errno::EAGAIN), "one witness for all that were not received");
}

#[test]
fn a_store_that_gives_no_witness_is_not_made_to() {
    const HELD_AND_WITNESS: u32 = 6;
    let served = Served::start(&[("f", b"content")]);
    let mut client = SecondClient::connect(&served.path("socket"), 1, 1000);
    client.fetch(0, b"f");
    client.ask(0, b"f", 0, HELD_AND_WITNESS, client.file(0));
    assert_eq!(client.finish(0), (b"content".to_vec(), END));
    drop(served);
    assert!(receive(client.socket.as_fd()).0.is_empty(), "the end of the session, and nothing before");
}

#[test]
fn all_clients_hear_of_an_epoch_at_once_and_before_the_answer_that_it_brings() {
    const EPOCH: usize = 32;
    let served = Served::start_witnessed(&[("f", b"content")]);
    let mut clients: Vec<_> = (0..3).map(|_| SecondClient::connect(&served.path("socket"), 1, 1000)).collect();
    // All sessions are there once they serve.
    clients.iter_mut().for_each(|client| assert_eq!(client.fetch(0, b"f"), b"content"));
    for (generation, tell, key) in [(1, true, None), (7, false, Some(b"f".as_slice())), (8, false, Some(b"none"))] {
        served.begin_generation(generation, tell);
        if let Some(key) = key {
            clients[0].get(0, key, 0, None);
            clients[0].take(0);
        }
        assert!(clients.iter().all(|client| client.memory.load(EPOCH) == generation), "{generation}");
    }
}

#[test]
fn lent_segments_are_used_and_can_be_taken_back() {
    let file = bytes(100 * 1024);
    let served = Served::start(&[("f", &file)]);
    let mut client = SecondClient::connect(&served.path("socket"), 3, 1024);
    client.get(0, b"f", 0, None);
    client.lend(0, 2);
    let (mut got, mut used, mut kept) = (Vec::new(), [0; 3], false);
    loop {
        let chunk = client.take(0);
        got.extend(client.data(chunk));
        assert!(!kept || chunk.segment != 2, "a segment that was taken back is used");
        used[chunk.segment] += 1;
        match chunk.kind {
            DATA => {
                kept |= chunk.segment == 2;
                client.release(0, chunk, chunk.segment == 2);
            }
            // The server may park a transfer whose client is slow, as this one is on a busy machine.
            PARKED => client.get(0, b"f", got.len() as u64, Some(client.file(0))),
            kind => {
                assert_eq!(kind, END);
                break;
            }
        }
    }
    assert!(got == file);
    assert!(used[0] > 90 && used[1] == 0 && used[2] <= 1, "{used:?}");
}

#[test]
fn a_consumer_that_releases_nothing_is_parked_and_goes_on_later() {
    let file = bytes(10_000);
    let served = Served::start(&[("f", &file)]);
    let mut client = SecondClient::connect(&served.path("socket"), 1, 1024);
    client.get(0, b"f", 0, None);
    let chunk = client.take(0);
    let got = client.data(chunk);
    assert_eq!(chunk.kind, DATA);
    let parked = client.take(0);
    assert_eq!((parked.len, parked.segment, parked.kind), (0, 0, PARKED));
    client.get(0, b"f", got.len() as u64, Some(client.file(0)));
    let mut rest = Vec::new();
    loop {
        let (more, kind) = client.finish(0);
        rest.extend(more);
        if kind == END {
            break;
        }
        assert_eq!(kind, PARKED);
        client.get(0, b"f", (got.len() + rest.len()) as u64, Some(client.file(0)));
    }
    assert!([got, rest].concat() == file);
}

#[test]
fn a_cancelled_lease_ends_and_its_segment_serves_again() {
    let file = bytes(1 << 20);
    let served = Served::start(&[("f", &file), ("g", b"short")]);
    let mut client = SecondClient::connect(&served.path("socket"), 1, 1024);
    for _ in 0..20 {
        client.get(0, b"f", 0, None);
        let chunk = client.take(0);
        assert!(file.starts_with(&client.data(chunk)));
        let control = client.control(0);
        client.memory.store(control + CANCELLED, 1);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let mut ended = chunk.kind != DATA;
        while !ended && client.memory.load(control + PRODUCED) != client.next[0] {
            ended = client.take(0).kind != DATA;
        }
        if !ended {
            client.memory.store_and_wake(control + CONSUMED, client.next[0], control + PRODUCER_PARKED);
            while client.take(0).kind == DATA {}
        }
        assert_eq!(client.fetch(0, b"g"), b"short");
    }
}
