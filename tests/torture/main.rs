//! Torture: files that say what they are, an origin and a disk that change and fail as a seed says, processes that are
//! killed and stopped, and clients that check every byte. `make torture TIME=600 SEED=7` runs it for longer.

#[path = "../common/fixture.rs"]
mod fixture;
#[path = "../common/library.rs"]
mod library;
#[path = "../common/pair.rs"]
mod pair;
#[path = "../common/procfs.rs"]
mod procfs;
#[path = "../common/programs.rs"]
mod programs;
#[path = "../origin/support/scripted.rs"]
mod scripted;

mod acts;
mod client;
mod disk;
mod house;
mod ledger;
mod origin;
mod schedule;
mod stream;

use std::env;
use std::io::{self, Write};
use std::time::Duration;

use schedule::Run;

/// How long it runs in `make test`.
const SECONDS: u64 = 60;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().filter(|text| !text.is_empty()).map(|text| text.parse().expect(variable))
}

#[test]
fn every_download_is_a_version_of_its_file_or_visibly_none() {
    if !programs::has_own_gfserver() {
        // Not println: of a test that passes nobody would see it.
        let _ = writeln!(io::stderr(), "SKIPPED torture: a provided gfserver has faults of its own");
        return;
    }
    let seed = number("GFPROXY_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let seconds = number("GFPROXY_TORTURE_SECONDS").unwrap_or(SECONDS);
    println!("make torture SEED={seed} TIME={seconds}");
    let failure = Run::new(seed).go(Duration::from_secs(seconds));
    assert!(failure.is_none(), "make torture SEED={seed} TIME={seconds}\n{}", failure.unwrap_or_default());
}
