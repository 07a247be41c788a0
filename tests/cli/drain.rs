//! The end of a webproxy under load: whoever has got the beginning of an answer gets all of it.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::fixture::{Cache, files};
use crate::load::{answers, is_whole, stops, under_load};
use crate::programs::{Program, program};
use crate::static_origin::StaticOrigin;

/// The first is one segment of TCP; the others stay in the sockets' buffers for a while when the handler is done.
const SIZES: [usize; 3] = [1, 300_000, 1_000_000];

#[test]
fn answers_that_have_begun_arrive() {
    let files = files(&SIZES);
    let answers = answers(&files);
    let cache = Cache::start("simplecached_noasan", &files);
    let origin = StaticOrigin::start(files);
    for round in 0..stops(64) {
        let mut webproxy = Command::new(program(["webproxy", "webproxy_noasan"][round / 2 % 2]));
        webproxy.args(["-p", "0", "-t", "6", "--drain-ms", "60000"]);
        match round % 2 {
            0 => webproxy.arg("-S").arg(cache.socket()),
            _ => webproxy.args(["-s", origin.url()]),
        };
        let mut webproxy = Program::start(&mut webproxy);
        // In another middle each round.
        let ended = under_load(webproxy.port(), &answers, 1 + round % 64, is_whole, || {
            webproxy.signal([Signal::SIGTERM, Signal::SIGINT][round / 4 % 2]);
            webproxy.wait()
        });
        assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "round {round}");
    }
}
