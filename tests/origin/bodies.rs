//! Well-formed bodies, with and without a length, arrive byte for byte.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use getfile::Outcome;
use origin::{Config, Origin};

use crate::support::{After, Collector, Exchange, OnChunk, ScriptedOrigin, config, fetch, fetch_with, pattern};

#[test]
fn files_of_all_sizes_arrive() {
    for size in [0, 1, 823, 824, 5712, 65_536, 1_048_599, 16 << 20] {
        let file = pattern(size);
        let fetched = fetch({
            let file = file.clone();
            move |x| x.answer("200 OK", &[], &file)
        });
        fetched.assert_whole(&file);
    }
}

#[test]
fn a_chunked_body_gets_its_length() {
    for size in [0_usize, 1, 100_000] {
        let file = pattern(size);
        let fetched = fetch({
            let file = file.clone();
            move |x| {
                x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: ETag\r\n\r\n");
                for chunk in file.chunks(7_001) {
                    x.send(format!("{:x};ext=1\r\n", chunk.len()));
                    x.send(chunk);
                    x.send("\r\n");
                }
                x.send("0\r\nContent-Length: 3\r\nETag: \"t\"\r\n\r\n");
                After::Keep
            }
        });
        fetched.assert_whole(&file);
    }
}

#[test]
fn a_body_up_to_the_close_gets_its_length() {
    for size in [0, 1, 100_000] {
        let file = pattern(size);
        let fetched = fetch({
            let file = file.clone();
            move |x| {
                x.send("HTTP/1.0 200 OK\r\n\r\n");
                x.send(&file);
                After::Close
            }
        });
        fetched.assert_whole(&file);
    }
}

/// The origin holds the rest back until the client has the beginning: whoever waits for the whole body first deadlocks
/// here, and fails by its time limit.
#[test]
fn the_beginning_is_delivered_before_the_end_is_sent() {
    let file = pattern(3 << 20);
    let (tell, told) = mpsc::channel();
    let told = Mutex::new(told);
    let server = ScriptedOrigin::start({
        let file = file.clone();
        move |x| {
            x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len()));
            for part in file.chunks(1 << 20) {
                x.send(&part[..1]);
                told.lock().unwrap().recv_timeout(Duration::from_secs(20)).expect("the client's first byte");
                x.send(&part[1..]);
            }
            After::Keep
        }
    });
    let waits_at: Vec<usize> = (0..3).map(|part| part * (1 << 20) + 1).collect();
    let mut told_of = 0;
    let on_chunk = move |len| {
        if told_of < waits_at.len() && len >= waits_at[told_of] {
            told_of += 1;
            tell.send(()).expect("the origin waits");
        }
    };
    let mut client = Collector { on_chunk: Some(OnChunk(Box::new(on_chunk))), ..Collector::default() };
    let outcome = Origin::new(&server.url(), config()).expect("an origin").serve(b"/file", &mut client);
    assert_eq!(outcome, Outcome::Sent(file.len() as u64));
    assert!(client.body == file);
}

#[test]
fn a_body_that_outgrows_memory_goes_through_a_file() {
    let file = pattern(300_000);
    for (spool_memory, spool_memory_total) in [(100_000, u64::MAX), (0, u64::MAX), (u64::MAX, 0)] {
        let fetched = fetch_with(Config { spool_memory, spool_memory_total, ..config() }, {
            let file = file.clone();
            move |x| send_chunked(x, &file)
        });
        fetched.assert_whole(&file);
    }
}

#[test]
fn a_body_beyond_the_ceiling_is_refused() {
    let file = pattern(100_000);
    for spool_ceiling in [99_999, 100_000] {
        let fetched = fetch_with(Config { spool_ceiling, ..config() }, {
            let file = file.clone();
            move |x| send_chunked(x, &file)
        });
        if spool_ceiling == 100_000 {
            fetched.assert_whole(&file);
        } else {
            fetched.assert_failed("larger than 99999 bytes");
            assert_eq!(fetched.server.requests().len(), 1, "there is no use in trying again");
        }
    }
}

/// Without a disk, the second body would not fit if the first had left anything behind.
#[test]
fn memory_for_bodies_comes_back() {
    let file = pattern(100_000);
    let server = ScriptedOrigin::start({
        let file = file.clone();
        move |x| {
            send_chunked(x, &file);
            if x.request.target == "/broken" { After::Close } else { After::Keep }
        }
    });
    let limits = Config { spool_memory_total: 128 << 10, spool_disk_total: 0, ..config() };
    let origin = Origin::new(&server.url(), limits).expect("an origin");
    for path in ["/file", "/other", "/broken", "/file"] {
        let mut client = Collector::default();
        assert_eq!(origin.serve(path.as_bytes(), &mut client), Outcome::Sent(100_000), "{path}");
        assert!(client.body == file, "{path}");
    }
}

#[test]
fn bodies_that_are_kept_share_the_disk_and_give_it_back() {
    let file = pattern(100_000);
    let (tell, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let server = ScriptedOrigin::start({
        let file = file.clone();
        move |x| {
            x.send("HTTP/1.0 200 OK\r\n\r\n");
            x.send(&file);
            if x.request.target == "/first" {
                told.lock().unwrap().recv_timeout(Duration::from_secs(20)).expect("the others have been asked for");
            }
            After::Close
        }
    });
    let limits = Config { spool_memory_total: 0, spool_disk_total: 150_000, ..config() };
    let origin = Origin::new(&server.url(), limits).expect("an origin");
    let serve = |path: &str| origin.serve(path.as_bytes(), &mut Collector::default());
    thread::scope(|scope| {
        let first = scope.spawn(|| serve("/first"));
        // Whole, as long as the first has not taken its part.
        let refused = loop {
            match serve("/second") {
                Outcome::Sent(100_000) => thread::yield_now(),
                other => break other,
            }
        };
        assert!(matches!(&refused, Outcome::Failed(reason) if reason.contains("150000 bytes on disk")), "{refused:?}");
        tell.send(()).expect("the origin waits");
        assert_eq!(first.join().expect("no panic"), Outcome::Sent(100_000));
    });
    assert_eq!(serve("/third"), Outcome::Sent(100_000));
}

#[test]
fn encodings_are_not_asked_for_and_undone_if_they_come() {
    let file = pattern(50_000);
    let compressed = gzip(&file);
    for (path, fields, expected) in [
        ("/file", &["Content-Encoding: gzip"][..], Some(&file)),
        ("/file", &["Content-Encoding: x-gzip"], Some(&file)),
        ("/file", &["Content-Encoding: identity"], Some(&compressed)),
        ("/file", &["Content-Encoding: aws-chunked"], Some(&compressed)),
        ("/file", &["Content-Encoding: NONE, , Binary", "Content-Encoding: utf-8"], Some(&compressed)),
        ("/file", &["Content-Encoding:"], Some(&compressed)),
        ("/file", &["Content-Encoding: aws-chunked, gzip"], Some(&file)),
        // libcurl waits for the close here, which does not come.
        ("/file", &["Transfer-Encoding: identity"], Some(&compressed)),
        ("/file", &["Content-Encoding: gzip", "Transfer-Encoding: Identity"], Some(&file)),
        ("/file.gz", &[], Some(&compressed)),
        // Known by its name to be compressed: it is wanted as it is.
        ("/file.gz", &["Content-Encoding: gzip"], Some(&compressed)),
        ("/file", &["Content-Encoding: rot13"], None),
        ("/file", &["Content-Encoding: br"], None),
        ("/file", &["Content-Encoding: identity, zstd"], None),
        ("/file", &["Content-Encoding: deflate"], None),
    ] {
        let server = ScriptedOrigin::start({
            let (fields, compressed) = (fields.to_vec(), compressed.clone());
            move |x| x.answer("200 OK", &fields, &compressed)
        });
        let origin = Origin::new(&server.url(), config()).expect("an origin");
        // Twice, as a handle must forget what a path made of it.
        for path in [path, "/other", path] {
            let mut client = Collector::default();
            let outcome = origin.serve(path.as_bytes(), &mut client);
            match expected {
                Some(_) if path == "/other" => {}
                Some(body) => {
                    assert_eq!(outcome, Outcome::Sent(body.len() as u64), "{path} {fields:?}");
                    assert!(client.body == **body, "{path} {fields:?}");
                }
                None => assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}"),
            }
        }
        for request in server.requests() {
            assert_eq!(request.field("Accept-Encoding"), Some("identity"));
        }
    }
}

/// As above, where not even a byte tells libcurl's caller of the answer, or it is none.
#[test]
fn a_transfer_encoding_that_encodes_nothing_leaves_the_length() {
    for (status, body, expected) in [
        ("200 OK", "", Outcome::Sent(0)),
        ("204 No Content", "", Outcome::Sent(0)),
        ("404 Not Found", "page", Outcome::NotFound),
        ("404 Not Found", "", Outcome::NotFound),
        ("200 OK", "hello", Outcome::Sent(5)),
    ] {
        let server =
            ScriptedOrigin::start(move |x| x.answer(status, &["Transfer-Encoding: identity"], body.as_bytes()));
        let limits = Config { first_byte_timeout: Duration::from_secs(20), ..config() };
        let outcome = Origin::new(&server.url(), limits).expect("an origin").serve(b"/f", &mut Collector::default());
        assert_eq!(outcome, expected, "{status}");
    }
}

/// libcurl sees neither what is folded nor a field whose colon comes after a blank.
#[test]
fn a_field_that_can_be_read_in_two_ways_makes_no_file() {
    for (field, body) in [
        ("Content-Encoding:\r\n gzip", "compressed"),
        ("Content-Encoding: aws-chunked\r\n\t, gzip", "compressed"),
        ("Content-Encoding : gzip", "compressed"),
        ("Transfer-Encoding:\r\n chunked", "5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding : chunked", "5\r\nhello\r\n0\r\n\r\n"),
        ("Content-Length: 5\r\n 0", "hello"),
    ] {
        let fetched = fetch(move |x| {
            x.send(format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n{body}"));
            After::Close
        });
        fetched.assert_failed("folded");
    }
    let other_field = ["X-Other: a,\r\n b", "X-Third : c"];
    fetch(move |x| x.answer("200 OK", &other_field, b"hello")).assert_whole(b"hello");
}

#[test]
fn a_compressed_body_that_is_damaged_or_short_is_no_file() {
    let compressed = gzip(&pattern(50_000));
    for cut in [1, 8, compressed.len() / 2] {
        let fetched = fetch({
            let short = compressed[..compressed.len() - cut].to_vec();
            move |x| x.answer("200 OK", &["Content-Encoding: gzip"], &short)
        });
        fetched.assert_failed("");
    }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("gzip");
    let mut input = child.stdin.take().expect("a pipe");
    thread::scope(|scope| {
        scope.spawn(move || input.write_all(data).expect("gzip reads"));
        child.wait_with_output().expect("gzip").stdout
    })
}

fn send_chunked(x: &mut Exchange<'_>, file: &[u8]) -> After {
    x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in file.chunks(7_001) {
        x.send(format!("{:x}\r\n", chunk.len()));
        x.send(chunk);
        x.send("\r\n");
    }
    x.send("0\r\n\r\n");
    After::Keep
}
