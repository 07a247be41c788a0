//! Runs contestants in turn, several rounds, and keeps what each round showed.

use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::contestants::Server;
use crate::cost::{SystemCalls, Usage, resident};
use crate::load::{self, Load, Paths, Sample};

/// How long and how often everything is measured.
#[derive(Clone, Copy)]
pub struct Pace {
    pub rounds: usize,
    pub warmup: Duration,
    pub duration: Duration,
}

/// Servers that are compared under one load.
pub struct Group<'a> {
    /// The series that the group belongs to: `file size`, `clients`, ...
    pub series: &'static str,
    /// What is asked of all: a file of so many bytes, by so many clients.
    pub paths: Paths<'a>,
    pub size: u64,
    pub clients: usize,
    pub entrants: Vec<Entrant<'a>>,
}

/// One server of a group.
pub struct Entrant<'a> {
    pub server: &'a Server,
    /// What distinguishes it from others of the same name, such as its segment size; otherwise empty.
    pub variant: String,
}

/// What one entrant showed under one load.
pub struct Cell {
    pub series: &'static str,
    pub server: String,
    pub variant: String,
    pub size: u64,
    pub clients: usize,
    /// The rounds, or why there are none.
    pub rounds: Result<Vec<Round>, String>,
    /// The latencies of all rounds.
    pub latencies: Histogram<u64>,
    /// Resident bytes of the serving processes after the last round.
    pub resident: u64,
    /// System calls in one request, where they were counted.
    pub system_calls: Option<f64>,
}

/// One round. A latency is not a number where no request began and ended within it.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub requests_per_second: f64,
    pub bytes_per_second: f64,
    pub p50: f64,
    pub p99: f64,
    /// CPU seconds of the serving processes in 10^9 bytes, and in 10,000 requests.
    pub cpu_per_gb: f64,
    pub cpu_per_10k: f64,
    pub switches_per_request: f64,
}

impl Cell {
    /// Takes up the rounds of `later`, which is the same entrant under the same load.
    pub fn join(&mut self, later: Self) {
        match (&mut self.rounds, later.rounds) {
            (Ok(rounds), Ok(more)) => rounds.extend(more),
            (rounds, Err(error)) => *rounds = Err(error),
            (Err(_), Ok(_)) => (),
        }
        self.latencies.add(&later.latencies).expect("histograms of the same bounds");
        self.resident = later.resident;
    }

    fn fail(&mut self, error: String) {
        eprintln!("  {} {}: FAILED: {error}", self.server, self.variant);
        self.rounds = Err(error);
    }

    /// The median over the rounds of one of their figures.
    pub fn median(&self, figure: impl Fn(&Round) -> f64) -> Option<f64> {
        let mut values: Vec<f64> = self.rounds.as_ref().ok()?.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        Some(if values.len().is_multiple_of(2) { (values[middle - 1] + upper) / 2.0 } else { upper })
    }
}

/// Measures every entrant of `group`. The order turns round from round to round, so that nobody is always first.
pub fn group(group: &Group<'_>, pace: Pace) -> Vec<Cell> {
    let load = Load { paths: group.paths, clients: group.clients, warmup: pace.warmup, duration: pace.duration };
    let mut cells: Vec<Cell> = group.entrants.iter().map(|entrant| blank(group, entrant)).collect();
    for (cell, entrant) in cells.iter_mut().zip(&group.entrants) {
        if let Paths::One(file) = group.paths {
            // Fills what has a cache, and finds out early who cannot serve this file at all.
            let filled = load::fetch_once(entrant.server.protocol, entrant.server.ports[0], &file.path, file);
            filled.unwrap_or_else(|error| cell.fail(error));
        }
    }
    for round in 0..pace.rounds {
        let mut order: Vec<usize> = (0..cells.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let server = group.entrants[index].server;
            let cell = &mut cells[index];
            let Ok(rounds) = &mut cell.rounds else { continue };
            match one_round(server, &load, group.size) {
                Ok((round, sample)) => {
                    rounds.push(round);
                    cell.latencies.add(&sample.latencies).expect("histograms of the same bounds");
                }
                Err(error) => cell.fail(error),
            }
        }
    }
    for (cell, entrant) in cells.iter_mut().zip(&group.entrants) {
        cell.resident = resident(&entrant.server.processes());
    }
    cells
}

fn one_round(server: &Server, load: &Load<'_>, size: u64) -> Result<(Round, Sample), String> {
    let processes = server.processes();
    let mut usages = Vec::with_capacity(2);
    let sample = load::run(server.protocol, &server.ports, load, || usages.push(Usage::of(&processes)))?;
    let used = usages[1].since(usages[0]);
    let requests = sample.bytes as f64 / size as f64;
    let round = Round {
        requests_per_second: requests / sample.seconds,
        bytes_per_second: sample.bytes as f64 / sample.seconds,
        p50: seconds(&sample.latencies, 0.5),
        p99: seconds(&sample.latencies, 0.99),
        cpu_per_gb: used.cpu_seconds / (sample.bytes as f64 / 1e9),
        cpu_per_10k: used.cpu_seconds / (requests / 1e4),
        switches_per_request: used.context_switches as f64 / requests,
    };
    if sample.bytes == 0 {
        return Err("nothing was served within the time".to_owned());
    }
    Ok((round, sample))
}

/// Counts the system calls of each entrant's requests, in runs of their own: counting slows a server down.
pub fn count_system_calls(group: &Group<'_>, cells: &mut [Cell], directory: &Path) -> Result<(), String> {
    let duration = Duration::from_millis(500);
    let load = Load { paths: group.paths, clients: group.clients, warmup: Duration::ZERO, duration };
    for (entrant, cell) in group.entrants.iter().zip(cells) {
        let counter = SystemCalls::count(&entrant.server.processes(), directory)?;
        let sample = load::run(entrant.server.protocol, &entrant.server.ports, &load, || ());
        let calls = counter.total()?;
        cell.system_calls = Some(calls as f64 / (sample?.bytes as f64 / group.size as f64));
    }
    Ok(())
}

fn blank(group: &Group<'_>, entrant: &Entrant<'_>) -> Cell {
    Cell {
        series: group.series,
        server: entrant.server.name.clone(),
        variant: entrant.variant.clone(),
        size: group.size,
        clients: group.clients,
        rounds: Ok(Vec::new()),
        latencies: load::histogram(),
        resident: 0,
        system_calls: None,
    }
}

/// A quantile of the latencies, in seconds.
pub fn seconds(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    if latencies.is_empty() { f64::NAN } else { latencies.value_at_quantile(quantile) as f64 / 1e9 }
}

/// Tells whoever waits how the entrants of a group did.
pub fn announce(cells: &[Cell]) {
    for cell in cells {
        let Some(requests) = cell.median(|round| round.requests_per_second) else { continue };
        let megabytes = cell.median(|round| round.bytes_per_second).unwrap_or_default() / 1e6;
        let name = format!("{} {}", cell.server, cell.variant);
        println!("  {name:<46} {requests:>10.1} requests/s {megabytes:>8.1} MB/s");
    }
}
