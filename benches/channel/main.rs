//! The bare channel between two processes against two bounds, all in one run and in turns:
//!
//! - *latency*: a chunk from the server's pread(2) into the client's hands, with one segment, so that each side waits
//!   for the other; the bound is two processes that hand the same bytes over with a futex and nothing else.
//! - *throughput*: a file with 8 segments; the bound is memcpy of the same bytes into a buffer of the segment's size.
//!   The client passes the chunks on as they are, as webproxy does, or copies them out, which is a second copy of every
//!   byte.
//!
//! `make bench-channel`, or `cargo bench --bench channel` with or without the sizes to measure. The files lie in
//! TMPDIR, and with that in the page cache. Not in /dev/shm: where tmpfs has no huge pages, pread(2) from it has half
//! the speed.

mod bounds;
mod served;

use std::env;
use std::time::Duration;

use served::{Served, Use};

const SIZES: [u32; 5] = [824, 5712, 65536, 262_144, 1_048_576];
const ROUNDS: usize = 7;
/// Bytes of a file for throughput: more than the caches hold.
const LARGE: usize = 256 << 20;
/// Chunks of a file for latency, at most so many bytes.
const TURNS: usize = 4000;
const TURNS_BYTES: usize = 128 << 20;

fn main() {
    let arguments: Vec<String> = env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "serve", socket, directory] => served::serve(socket.as_ref(), directory.as_ref()),
        [_, "answer", area, file] => bounds::answer(area.as_ref(), file.as_ref()),
        [_, ref sizes @ ..] => measure(&selected(sizes)),
        [] => measure(&SIZES),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Microseconds for each of `turns`.
fn each(elapsed: Duration, turns: usize) -> f64 {
    elapsed.as_secs_f64() * 1e6 / turns as f64
}

fn gb_per_s(elapsed: Duration) -> f64 {
    LARGE as f64 / elapsed.as_secs_f64() / 1e9
}

/// The sizes among the arguments (cargo adds options of its own), or all.
fn selected(arguments: &[&str]) -> Vec<u32> {
    let sizes: Vec<u32> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    if sizes.is_empty() { SIZES.to_vec() } else { sizes }
}

fn measure(sizes: &[u32]) {
    println!("medians of {ROUNDS} rounds, contestants in turns; latency one way in us, throughput in GB/s\n");
    println!("| z | channel us | futex us | ratio | passed on GB/s | copied out GB/s | memcpy GB/s | ratio | ratio |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for &size in sizes {
        let turns = TURNS.min(TURNS_BYTES / size as usize);
        let served = Served::start(size, turns * size as usize, LARGE);
        let mut figures: [Vec<f64>; 5] = Default::default();
        for _ in 0..ROUNDS {
            // A turn is two hand-offs: the chunk's and its release.
            figures[0].push(each(served.turns(), 2 * turns));
            figures[1].push(each(served.futex_turns(turns), 2 * turns));
            figures[2].push(gb_per_s(served.stream(Use::PassOn)));
            figures[3].push(gb_per_s(served.stream(Use::CopyOut)));
            figures[4].push(gb_per_s(served.memcpy()));
        }
        let [channel, futex, passed, copied, memcpy] = figures.map(median);
        println!(
            "| {size} | {channel:.2} | {futex:.2} | {:.2} | {passed:.2} | {copied:.2} | {memcpy:.2} | {:.2} | {:.2} |",
            channel / futex,
            passed / memcpy,
            copied / memcpy
        );
    }
}
