//! Who meets whom: the series of the benchmark.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::content::Content;
use crate::contestants::{Build, Channel, Place, Server};
use crate::load::{self, Paths, numbered};
use crate::measure::{self, Cell, Entrant, Group, Pace};

pub const KB: u64 = 1 << 10;
pub const MB: u64 = 1 << 20;

/// The series, as cells and tables name them.
pub const BY_SIZE: &str = "file size";
pub const BY_CLIENTS: &str = "clients";
pub const LIMITS: &str = "limits";
pub const RELAYS: &str = "limits of relays";
pub const BY_SEGMENT_SIZE: &str = "segment size";
pub const BY_SEGMENTS: &str = "segments";
pub const BY_CATALOG: &str = "catalog entries";
pub const TEN: &str = "10";
pub const TEN_OF_A_MILLION: &str = "1000000, the same ten asked for";
pub const MILLION: &str = "1000000, any asked for";
pub const THOUSAND: &str = "1000, any asked for";
pub const BY_PROXIES: &str = "proxies";
pub const BY_STALLED: &str = "stalled clients";

/// The contestants, as cells, tables and goals name them.
pub const PART1: &str = "gfproxy Part 1";
pub const PART2: &str = "gfproxy Part 2";
pub const BOUND: &str = "sendfile bound";
pub const RELAY_BOUND: &str = "libcurl bound";
pub const BARE: &str = "bare answer";
pub const NGINX_STATIC: &str = "nginx static";
pub const NGINX_CACHE: &str = "nginx proxy_cache";
pub const NGINX_PASS: &str = "nginx proxy_pass";
pub const VARNISH: &str = "Varnish";

/// The clients of every series that is not about their number.
pub const CLIENTS: usize = 8;

/// Clients of another proxy that read nothing.
pub const STALLED: usize = 64;

pub const SEGMENT_SIZES: [u32; 5] = [824, 5712, 65_536, 262_144, 1_048_576];
const SEGMENTS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];

/// What a run brought.
pub struct Run {
    pub cells: Vec<Cell>,
    /// What a reader of the figures must know: who could not take part, what could not be counted, what disturbed.
    pub notes: Vec<String>,
    pub quick: bool,
}

/// The name of a contestant of ours.
pub fn name(contestant: &str, build: &Build) -> String {
    match build.gfserver {
        "own" => contestant.to_owned(),
        other => format!("{contestant} ({other} gfserver)"),
    }
}

struct Plan<'a> {
    place: Place,
    builds: &'a [Build],
    files: Vec<Content>,
    /// Ten small files for the series that spread their requests.
    small: Vec<Content>,
    locals: PathBuf,
    pace: Pace,
    run: Run,
}

/// Runs all series.
pub fn run(builds: &[Build], quick: bool) -> Result<Run, String> {
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut plan = Plan::prepare(directory.path().to_owned(), builds, quick)?;
    plan.note_load();
    plan.everyone()?;
    plan.segments().unwrap_or_else(|error| plan.miss(error));
    plan.growth().unwrap_or_else(|error| plan.miss(error));
    plan.stalled().unwrap_or_else(|error| plan.miss(error));
    Ok(plan.run)
}

impl<'a> Plan<'a> {
    fn prepare(directory: PathBuf, builds: &'a [Build], quick: bool) -> Result<Self, String> {
        let place = Place { files: directory.join("files"), scratch: directory };
        let sizes: &[u64] = if quick { &[KB, MB, 16 * MB] } else { &[KB, 64 * KB, MB, 16 * MB, 256 * MB] };
        let files: Vec<_> = sizes.iter().map(|&size| Content::new(format!("/{size}.bin"), size, size)).collect();
        let small: Vec<_> = (0..10).map(|index| Content::new(format!("/small{index}.bin"), KB, 7 + index)).collect();
        let mut catalog = String::new();
        for file in files.iter().chain(&small) {
            file.write(&place.files).map_err(|e| format!("{}: {e}", place.files.display()))?;
            writeln!(catalog, "{0} {1}{0}", file.path, place.files.display()).expect("a string takes all");
        }
        let locals = place.scratch.join("locals.txt");
        fs::write(&locals, catalog).map_err(|e| e.to_string())?;
        let milliseconds = Duration::from_millis;
        let pace = match quick {
            true => Pace { rounds: 3, warmup: milliseconds(50), duration: milliseconds(200) },
            false => Pace { rounds: 5, warmup: milliseconds(150), duration: milliseconds(600) },
        };
        let run = Run { cells: Vec::new(), notes: Vec::new(), quick };
        Ok(Self { place, builds, files, small, locals, pace, run })
    }

    /// The pace for files of `size`: large ones need longer for a few whole ones.
    fn pace(&self, size: u64) -> Pace {
        match size {
            _ if size >= 256 * MB => Pace { rounds: 3, warmup: self.pace.warmup * 2, duration: Duration::from_secs(2) },
            _ if size >= 16 * MB => Pace { duration: self.pace.duration * 3 / 2, ..self.pace },
            _ => self.pace,
        }
    }

    fn file(&self, size: u64) -> &Content {
        self.files.iter().find(|file| file.len == size).expect("a size of this run")
    }

    fn record(&mut self, cells: Vec<Cell>) {
        measure::announce(&cells);
        self.run.cells.extend(cells);
    }

    /// Keeps a server that started; one that did not is told and goes missing.
    fn keep(&mut self, server: Result<Server, String>) -> Option<Server> {
        server.map_err(|error| self.miss(error)).ok()
    }

    fn note(&mut self, note: String) {
        eprintln!("{note}");
        self.run.notes.push(note);
    }

    fn miss(&mut self, reason: String) {
        self.note(format!("missing: {reason}"));
    }

    /// A machine that is busy with something else measures that too.
    fn note_load(&mut self) {
        let averages = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let of_last_minute = averages.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
        if of_last_minute > 0.5 {
            self.note(format!("the machine was busy before the run: its load average was {of_last_minute:.1}"));
        }
    }

    /// All contestants: by file size, and by number of clients.
    fn everyone(&mut self) -> Result<(), String> {
        let origin = self.place.nginx_static(NGINX_STATIC)?;
        let port = origin.ports[0];
        let mut servers = Vec::new();
        for build in self.builds {
            let part2 = self.place.part2(&name(PART2, build), build, &self.locals, Channel::DEFAULT);
            servers.extend(self.keep(part2));
            servers.extend(self.keep(self.place.bound(&name(BOUND, build), build)));
        }
        servers.push(origin);
        servers.extend(self.keep(self.place.nginx_cache(NGINX_CACHE, port)));
        servers.extend(self.keep(self.place.varnish(VARNISH, port)));
        for build in self.builds {
            servers.extend(self.keep(self.place.part1(&name(PART1, build), build, port)));
        }
        servers.extend(self.keep(self.place.nginx_pass(NGINX_PASS, port)));

        let sizes: Vec<u64> = self.files.iter().map(|file| file.len).collect();
        for &size in &sizes {
            println!("By {BY_SIZE}: {}", crate::report::size(size));
            self.all(BY_SIZE, size, CLIENTS, &servers, true);
        }
        self.limits(&servers);
        self.relays(&servers, port);
        let client_numbers: &[usize] = if self.run.quick { &[64] } else { &[1, 64] };
        let sizes: Vec<u64> = match self.run.quick {
            true => vec![KB],
            false => sizes.into_iter().filter(|&size| size <= 16 * MB).collect(),
        };
        for &clients in client_numbers {
            for &size in &sizes {
                println!("By number of {BY_CLIENTS}: {clients}, {}", crate::report::size(size));
                self.all(BY_CLIENTS, size, clients, &servers, false);
            }
        }
        Ok(())
    }

    /// How near the rate of small files comes to what a server without any work could do.
    fn limits(&mut self, servers: &[Server]) {
        println!("{LIMITS} at {}", crate::report::size(KB));
        let build = &self.builds[0];
        let bare = self.keep(self.place.bare(BARE, build));
        let entrant = |server, variant: &str| Entrant { server, variant: variant.to_owned() };
        let mut entrants: Vec<_> = bare.iter().map(|server| entrant(server, "")).collect();
        let others = servers.iter().filter(|server| {
            [PART2, NGINX_STATIC, NGINX_CACHE, VARNISH].contains(&&*server.name) || server.name.starts_with(BOUND)
        });
        entrants.extend(others.map(|server| entrant(server, "")));
        let paths = Paths::One(self.file(KB));
        let group = Group { series: LIMITS, paths, size: KB, clients: CLIENTS, entrants };
        let cells = measure::group(&group, self.pace(KB));
        self.record(cells);
    }

    /// What libcurl leaves to a relay.
    fn relays(&mut self, servers: &[Server], origin: u16) {
        let bound = self.keep(self.place.relay_bound(RELAY_BOUND, &self.builds[0], origin));
        let others = servers.iter().filter(|server| [PART1, NGINX_PASS].contains(&&*server.name));
        let servers: Vec<&Server> = bound.iter().chain(others).collect();
        for size in [KB, MB, 16 * MB] {
            println!("{RELAYS} at {}", crate::report::size(size));
            let entrants = servers.iter().map(|&server| Entrant { server, variant: String::new() }).collect();
            let group = Group { series: RELAYS, paths: Paths::One(self.file(size)), size, clients: CLIENTS, entrants };
            let cells = measure::group(&group, self.pace(size));
            self.record(cells);
        }
    }

    fn all(&mut self, series: &'static str, size: u64, clients: usize, servers: &[Server], count: bool) {
        let entrants = servers.iter().map(|server| Entrant { server, variant: String::new() }).collect();
        let paths = Paths::One(self.file(size));
        let group = Group { series, paths, size, clients, entrants };
        let mut cells = measure::group(&group, self.pace(size));
        let counted = match count && [KB, MB].contains(&size) {
            true => measure::count_system_calls(&group, &mut cells, &self.place.scratch),
            false => Ok(()),
        };
        self.record(cells);
        if let Err(error) = counted {
            self.miss(format!("system calls: {error}"));
        }
    }

    /// Part 2 by size and by number of its segments, beside the bound.
    fn segments(&mut self) -> Result<(), String> {
        let segment_sizes =
            SEGMENT_SIZES.map(|size| Channel { segments: Some(8), segment_size: Some(size), ..Channel::DEFAULT });
        let numbers = SEGMENTS.map(|number| Channel { segments: Some(number), ..Channel::DEFAULT });
        for build in self.builds {
            let sizes: &[u64] = if self.run.quick { &[MB] } else { &[MB, 16 * MB] };
            self.channels(BY_SEGMENT_SIZE, build, &segment_sizes, sizes)?;
        }
        if !self.run.quick {
            self.channels(BY_SEGMENTS, &self.builds[0], &numbers, &[MB])?;
        }
        Ok(())
    }

    fn channels(
        &mut self,
        series: &'static str,
        build: &Build,
        channels: &[Channel],
        sizes: &[u64],
    ) -> Result<(), String> {
        let bound = self.place.bound(&name(BOUND, build), build)?;
        let mut servers = Vec::new();
        for &channel in channels {
            let variant = match series {
                BY_SEGMENTS => format!("-n {}", channel.segments.unwrap_or_default()),
                _ => format!("-z {}", channel.segment_size.unwrap_or_default()),
            };
            servers.push((self.place.part2(&name(PART2, build), build, &self.locals, channel)?, variant));
        }
        for &size in sizes {
            println!("By {series}: {}", crate::report::size(size));
            let mut entrants: Vec<_> =
                servers.iter().map(|(server, variant)| Entrant { server, variant: variant.clone() }).collect();
            entrants.push(Entrant { server: &bound, variant: String::new() });
            let paths = Paths::One(self.file(size));
            let group = Group { series, paths, size, clients: CLIENTS, entrants };
            let cells = measure::group(&group, self.pace(size));
            self.record(cells);
        }
        Ok(())
    }

    /// What a large catalog and many proxies cost Part 2.
    fn growth(&mut self) -> Result<(), String> {
        let build = &self.builds[0];
        let label = name(PART2, build);
        let mut catalogs = Vec::new();
        for count in [10_u64, 1000, 1_000_000] {
            let locals = self.place.scratch.join(format!("locals-{count}.txt"));
            let directory = self.place.files.display().to_string();
            let mut text = String::new();
            for number in 0..count {
                let file = &self.small[(number % self.small.len() as u64) as usize].path;
                writeln!(text, "{} {directory}{file}", numbered(number)).expect("a string takes all");
            }
            fs::write(&locals, text).map_err(|e| e.to_string())?;
            catalogs.push(self.place.part2(&label, build, &locals, Channel::DEFAULT)?);
        }
        println!("By {BY_CATALOG}");
        let [ten, thousand, million] = catalogs.as_slice() else { unreachable!("three were started") };
        // Ten files stay in the proxy's segments, more than 32 do not: what the table alone costs shows where the same
        // ten are asked for, and between a thousand and a million.
        let loads = [
            (TEN, ten, 10),
            (TEN_OF_A_MILLION, million, 10),
            (THOUSAND, thousand, 1000),
            (MILLION, million, 1_000_000),
        ];
        // Each has its own keys, so each is a group of its own; the rounds alternate all the same.
        let pace = Pace { rounds: 1, ..self.pace };
        let mut cells: Vec<Cell> = Vec::new();
        for round in 0..self.pace.rounds {
            for (index, &(variant, server, count)) in loads.iter().enumerate() {
                let entrants = vec![Entrant { server, variant: variant.to_owned() }];
                let paths = Paths::Numbered { count, files: &self.small };
                let group = Group { series: BY_CATALOG, paths, size: KB, clients: CLIENTS, entrants };
                let more = measure::group(&group, pace);
                match round {
                    0 => cells.extend(more),
                    _ => more.into_iter().for_each(|cell| cells[index].join(cell)),
                }
            }
        }
        self.record(cells);
        drop(catalogs);

        let one = self.place.part2(&label, build, &self.locals, Channel::DEFAULT)?;
        let many = self.place.part2(&label, build, &self.locals, Channel { proxies: 64, ..Channel::DEFAULT })?;
        // What 64 processes cost where they share nothing: small files show it.
        let bound = self.place.bounds(&name(BOUND, build), build, 1)?;
        let bounds = self.place.bounds(&name(BOUND, build), build, 64)?;
        for size in [KB, MB] {
            println!("By number of {BY_PROXIES}: {}", crate::report::size(size));
            let mut servers = vec![(&one, "1"), (&many, "64")];
            if size == KB {
                servers.extend([(&bound, "1"), (&bounds, "64")]);
            }
            let entrants =
                servers.into_iter().map(|(server, variant)| Entrant { server, variant: variant.to_owned() }).collect();
            let paths = Paths::One(self.file(size));
            let group = Group { series: BY_PROXIES, paths, size, clients: 64, entrants };
            let cells = measure::group(&group, self.pace(size));
            self.record(cells);
        }
        Ok(())
    }

    /// What it costs a proxy that clients of another one on the same daemon read nothing.
    fn stalled(&mut self) -> Result<(), String> {
        let build = &self.builds[0];
        let channel = Channel { proxies: 2, threads: Some((STALLED as u32, 4)), ..Channel::DEFAULT };
        let mut server = self.place.part2(&name(PART2, build), build, &self.locals, channel)?;
        let other = server.ports.remove(0);
        let large = self.files.last().expect("files of several sizes");
        println!("By number of {BY_STALLED} of another proxy");
        let pace = Pace { rounds: 1, ..self.pace };
        let mut cells: Vec<Cell> = Vec::new();
        for round in 0..2 * self.pace.rounds {
            for (index, count) in [0, STALLED].into_iter().enumerate() {
                let stalled = load::stall(server.protocol, other, &large.path, count)?;
                let entrants = vec![Entrant { server: &server, variant: count.to_string() }];
                let paths = Paths::One(self.file(MB));
                let group = Group { series: BY_STALLED, paths, size: MB, clients: CLIENTS, entrants };
                let more = measure::group(&group, pace);
                match round {
                    0 => cells.extend(more),
                    _ => more.into_iter().for_each(|cell| cells[index].join(cell)),
                }
                drop(stalled);
            }
        }
        self.record(cells);
        Ok(())
    }
}
