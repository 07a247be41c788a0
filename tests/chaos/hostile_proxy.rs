//! Proxies that break the protocol in every way: the daemon drops them, says so once, and serves the others.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{self, Command};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, SealFlag, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt::Linger};
use nix::unistd::{Pid, geteuid};

use crate::channel::Honest;
use crate::library::Library;
use crate::pair::start_daemon;
use crate::procfs::Holdings;
use crate::programs::{Program, program, skipped};
use crate::roles::Proxy;
use crate::seqpacket::{Area, FIRST_SEQUENCE, MAGIC, Peer, Sizes, get, hello, join};

const SIZES: Sizes = Sizes { segments: 4, segment_size: 4096 };
const SEALED: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// A daemon, and an honest proxy beside the hostile ones.
struct Scene {
    library: Arc<Library>,
    daemon: Program,
    honest: Honest,
}

impl Scene {
    fn new() -> Self {
        let library = Arc::new(Library::new(&[200_000, 1000, 0, 12 << 20]));
        let daemon = start_daemon(&library, &["-t", "3"]);
        let honest = Honest::start(Arc::clone(&library));
        Self { library, daemon, honest }
    }

    fn connect(&self) -> Peer {
        Peer::connect(&self.library.socket()).expect("connect")
    }

    fn join(&self, area: &Area) -> Peer {
        join(&self.library.socket(), area)
    }

    /// How often the daemon has complained about this process.
    fn complaints(&self) -> usize {
        let mine = format!("pid {}", process::id());
        self.daemon
            .stderr_so_far()
            .lines()
            .filter(|line| line.contains(&mine) && (line.contains(" refused: ") || line.contains(" dropped: ")))
            .count()
    }

    /// The daemon hangs up on `peer`, after a reason or without, and complains `times` times in all.
    #[track_caller]
    fn drops(&mut self, peer: &Peer, times: usize) {
        while peer.receive().is_some() {}
        self.daemon.until("complains", |_| true);
        crate::pair::until("a complaint", || (self.complaints() >= times).then_some(()));
        assert_eq!(self.complaints(), times, "each once:\n{}", self.daemon.stderr_so_far());
    }

    /// The daemon lives and the honest proxy is still served.
    fn end(mut self) {
        self.honest.served(10);
        self.honest.finish();
        self.daemon.until("lives", |_| true);
        assert!(self.daemon.stop().status.success());
    }
}

fn sealed(sizes: Sizes, len: u64, seals: SealFlag, flags: MFdFlags) -> Area {
    let area = Area::with_flags(sizes, len, flags);
    fallocate(&area.file, FallocateFlags::empty(), 0, len.cast_signed()).expect("fallocate");
    area.initialise();
    area.seal(seals);
    area
}

#[test]
fn a_bad_hello_is_refused_and_told_once() {
    let mut scene = Scene::new();
    let good = Area::new(SIZES);
    let memory = good.file.as_raw_fd();
    let sizes = |segments, segment_size| Sizes { segments, segment_size };
    let long = [&hello((2, 2), SIZES)[..], &[0; 200]].concat();
    let mut reserved = hello((2, 2), SIZES);
    reserved[6] = 1;
    let cases: Vec<(Vec<u8>, Vec<RawFd>)> = vec![
        (b"garbage".to_vec(), vec![]),
        (vec![0xff; 40], vec![memory]),
        (MAGIC.to_vec(), vec![]),
        (get(0, 0, 0, b"/0"), vec![]),
        (hello((2, 2), SIZES)[..35].to_vec(), vec![memory]),
        (long, vec![memory]),
        (reserved, vec![memory]),
        (hello((3, 9), SIZES), vec![memory]),
        (hello((0, 1), SIZES), vec![memory]),
        (hello((2, 2), SIZES), vec![]),
        (hello((2, 2), SIZES), vec![memory; 2]),
        (hello((2, 2), SIZES), vec![memory; 100]),
        (hello((2, 2), sizes(0, 4096)), vec![memory]),
        (hello((2, 2), sizes(u32::MAX, 4096)), vec![memory]),
        (hello((2, 2), sizes(4, 823)), vec![memory]),
        (hello((2, 2), sizes(4, u32::MAX)), vec![memory]),
        (hello((2, 2), sizes(4096, 64 << 20)), vec![memory]),
        (hello((2, 2), sizes(5, 4096)), vec![memory]),
        (hello((2, 2), sizes(3, 4096)), vec![memory]),
    ];
    for (i, (datagram, descriptors)) in cases.iter().enumerate() {
        let peer = scene.connect();
        peer.send_with(datagram, descriptors).expect("send");
        scene.drops(&peer, i + 1);
    }
    scene.end();
}

#[test]
fn memory_that_could_hurt_is_refused() {
    let mut scene = Scene::new();
    let total = SIZES.total();
    let file = File::create_new(scene.library.directory().join("regular")).expect("a file");
    file.set_len(total).expect("ftruncate");
    let (socket, _other) = UnixStream::pair().expect("a pair");
    let readable = Area::new(SIZES);
    let read_only = File::open(format!("/proc/self/fd/{}", readable.file.as_raw_fd())).expect("open again");
    let empty = Area::with_flags(SIZES, total, MFdFlags::empty());
    fallocate(&empty.file, FallocateFlags::empty(), 0, total.cast_signed()).expect("fallocate");
    empty.seal(SEALED);
    let sparse = Area::with_flags(SIZES, total, MFdFlags::empty());
    sparse.initialise();
    sparse.seal(SEALED);
    let mut files: Vec<File> = vec![
        sealed(SIZES, total, SealFlag::empty(), MFdFlags::empty()).file,
        sealed(SIZES, total, SealFlag::F_SEAL_SHRINK, MFdFlags::empty()).file,
        sealed(SIZES, total, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW, MFdFlags::empty()).file,
        sealed(SIZES, total, SEALED | SealFlag::F_SEAL_WRITE, MFdFlags::empty()).file,
        sealed(SIZES, total - 4096, SEALED, MFdFlags::empty()).file,
        sealed(SIZES, total + 4096, SEALED, MFdFlags::empty()).file,
        empty.file,
        sparse.file,
        file,
        read_only,
        File::open("/dev/zero").expect("/dev/zero"),
        File::open("/tmp").expect("a directory"),
        std::os::fd::OwnedFd::from(socket).into(),
    ];
    // Where the kernel has huge pages at all. Sealed and of the right size, such a file can still raise SIGBUS.
    let huge = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB | MFdFlags::MFD_ALLOW_SEALING;
    let huge_sizes = Sizes { segments: 1, segment_size: (2 << 20) - 4096 - 2048 };
    match memfd_create(c"huge", huge) {
        Ok(fd) => {
            let area = Area { file: fd.into(), sizes: huge_sizes };
            area.file.set_len(huge_sizes.total()).expect("ftruncate");
            area.seal(SEALED);
            files.push(area.file);
        }
        Err(errno) => assert!(matches!(errno, Errno::ENOSYS | Errno::EINVAL | Errno::ENODEV), "{errno}"),
    }
    for (i, file) in files.iter().enumerate() {
        let peer = scene.connect();
        let sizes = if i == 13 { huge_sizes } else { SIZES };
        peer.send_with(&hello((2, 2), sizes), &[file.as_raw_fd()]).expect("send");
        scene.drops(&peer, i + 1);
    }
    scene.end();
}

#[test]
fn memory_cannot_be_shrunk_once_the_daemon_has_it() {
    let scene = Scene::new();
    let area = Area::new(SIZES);
    let peer = scene.join(&area);
    assert!(area.file.set_len(0).is_err());
    peer.send(&get(0, FIRST_SEQUENCE, 0, b"/1")).expect("GET");
    crate::pair::until("the answer", || (area.word(SIZES.control(0)) == FIRST_SEQUENCE.wrapping_add(1)).then_some(()));
    scene.end();
}

#[test]
fn a_bad_request_ends_the_session_and_is_told_once() {
    let mut scene = Scene::new();
    let good = get(0, FIRST_SEQUENCE, 0, b"/0");
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    let cases = [
        b"garbage".to_vec(),
        good[..63].to_vec(),
        good[..65].to_vec(),
        [&good[..], b"x"].concat(),
        with(0, b"XXXX"),
        with(4, &[1]),
        with(6, &[1]),
        with(8, &[3]),
        with(8, &[4]),
        // A lead that holds all of a file, from byte 1 on.
        [&good[..8], &[2], &good[9..24], &[1], &good[25..]].concat(),
        with(20, &[1]),
        with(16, &4u16.to_le_bytes()),
        with(16, &u16::MAX.to_le_bytes()),
        get(0, FIRST_SEQUENCE, 0, &[b'k'; 4096]),
        vec![0; 6000],
        hello((2, 2), SIZES),
    ];
    for (i, case) in cases.iter().enumerate() {
        let area = Area::new(SIZES);
        let peer = scene.join(&area);
        peer.send(case).expect("send");
        scene.drops(&peer, i + 1);
    }
    scene.end();
}

/// Lets a process have so many descriptors from now on; returns how many it could have before.
#[allow(unsafe_code)]
fn limit_descriptors(pid: Pid, limit: libc::rlim_t) -> libc::rlim_t {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let (pid, file) = (pid.as_raw(), libc::RLIMIT_NOFILE);
    // SAFETY: the kernel reads and writes limits that outlive the calls.
    let failed = unsafe {
        libc::prlimit(pid, file, ptr::null(), &raw mut limits) != 0
            || libc::prlimit(pid, file, &libc::rlimit { rlim_cur: limit, ..limits }, ptr::null_mut()) != 0
    };
    assert!(!failed, "prlimit: {}", io::Error::last_os_error());
    limits.rlim_cur
}

/// The kernel then delivers the datagram without it, and says only that something is missing.
#[test]
fn a_request_with_a_descriptor_is_bad_where_the_daemon_has_no_room_for_it_too() {
    let mut scene = Scene::new();
    // It has all the files open that the honest proxy asks for.
    scene.honest.served(10);
    let area = Area::new(SIZES);
    let peer = scene.join(&area);
    let before = limit_descriptors(scene.daemon.pid(), 0);
    peer.send_with(&get(0, FIRST_SEQUENCE, 0, b"/1"), &[area.file.as_raw_fd()]).expect("send");
    scene.drops(&peer, 1);
    limit_descriptors(scene.daemon.pid(), before);
    scene.end();
}

#[test]
fn control_words_that_no_honest_proxy_writes_end_the_session() {
    let mut scene = Scene::new();
    let consumer = SIZES.control(0) + 128;
    let words: [(&str, Vec<(u64, u32)>); 5] = [
        ("more consumed than was produced", vec![(consumer, FIRST_SEQUENCE.wrapping_add(100))]),
        ("more lent than there is room for", vec![(consumer + 12, 7)]),
        ("a lent segment out of range", vec![(consumer + 20, 4), (consumer + 12, 1)]),
        ("a lent segment far out of range", vec![(consumer + 20, 0x1_0001), (consumer + 12, 1)]),
        ("the lead lent to itself", vec![(consumer + 20, 0), (consumer + 12, 1)]),
    ];
    for (i, (what, words)) in words.iter().enumerate() {
        println!("{what}");
        let area = Area::new(SIZES);
        for (offset, value) in words {
            area.write(*offset, &value.to_le_bytes());
        }
        let peer = scene.join(&area);
        peer.send(&get(0, FIRST_SEQUENCE, 0, b"/0")).expect("GET");
        scene.drops(&peer, i + 1);
    }
    // A second request for a segment whose lease still runs.
    let area = Area::new(SIZES);
    let peer = scene.join(&area);
    let twice = get(0, FIRST_SEQUENCE, 0, b"/0");
    // The daemon may close between two of these.
    while peer.send(&twice).is_ok() {}
    scene.drops(&peer, words.len() + 1);
    scene.end();
}

#[test]
fn shared_words_that_change_while_the_daemon_works_hurt_nobody() {
    let scene = Scene::new();
    let (mut random, mut scribbler) = (Rng::with_seed(7), Rng::with_seed(8));
    let end = Instant::now() + Duration::from_secs(3);
    let mut sessions = 0;
    while Instant::now() < end {
        let area = Area::new(SIZES);
        let peer = scene.join(&area);
        sessions += 1;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (area, stop, mut scribbler) = (&area, &stop, scribbler.fork());
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let word = match scribbler.u32(..4) {
                        0 => scribbler.u32(..),
                        1 => scribbler.u32(..8),
                        _ => FIRST_SEQUENCE.wrapping_add(scribbler.u32(..12)),
                    };
                    // The control words, for the most part.
                    let reach = if scribbler.u32(..8) == 0 { SIZES.total() } else { 64 + 4 * 256 };
                    area.write(scribbler.u64(..reach / 4) * 4, &word.to_le_bytes());
                    if scribbler.u32(..64) == 0 {
                        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                        fallocate(&area.file, flags, 0, SIZES.total().cast_signed()).expect("punch a hole");
                    }
                }
            });
            for _ in 0..200 {
                let lead = random.u16(..4);
                let sequence = FIRST_SEQUENCE.wrapping_add(random.u32(..8));
                if peer.send(&get(lead, sequence, random.u64(..300_000), b"/0")).is_err() {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
    println!("{sessions} sessions");
    scene.honest.served(5);
    scene.end();
}

#[test]
fn idle_connections_do_not_keep_others_out() {
    let scene = Scene::new();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("setrlimit");
    let mut idle = Vec::new();
    for _ in 0..most.saturating_sub(500).min(3000) {
        idle.push(scene.connect());
    }
    // Somebody new comes in beside them.
    let area = Area::new(SIZES);
    let peer = scene.join(&area);
    scene.honest.served(10);
    for peer in &idle {
        assert_eq!(peer.receive(), None, "an idle connection is closed without an answer");
    }
    assert!(peer.send(&get(0, FIRST_SEQUENCE, 0, b"/1")).is_ok());
    assert!(scene.complaints() <= 100, "a flood of connections is no flood of lines: {}", scene.complaints());
    scene.end();
}

/// A socket whose last close takes an hour, unless its other end, which comes with it, is closed before.
fn slow_to_close() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut slow = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
    let (other, _) = listener.accept().expect("accept");
    slow.set_nonblocking(true).expect("O_NONBLOCK");
    while slow.write(&[0; 1 << 16]).is_ok() {}
    slow.set_nonblocking(false).expect("O_NONBLOCK");
    setsockopt(&slow, Linger, &libc::linger { l_onoff: 1, l_linger: 3600 }).expect("SO_LINGER");
    (slow, other)
}

#[test]
fn a_descriptor_whose_close_takes_long_keeps_nobody_waiting() {
    let scene = Scene::new();
    let (hello, request) = (hello((2, 2), SIZES), get(0, FIRST_SEQUENCE, 0, b"/1"));
    let (mut others, mut peers) = (Vec::new(), Vec::new());
    let mut send_slow = |peer: &Peer, datagram: &[u8]| {
        let (slow, other) = slow_to_close();
        peer.send_with(datagram, &[slow.as_raw_fd()]).expect("send");
        others.push(other);
    };
    // While the daemon reads nothing, so that it will be the last to have them.
    scene.daemon.freeze();
    // In place of the area, and in a datagram that is none.
    for datagram in [&hello[..], b""] {
        let peer = scene.connect();
        send_slow(&peer, datagram);
        peers.push(peer);
    }
    // In requests; behind one that ends the session, and is not received any more.
    for first in [&request[..], b"garbage"] {
        for _ in 0..4 {
            let (area, peer) = (Area::new(SIZES), scene.connect());
            peer.send_with(&hello, &[area.file.as_raw_fd()]).expect("HELLO");
            if first != request {
                peer.send(first).expect("send");
            }
            send_slow(&peer, &request);
            peers.push(peer);
        }
    }
    scene.daemon.signal(Signal::SIGCONT);
    let mut fresh = Proxy::start(&scene.library, "fresh");
    fresh.fetches(10);
    scene.end();
}

#[test]
fn nothing_of_ended_sessions_stays_open_however_slow_its_close_is() {
    const PEERS: usize = 100;
    let scene = Scene::new();
    let holdings = || Holdings::of(scene.daemon.pid());
    let before = holdings();
    let (mut others, mut peers) = (Vec::new(), Vec::new());
    // While the daemon reads nothing, so that it will be the last to have them.
    scene.daemon.freeze();
    for _ in 0..PEERS {
        let (peer, (slow, other)) = (scene.connect(), slow_to_close());
        // A bad HELLO, and a descriptor behind it that nobody asks for any more.
        for datagram in [&b"garbage"[..], b"more"] {
            peer.send_with(datagram, &[slow.as_raw_fd()]).expect("send");
        }
        others.push(other);
        peers.push(peer);
    }
    scene.daemon.signal(Signal::SIGCONT);
    for peer in &peers {
        while peer.receive().is_some() {}
    }
    // The honest proxy's files come and go.
    crate::pair::until("all is closed", || (holdings().descriptors < before.descriptors + PEERS / 4).then_some(()));
    assert_eq!(holdings().threads, before.threads, "a close takes no thread");
    scene.end();
}

#[test]
fn a_flood_of_connections_drops_nobody_elses() {
    let scene = Scene::new();
    let connections = || {
        let table = fs::read_to_string("/proc/net/unix").expect("the kernel's table");
        let path = scene.library.socket();
        table.lines().filter(|line| line.ends_with(path.to_str().expect("UTF-8"))).count()
    };
    // All of these wait for the daemon, the other process's connection and its HELLO before the flood.
    scene.daemon.freeze();
    let before = connections();
    let mut fresh = Proxy::start(&scene.library, "fresh");
    crate::pair::until("a connection", || (connections() > before).then_some(()));
    let flood: Vec<_> = (0..120).map(|_| scene.connect()).collect();
    scene.daemon.signal(Signal::SIGCONT);
    fresh.fetches(10);
    let its = format!("pid {} dropped", fresh.program.pid());
    assert!(!scene.daemon.stderr_so_far().contains(&its), "{}", scene.daemon.stderr_so_far());
    drop(flood);
    scene.end();
}

#[test]
fn a_flood_of_sessions_leaves_room_for_others() {
    let scene = Scene::new();
    let area = Area::new(Sizes { segments: 1, segment_size: 824 });
    let mut admitted = Vec::new();
    for _ in 0..700 {
        let peer = scene.connect();
        peer.send_with(&hello((2, 2), area.sizes), &[area.file.as_raw_fd()]).expect("HELLO");
        // WELCOME is type 2.
        if peer.receive().is_some_and(|reply| reply[4] == 2) {
            admitted.push(peer);
        }
    }
    assert!(!admitted.is_empty());
    let mut other = Proxy::start(&scene.library, "other");
    other.fetches(10);
    scene.end();
}

#[test]
fn a_process_that_the_daemon_cannot_see_has_a_quota_of_its_own() {
    let library = Library::new(&[1000]);
    let mut command = Command::new("unshare");
    command.args((!geteuid().is_root()).then_some("--map-root-user")).args(["--pid", "--fork", "--kill-child"]);
    let probe = Program::run(Command::new("unshare").args(command.get_args()).arg("true"));
    if !probe.status.success() {
        return skipped(&format!("no PID namespace can be made here: {}", probe.stderr.trim()));
    }
    command.arg(program("simplecached_noasan")).arg("-v").arg("-c").arg(library.locals()).arg("-S");
    let mut daemon = Program::start(command.arg(library.socket()));
    daemon.until("serves", |daemon| daemon.stderr_so_far().contains("serving on"));
    let area = Area::new(Sizes { segments: 1, segment_size: 824 });
    let admitted: Vec<_> = (0..100)
        .map(|_| Peer::connect(&library.socket()).expect("a connection"))
        .filter(|peer| {
            peer.send_with(&hello((2, 2), area.sizes), &[area.file.as_raw_fd()]).expect("HELLO");
            peer.receive().is_some_and(|reply| reply[4] == 2)
        })
        .collect();
    assert_eq!(admitted.len(), 64);
    let mut other = Proxy::start(&library, "other");
    other.fetches(10);
}

#[test]
fn proxies_that_take_their_data_in_drips_do_not_starve_others() {
    let scene = Scene::new();
    let sizes = Sizes { segments: 1, segment_size: 824 };
    let areas: Vec<_> = (0..3).map(|_| Area::new(sizes)).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for area in &areas {
            let (scene, stop) = (&scene, &stop);
            scope.spawn(move || {
                let peer = scene.join(area);
                let mut next = FIRST_SEQUENCE;
                while !stop.load(Ordering::Relaxed) {
                    peer.send(&get(0, next, 0, b"/3")).expect("GET");
                    // Each chunk is released at once, so that the daemon's patience does not end the lease.
                    let mut ended = false;
                    while !ended {
                        while area.word(sizes.control(0)) == next {
                            thread::yield_now();
                        }
                        let descriptor = sizes.control(0) + 64 + u64::from(next % 8) * 8;
                        ended = area.word(descriptor + 4) >> 16 != 0;
                        next = next.wrapping_add(1);
                        area.write(sizes.control(0) + 128, &next.to_le_bytes());
                    }
                }
            });
        }
        scene.honest.served(150);
        stop.store(true, Ordering::Relaxed);
    });
    scene.end();
}

#[test]
fn a_flood_of_requests_does_not_starve_others() {
    let scene = Scene::new();
    let sizes = Sizes { segments: 64, segment_size: 824 };
    let (areas, stop) = ([Area::new(sizes), Area::new(sizes), Area::new(sizes)], AtomicBool::new(false));
    thread::scope(|scope| {
        for area in &areas {
            let (scene, stop) = (&scene, &stop);
            scope.spawn(move || {
                // Leases that the hostile proxy never reads from: each ends parked.
                let peer = scene.join(area);
                let mut sequences = [None; 64];
                while !stop.load(Ordering::Relaxed) {
                    for (lead, sequence) in sequences.iter_mut().enumerate() {
                        let control = sizes.control(lead as u32);
                        let produced = area.word(control);
                        // Its last lease, if any, has ended: a chunk of data and the end.
                        if sequence.is_none_or(|sequence: u32| produced == sequence.wrapping_add(2)) {
                            *sequence = Some(produced);
                            area.write(control + 128, &produced.to_le_bytes());
                            peer.send(&get(lead as u16, produced, 0, b"/0")).expect("GET");
                        }
                    }
                }
            });
        }
        scene.honest.served(200);
        stop.store(true, Ordering::Relaxed);
    });
    scene.end();
}
