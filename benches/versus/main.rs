//! `make bench`: gfproxy against the limit of its own server, nginx and Varnish, on loopback, in one run.
//!
//! One client (`load`) asks all servers (`contestants`) in turn, over one connection a request, and checks every byte.
//! `plan` says who meets whom, `measure` runs the rounds, `cost` reads what the servers used, `goals` compares,
//! `report`, `svg` and `results` write it down.

mod content;
mod contestants;
mod cost;
mod goals;
mod load;
mod measure;
mod plan;
mod process;
mod report;
mod results;
mod svg;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use crate::contestants::Build;

/// Compare gfproxy with its own limit, nginx and Varnish. `make bench` builds everything and calls this.
#[derive(Parser)]
struct Options {
    /// Fewer sizes, clients and rounds: under two minutes, less certain
    #[arg(long)]
    quick: bool,

    /// Write docs/performance.md and docs/performance/*.svg below this directory
    #[arg(long, default_value = ".")]
    output: PathBuf,

    /// Write every round to this file
    #[arg(long, value_name = "FILE")]
    results: PathBuf,

    /// Where make put webproxy_noasan, simplecached_noasan, sendfile, relay and bare, linked with our gfserver
    #[arg(long, value_name = "DIR")]
    own: PathBuf,

    /// The same, linked with a provided gfserver_noasan.o
    #[arg(long, value_name = "DIR")]
    provided: Option<PathBuf>,

    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether every contestant that could be started served every byte right. Goals that were missed are figures
/// for people, not failures.
fn run(options: &Options) -> Result<bool, String> {
    let start = Instant::now();
    let mut builds = vec![Build { gfserver: "own", programs: options.own.clone() }];
    builds.extend(options.provided.clone().map(|programs| Build { gfserver: "provided", programs }));
    let run = plan::run(&builds, options.quick)?;
    let goals = goals::check(&run.cells);
    print!("{}", report::goals(&goals));
    results::write(&options.results, &run, &goals)?;
    report::write(&options.output, &run, &goals)?;
    println!("{:.0} s in all; every round in {}", start.elapsed().as_secs_f64(), options.results.display());
    Ok(run.cells.iter().all(|cell| cell.rounds.is_ok()))
}
