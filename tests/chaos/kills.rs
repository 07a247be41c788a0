//! SIGKILL at random moments: the other side lives on, loses nothing and serves again.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::channel::{client, fetch};
use crate::download::{Download, End, download};
use crate::library::Library;
use crate::pair::{self, Webproxy, until};
use crate::procfs::{Holdings, shared_memory_names};
use crate::programs::Program;
use crate::roles::{self, Proxy};

/// Kills of each kind of process: a thousand together.
const KILLS: usize = 500;
/// Kills of each of the programs as they are shipped.
const PROGRAM_KILLS: usize = 15;

/// `GFPROXY_SEED` repeats a run.
fn random() -> Rng {
    let seed = env::var("GFPROXY_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    println!("GFPROXY_SEED={seed}");
    Rng::with_seed(seed)
}

fn library() -> Library {
    Library::new(&[1 << 20, 0, 700_001, 1, 16 << 10, 300_000, 823])
}

/// A random moment of what the process does: in the middle of transfers, for the most part.
fn moment(random: &mut Rng) {
    thread::sleep(Duration::from_micros(random.u64(..8000)));
}

/// Waits until `program` holds no more than before: what a killed peer had is given back soon, not at once.
#[track_caller]
fn loses_nothing(program: &mut Program, before: Holdings) {
    program
        .until(&format!("holds no more than {before:?}"), |program| Holdings::of(program.pid()).no_more_than(&before));
}

#[test]
fn a_daemon_loses_nothing_by_the_deaths_of_proxies() {
    let (library, mut random, names) = (library(), random(), shared_memory_names());
    let mut daemon = roles::start_daemon(&library);
    let honest = client(&library.socket(), 2, 16 << 10);
    fetch(&honest, &library.key(0), library.content(0)).expect("service");
    // All files are open and every worker has run.
    for file in 0..library.len() {
        fetch(&honest, &library.key(file), library.content(file)).expect("service");
    }
    let holdings = Holdings::of(daemon.pid());
    let mut killed = 0;
    while killed < KILLS {
        let mut proxies: Vec<_> = (0..4).map(|i| Proxy::start(&library, &i.to_string())).collect();
        proxies.iter_mut().for_each(|proxy| proxy.fetches(1));
        for proxy in proxies {
            moment(&mut random);
            drop(proxy);
            killed += 1;
        }
        fetch(&honest, &library.key(0), library.content(0)).expect("service goes on");
        if killed % 100 == 0 {
            loses_nothing(&mut daemon, holdings);
        }
    }
    loses_nothing(&mut daemon, holdings);
    assert_eq!(shared_memory_names(), names);
}

#[test]
fn a_proxy_loses_nothing_by_the_deaths_of_daemons() {
    let (library, mut random, names) = (library(), random(), shared_memory_names());
    let mut daemon = roles::start_daemon(&library);
    let mut proxy = Proxy::start(&library, "only");
    proxy.fetches(20);
    let holdings = Holdings::of(proxy.program.pid());
    let mut pauses = Vec::new();
    for _ in 0..KILLS {
        moment(&mut random);
        drop(daemon);
        daemon = roles::start_daemon(&library);
        let restarted = Instant::now();
        proxy.fetches(5);
        pauses.push(restarted.elapsed());
    }
    loses_nothing(&mut proxy.program, holdings);
    assert_eq!(shared_memory_names(), names);
    // A machine that is busy with other things may delay a few.
    pauses.sort();
    let most = pauses[KILLS * 95 / 100];
    println!(
        "service back after {:?} at the median, {most:?} at 95 %, {:?} at most",
        pauses[KILLS / 2],
        pauses[KILLS - 1]
    );
    assert!(most < Duration::from_secs(1), "service must be back within a second of the restart, not {most:?}");
}

#[test]
fn webproxy_lives_through_the_deaths_of_simplecached() {
    let (library, mut random) = (library(), random());
    let mut daemon = pair::start_daemon(&library, &["-t", "2"]);
    let mut webproxy = Webproxy::start(&library, &["-t", "8", "-n", "4", "-z", "16384"]);
    webproxy.connected(1);
    let port = webproxy.port;
    download(port, "/0", library.content(0));
    let holdings = Holdings::of(webproxy.program.pid());
    let stop = AtomicBool::new(false);
    let daemon = thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|i| {
                let (library, stop) = (&library, &stop);
                scope.spawn(move || {
                    let mut served = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let file = (i + served) % library.len();
                        assert_eq!(download(port, &library.key(file), library.content(file)), End::Whole);
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for _ in 0..PROGRAM_KILLS {
            moment(&mut random);
            drop(daemon);
            daemon = pair::start_daemon(&library, &["-t", "2"]);
            assert_eq!(download(port, "/0", library.content(0)), End::Whole);
        }
        stop.store(true, Ordering::Relaxed);
        let served: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
        assert!(served.iter().all(|&served| served > 0), "{served:?}");
        daemon
    });
    // The threads' connections to their clients go when the clients have closed.
    loses_nothing(&mut webproxy.program, holdings);
    assert!(webproxy.program.stop().status.success());
    assert!(daemon.stop().status.success());
    let mut left: Vec<_> = std::fs::read_dir(library.directory())
        .expect("the directory")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    left.retain(|name| name.to_string_lossy().starts_with("socket"));
    assert!(left.is_empty(), "files of the command socket are left: {left:?}");
}

#[test]
fn simplecached_lives_through_the_deaths_of_webproxy() {
    let (library, mut random) = (library(), random());
    let mut daemon = pair::start_daemon(&library, &["-t", "2"]);
    let honest = client(&library.socket(), 2, 16 << 10);
    for file in 0..library.len() {
        fetch(&honest, &library.key(file), library.content(file)).expect("service");
    }
    let holdings = Holdings::of(daemon.pid());
    for _ in 0..PROGRAM_KILLS {
        let webproxy = Webproxy::start(&library, &["-t", "4", "-n", "4", "-z", "16384"]);
        let clients: Vec<_> = (0..4).map(|_| Download::start(webproxy.port, "/0", library.content(0))).collect();
        moment(&mut random);
        drop(webproxy);
        for client in clients {
            let end = client.finish();
            assert!(matches!(end, End::Whole | End::Short(_) | End::NoAnswer), "{end:?}");
        }
        fetch(&honest, &library.key(0), library.content(0)).expect("service goes on");
    }
    loses_nothing(&mut daemon, holdings);
    until("the end of all sessions but one", || {
        let log = daemon.stderr_so_far();
        (log.matches(" ended").count() + log.matches(" dropped").count() >= PROGRAM_KILLS).then_some(())
    });
}
