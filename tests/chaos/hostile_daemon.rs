//! Daemons that break the protocol in every way: webproxy leaves them, its requests end in time, and it finds the next.

use std::fs;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::download::{Download, End, download};
use crate::library::Library;
use crate::pair::{Webproxy, start_daemon, until};
use crate::seqpacket::{Area, Listener, Peer, Sizes, welcome};

const SEGMENT_SIZE: u32 = 4096;
const SIZES: Sizes = Sizes { segments: 4, segment_size: SEGMENT_SIZE };
/// The length of the file that is asked for.
const LEN: u64 = 100_000;

const DATA: u64 = 0;
const END: u64 = 1;
const PARKED: u64 = 2;

/// What a daemon does with a connection that has said HELLO.
type Script = dyn Fn(&Peer, &Area) + Send + Sync;

/// A daemon of that kind, for every connection.
struct Hostile {
    listener: Arc<Listener>,
    peers: Arc<Mutex<Vec<Arc<Peer>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Hostile {
    fn start(library: &Library, script: Box<Script>) -> Self {
        Self::start_for(SIZES, library, script)
    }

    /// For a proxy with segments of these sizes.
    fn start_for(sizes: Sizes, library: &Library, script: Box<Script>) -> Self {
        // The last one's.
        let _ = fs::remove_file(library.socket());
        let listener = Arc::new(Listener::bind(&library.socket()));
        let peers = Arc::new(Mutex::new(Vec::new()));
        let (accepting, kept, script) = (Arc::clone(&listener), Arc::clone(&peers), Arc::<Script>::from(script));
        let thread = thread::spawn(move || {
            let mut connections = Vec::new();
            while let Some(peer) = accepting.accept() {
                let (peer, script) = (Arc::new(peer), Arc::clone(&script));
                kept.lock().unwrap().push(Arc::clone(&peer));
                connections.push(thread::spawn(move || {
                    if let Some((_, Some(file))) = peer.receive_file() {
                        script(&peer, &Area { file, sizes });
                    }
                    peer.shut_down();
                }));
            }
            // Those that came while the end began.
            kept.lock().unwrap().iter().for_each(|peer| peer.shut_down());
            connections.into_iter().for_each(|thread| thread.join().expect("a connection"));
        });
        Self { listener, peers, thread: Some(thread) }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.listener.shut_down();
        self.peers.lock().unwrap().iter().for_each(|peer| peer.shut_down());
        let joined = self.thread.take().expect("joined once").join();
        if !thread::panicking() {
            joined.expect("the hostile daemon");
        }
    }
}

/// A request that was read: its segment and its sequence.
fn request(peer: &Peer) -> Option<(u32, u32)> {
    let get = peer.receive()?;
    let sequence = u32::from_le_bytes(get[12..16].try_into().expect("four bytes"));
    Some((u32::from(u16::from_le_bytes([get[16], get[17]])), sequence))
}

/// Writes a chunk's descriptor and tells of it, in the right order but without a wake.
fn publish(area: &Area, lead: u32, sequence: u32, descriptor: u64) {
    let control = area.sizes.control(lead);
    area.write(control + 64 + u64::from(sequence % 8) * 8, &descriptor.to_le_bytes());
    area.write(control, &sequence.wrapping_add(1).to_le_bytes());
}

fn describe(area: &Area, lead: u32, len: u64) {
    area.write(area.sizes.control(lead) + 16, &len.to_le_bytes());
}

fn chunk(len: u64, segment: u32, kind: u64) -> u64 {
    len | u64::from(segment) << 32 | kind << 48
}

/// Shakes hands, then answers each request by `answer`, to which it gives segment and sequence.
fn serving(answer: impl Fn(&Area, u32, u32) + Send + Sync + 'static) -> Box<Script> {
    Box::new(move |peer, area| {
        // The proxy may have left, or the test may be over.
        let _ = peer.send(&welcome(2, 0));
        while let Some((lead, sequence)) = request(peer) {
            answer(area, lead, sequence);
        }
    })
}

fn answering(len: u64, descriptor: impl Fn(u32) -> u64 + Send + Sync + 'static) -> Box<Script> {
    serving(move |area, lead, sequence| {
        describe(area, lead, len);
        publish(area, lead, sequence, descriptor(lead));
    })
}

fn start(library: &Library) -> Webproxy {
    Webproxy::start(library, &["-t", "4", "-n", "4", "-z", "4096", "--cache-wait-ms", "400"])
}

/// With such a daemon every request ends as `expected`; with an honest one after it, all is well.
#[track_caller]
fn check(name: &str, script: Box<Script>, expected: impl Fn(End) -> bool) {
    println!("{name}");
    let library = Library::new(&[LEN as usize]);
    let hostile = Hostile::start(&library, script);
    let webproxy = start(&library);
    for _ in 0..2 {
        let end = download(webproxy.port, "/0", library.content(0));
        assert!(expected(end), "{name}: {end:?}");
    }
    drop(hostile);
    let daemon = start_daemon(&library, &[]);
    until("service", || (download(webproxy.port, "/0", library.content(0)) == End::Whole).then_some(()));
    drop(daemon);
    let ended = webproxy.program.stop();
    assert!(ended.status.success(), "{name}: {ended:?}");
    // Each fault is told with the process that it was, and not again and again.
    let told: Vec<_> =
        ended.stderr.lines().filter(|line| line.contains("WARN") && !line.contains(" via cache")).collect();
    assert!(told.len() <= 4, "{name}: {told:#?}");
    let mine = format!("pid {}", process::id());
    assert!(told.iter().all(|line| line.contains(&mine)), "{name}: {told:#?}");
}

fn error(end: End) -> bool {
    end == End::Error
}

fn cut(end: End) -> bool {
    matches!(end, End::Short(_))
}

#[test]
fn a_daemon_that_never_welcomes_is_left() {
    check("it hangs up", Box::new(|_, _| ()), error);
    check("it is silent", Box::new(|peer, _| drop(peer.receive())), error);
    for (name, reply) in [
        ("another version", welcome(3, 0)),
        ("unknown features", welcome(2, 4)),
        ("a truncated WELCOME", welcome(2, 0)[..19].to_vec()),
        ("garbage", b"garbage".to_vec()),
        ("a datagram of 4 KiB", vec![0; 4096]),
        ("a refusal", [b"GFSC\x03\0\0\0", &b"line\n\x1b[31mbreak "[..], &[b'x'; 300]].concat()),
    ] {
        check(
            name,
            Box::new(move |peer, _| {
                // The proxy may have left.
                let _ = peer.send(&reply);
                while peer.receive().is_some() {}
            }),
            error,
        );
    }
}

#[test]
fn a_daemon_that_is_silent_after_its_welcome_does_not_keep_a_request() {
    check("no answer", serving(|_, _, _| ()), error);
    check(
        "garbage on the socket",
        Box::new(|peer, _| {
            // The proxy may have left, here and below.
            let _ = peer.send(&welcome(2, 0));
            request(peer);
            let _ = peer.send(b"garbage");
            while peer.receive().is_some() {}
        }),
        error,
    );
}

#[test]
fn control_words_that_no_honest_daemon_writes_end_the_session() {
    for (name, script) in [
        (
            "far too many chunks",
            serving(|area, lead, sequence| {
                area.write(SIZES.control(lead), &sequence.wrapping_add(1000).to_le_bytes());
            }),
        ),
        (
            "a counter that goes back",
            serving(|area, lead, sequence| {
                area.write(SIZES.control(lead), &sequence.wrapping_sub(1).to_le_bytes());
            }),
        ),
        ("no such kind", answering(LEN, |lead| chunk(100, lead, 9))),
        ("reserved bits", answering(LEN, |lead| chunk(100, lead, DATA) | 1 << 60)),
        ("a segment out of range", answering(LEN, |_| chunk(100, 4, DATA))),
        ("a segment of another lease", answering(LEN, |lead| chunk(100, (lead + 1) % 4, DATA))),
        ("a chunk larger than its segment", answering(LEN, |lead| chunk(4097, lead, DATA))),
        ("a chunk of 4 GiB", answering(LEN, |lead| chunk(u64::from(u32::MAX), lead, DATA))),
        ("data without bytes", answering(LEN, |lead| chunk(0, lead, DATA))),
        ("an end before the end", answering(LEN, |lead| chunk(100, lead, END))),
        ("more data than the file has", answering(50, |lead| chunk(100, lead, DATA))),
        ("an end behind the end", answering(50, |lead| chunk(100, lead, END))),
        ("a file of 2^64 - 1 bytes", answering(u64::MAX, |lead| chunk(100, lead, DATA))),
    ] {
        check(name, script, error);
    }
}

#[test]
fn a_daemon_that_does_not_even_accept_is_asked_once() {
    let library = Library::new(&[LEN as usize]);
    let listener = Listener::bind(&library.socket());
    let mut webproxy = Webproxy::start(&library, &["--cache-wait-ms", "1500"]);
    for _ in 0..3 {
        assert_eq!(download(webproxy.port, "/0", library.content(0)), End::Error);
    }
    // Every attempt would have left an area of memory in the queue.
    let peer = listener.accept().expect("one connection");
    assert!(!listener.has_waiting(), "one connection is enough");
    assert!(peer.receive_file().is_some_and(|(_, memory)| memory.is_some()));
    peer.send(&welcome(2, 0)).expect("WELCOME");
    webproxy.connected(1);
}

#[test]
fn a_daemon_that_parks_and_parks_does_not_keep_a_request() {
    check("empty and parked, without end", answering(LEN, |lead| chunk(0, lead, PARKED)), cut);
}

#[test]
fn a_daemon_that_wakes_nobody_costs_little_time() {
    let library = Library::new(&[100]);
    let content = library.content(0).to_vec();
    let answer = serving(move |area, lead, sequence| {
        area.write(area.sizes.data(lead), &content);
        describe(area, lead, 100);
        publish(area, lead, sequence, chunk(100, lead, END));
    });
    let hostile = Hostile::start(&library, answer);
    // Far longer than this test waits for a byte.
    let webproxy = Webproxy::start(&library, &["-n", "4", "-z", "4096", "--cache-wait-ms", "3600000"]);
    for _ in 0..5 {
        assert_eq!(download(webproxy.port, "/0", library.content(0)), End::Whole);
    }
    drop(hostile);
}

#[test]
fn a_daemon_that_breaks_off_cuts_the_client() {
    // The first chunk is a good one: the header is out, so only the end of the connection can tell.
    let library = Library::new(&[LEN as usize]);
    let content = library.content(0).to_vec();
    let hostile = Hostile::start(
        &library,
        serving(move |area, lead, sequence| {
            area.write(area.sizes.data(lead), &content[..100]);
            describe(area, lead, LEN);
            publish(area, lead, sequence, chunk(100, lead, DATA));
        }),
    );
    let webproxy = start(&library);
    let end = Download::start(webproxy.port, "/0", library.content(0)).finish();
    assert_eq!(end, End::Short(100));
    drop(hostile);
}

#[test]
fn a_bad_chunk_behind_a_good_one_costs_the_session_and_nothing_else() {
    const SIZE: usize = SEGMENT_SIZE as usize;
    const WHOLE: u64 = 10 * SIZE as u64;
    /// What is told behind a chunk in this lent segment; the one behind it was lent, too, and the other was not.
    type Bad = fn(lent: u32, other: u32) -> u64;
    let bad: [(&str, Bad); 4] = [
        ("an end before the end", |lent, _| chunk(100, lent + 1, END)),
        ("reserved bits", |lent, _| chunk(100, lent + 1, DATA) | 1 << 60),
        ("a chunk larger than its segment", |lent, _| chunk(SIZE as u64 + 1, lent + 1, DATA)),
        ("a segment that was not lent", |_, other| chunk(100, other, DATA)),
    ];
    for (name, bad) in bad {
        let library = Library::new(&[WHOLE as usize]);
        let content = library.content(0).to_vec();
        let is_first = AtomicBool::new(true);
        let answer = serving(move |area, lead, sequence| {
            // Then it is silent.
            if !is_first.swap(false, Ordering::Relaxed) {
                return;
            }
            let control = SIZES.control(lead);
            area.write(SIZES.data(lead), &content[..SIZE]);
            describe(area, lead, WHOLE);
            publish(area, lead, sequence, chunk(SIZE as u64, lead, DATA));
            until("two loans", || (area.word(control + 140) == 2).then_some(()));
            let loans = [148, 152].map(|at| area.word(control + at));
            let (lent, other) = (loans[0].min(loans[1]), 6 - lead - loans[0] - loans[1]);
            area.write(SIZES.data(lent), &content[SIZE..2 * SIZE]);
            for (ahead, descriptor) in [(1, chunk(SIZE as u64, lent, DATA)), (2, bad(lent, other))] {
                let slot = u64::from(sequence.wrapping_add(ahead) % 8);
                area.write(control + 64 + slot * 8, &descriptor.to_le_bytes());
            }
            area.write(control, &sequence.wrapping_add(3).to_le_bytes());
        });
        let hostile = Hostile::start(&library, answer);
        let webproxy = start(&library);
        let end = Download::start(webproxy.port, "/0", library.content(0)).finish();
        assert_eq!(end, End::Short(2 * SIZE as u64), "{name}");
        drop(hostile);
    }
}

#[test]
fn a_segment_that_is_kept_is_not_filled_twice() {
    const SIZES: Sizes = Sizes { segments: 4, segment_size: 64 << 10 };
    const SIZE: usize = SIZES.segment_size as usize;
    let library = Library::new(&[2 * SIZE]);
    let content = library.content(0).to_vec();
    let kept = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&kept);
    let is_first = AtomicBool::new(true);
    let answer = serving(move |area, lead, sequence| {
        // Then it is silent.
        if !is_first.swap(false, Ordering::Relaxed) {
            return;
        }
        seen.store(area.word(area.sizes.control(lead) + 172) == 1, Ordering::Relaxed);
        area.write(area.sizes.data(lead), &content[..SIZE]);
        describe(area, lead, content.len() as u64);
        publish(area, lead, sequence, chunk(SIZE as u64, lead, DATA));
        publish(area, lead, sequence.wrapping_add(1), chunk(SIZE as u64, lead, END));
    });
    let hostile = Hostile::start_for(SIZES, &library, answer);
    let webproxy = Webproxy::start(&library, &["-t", "4", "-n", "4", "-z", "65536", "--cache-wait-ms", "400"]);
    let end = Download::start(webproxy.port, "/0", library.content(0)).finish();
    assert_eq!(end, End::Short(SIZE as u64));
    assert!(kept.load(Ordering::Relaxed), "the request's segments were to be kept");
    drop(hostile);
    let told = webproxy.program.stop().stderr;
    assert!(told.contains("a chunk in a segment that was not released"), "{told}");
}
