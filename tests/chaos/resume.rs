//! The daemon dies in the middle of transfers: they go on with the next one, or are cut. Never padded, never mixed.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use crate::download::{Download, End, download};
use crate::library::Library;
use crate::pair::{Webproxy, start_daemon, until};

/// More than the buffers of a connection take, so that a client that stops reading stops the transfer.
const LARGE: usize = 12 << 20;

/// Clients whose transfers are in the middle of the file.
fn begin<'f>(library: &'f Library, webproxy: &Webproxy, clients: usize) -> Vec<Download<'f>> {
    let mut downloads: Vec<_> = (0..clients).map(|_| Download::slow(webproxy.port, "/0", library.content(0))).collect();
    for download in &mut downloads {
        assert_eq!(download.read_to(1 << 20), None, "the file is longer than this");
    }
    downloads
}

#[track_caller]
fn assert_cut(downloads: Vec<Download<'_>>) {
    for download in downloads {
        // What did arrive was compared with the old file, byte by byte.
        let end = download.finish();
        assert!(matches!(end, End::Short(_)), "{end:?}");
    }
}

#[test]
fn downloads_survive_a_restart_of_the_daemon() {
    let library = Library::new(&[LARGE]);
    let mut daemon = start_daemon(&library, &["-t", "4"]);
    for options in [&["-t", "8"][..], &["-t", "8", "-n", "1", "-z", "5712"], &["-t", "8", "-n", "16", "-z", "65536"]] {
        let mut webproxy = Webproxy::start(&library, options);
        let mut downloads = begin(&library, &webproxy, 8);
        for (target, sessions) in [(3 << 20, 2), (6 << 20, 3)] {
            drop(daemon);
            thread::sleep(Duration::from_millis(300));
            daemon = start_daemon(&library, &["-t", "4"]);
            webproxy.connected(sessions);
            for download in &mut downloads {
                assert_eq!(download.read_to(target), None);
            }
        }
        for download in downloads {
            assert_eq!(download.finish(), End::Whole);
        }
    }
}

#[test]
fn a_file_that_changed_while_the_daemon_was_away_cuts_its_clients() {
    let library = Library::new(&[LARGE]);
    let daemon = start_daemon(&library, &[]);
    let webproxy = Webproxy::start(&library, &["-t", "4"]);
    let downloads = begin(&library, &webproxy, 4);
    drop(daemon);
    library.replace(0);
    let _daemon = start_daemon(&library, &[]);
    assert_cut(downloads);
}

#[test]
fn a_file_that_vanished_while_the_daemon_was_away_cuts_its_clients() {
    let library = Library::new(&[LARGE]);
    let daemon = start_daemon(&library, &[]);
    let webproxy = Webproxy::start(&library, &["-t", "4"]);
    let downloads = begin(&library, &webproxy, 4);
    drop(daemon);
    fs::remove_file(library.path(0)).expect("remove");
    let _daemon = start_daemon(&library, &[]);
    assert_cut(downloads);
}

#[test]
fn a_daemon_that_stays_away_cuts_its_clients() {
    let library = Library::new(&[LARGE]);
    let daemon = start_daemon(&library, &[]);
    let webproxy = Webproxy::start(&library, &["-t", "4", "--cache-wait-ms", "300"]);
    let downloads = begin(&library, &webproxy, 4);
    drop(daemon);
    assert_cut(downloads);
    assert_eq!(download(webproxy.port, "/0", library.content(0)), End::Error);
    let _daemon = start_daemon(&library, &[]);
    until("service", || (download(webproxy.port, "/0", library.content(0)) == End::Whole).then_some(()));
}

#[test]
fn a_file_that_is_rewritten_in_place_cuts_its_clients() {
    let library = Library::new(&[LARGE]);
    let _daemon = start_daemon(&library, &[]);
    let webproxy = Webproxy::start(&library, &["-t", "4"]);
    let downloads = begin(&library, &webproxy, 4);
    let file = OpenOptions::new().write(true).open(library.path(0)).expect("the file");
    file.write_all_at(&[0; 4096], LARGE as u64 - 4096).expect("a write");
    assert_cut(downloads);
}

#[test]
fn a_file_that_shrinks_cuts_its_clients() {
    let library = Library::new(&[LARGE]);
    let _daemon = start_daemon(&library, &[]);
    let webproxy = Webproxy::start(&library, &["-t", "4"]);
    let downloads = begin(&library, &webproxy, 4);
    OpenOptions::new().write(true).open(library.path(0)).and_then(|file| file.set_len(1 << 20)).expect("truncate");
    assert_cut(downloads);
}

#[test]
fn a_file_that_is_replaced_under_the_daemon_is_delivered_as_it_was() {
    let library = Library::new(&[LARGE]);
    let _daemon = start_daemon(&library, &[]);
    let webproxy = Webproxy::start(&library, &["-t", "4"]);
    let downloads = begin(&library, &webproxy, 4);
    library.replace(0);
    for download in downloads {
        assert_eq!(download.finish(), End::Whole);
    }
}
