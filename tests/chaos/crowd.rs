//! Many proxies on one daemon, in any order, through its restarts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::download::{End, download};
use crate::library::Library;
use crate::pair::{Webproxy, start_daemon};

const PROXIES: usize = 16;

#[test]
fn sixteen_proxies_with_thirty_two_segments_each_are_served_through_restarts() {
    let library = Library::new(&[1 << 20, 0, 5000, 100_000]);
    let start = || Webproxy::start(&library, &["-t", "4", "-n", "32", "-z", "16384"]);
    let mut proxies: Vec<_> = (0..PROXIES / 2).map(|_| start()).collect();
    let mut daemon = start_daemon(&library, &["-t", "4"]);
    proxies.extend((PROXIES / 2..PROXIES).map(|_| start()));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = proxies
            .iter()
            .enumerate()
            .map(|(i, proxy)| {
                let (library, stop, port) = (&library, &stop, proxy.port);
                scope.spawn(move || {
                    let mut served = 0;
                    while !stop.load(Ordering::Relaxed) || served < 4 {
                        let file = (i + served) % library.len();
                        assert_eq!(download(port, &library.key(file), library.content(file)), End::Whole);
                        served += 1;
                    }
                })
            })
            .collect();
        for restart in 0..4 {
            // Two by force and two in order.
            if restart % 2 == 0 {
                drop(daemon)
            } else {
                assert!(daemon.stop().status.success())
            }
            daemon = start_daemon(&library, &["-t", "4"]);
            for proxy in &proxies {
                assert_eq!(download(proxy.port, "/0", library.content(0)), End::Whole);
            }
        }
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().expect("a client"));
    });
}
