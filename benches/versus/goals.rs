//! The goals, each a ratio between two contestants of this run.

use crate::measure::{Cell, Round};
use crate::plan::*;

/// One goal and how the run stands to it.
pub struct Goal {
    /// What is compared.
    pub what: &'static str,
    /// With whom.
    pub against: &'static str,
    /// The ratio that is wanted.
    pub wanted: f64,
    /// Whether `wanted` is a most and not a least.
    pub at_most: bool,
    /// The ratio that was measured, unless one of the two is missing.
    pub measured: Option<f64>,
}

impl Goal {
    /// Whether the goal was met; `None` where it was not measured.
    pub fn met(&self) -> Option<bool> {
        self.measured.map(|ratio| if self.at_most { ratio <= self.wanted } else { ratio >= self.wanted })
    }
}

type Figure = fn(&Round) -> f64;

/// Where a figure stands: series, contestant, variant, file size, clients.
type Key<'a> = (&'static str, &'a str, &'a str, u64, usize);

/// Compares the run with all goals.
pub fn check(cells: &[Cell]) -> Vec<Goal> {
    let requests: Figure = |round| round.requests_per_second;
    let bytes: Figure = |round| round.bytes_per_second;
    let p99: Figure = |round| round.p99;
    let cpu: Figure = |round| round.cpu_per_gb;

    let ratio = |ours, theirs, figure| Some(find(cells, ours)?.median(figure)? / find(cells, theirs)?.median(figure)?);
    let goal = |what, against, wanted, at_most, (ours, theirs), figure| {
        let measured = ratio(ours, theirs, figure);
        Goal { what, against, wanted, at_most, measured }
    };
    let at_least = |wanted, what, figure, against, keys| goal(what, against, wanted, false, keys, figure);
    let at_most = |wanted, what, figure, against, keys| goal(what, against, wanted, true, keys, figure);
    let by_size = |ours, theirs, size| ((BY_SIZE, ours, "", size, CLIENTS), (BY_SIZE, theirs, "", size, CLIENTS));
    let provided_bound = format!("{BOUND} (provided gfserver)");
    let limit = |server| (LIMITS, server, "", KB, CLIENTS);
    let segment_size = |server, variant| (BY_SEGMENT_SIZE, server, variant, MB, CLIENTS);
    let catalog = |entries| (BY_CATALOG, PART2, entries, KB, CLIENTS);
    let stalled = |number| (BY_STALLED, PART2, number, MB, CLIENTS);
    let proxies = |number, size| (BY_PROXIES, PART2, number, size, 64);

    vec![
        at_least(0.95, "Part 2, 1 MB, MB/s", bytes, BOUND, by_size(PART2, BOUND, MB)),
        at_least(0.95, "Part 2, 16 MB, MB/s", bytes, BOUND, by_size(PART2, BOUND, 16 * MB)),
        at_least(1.0, "Part 2, 1 MB, MB/s", bytes, VARNISH, by_size(PART2, VARNISH, MB)),
        at_least(1.0, "Part 2, 16 MB, MB/s", bytes, VARNISH, by_size(PART2, VARNISH, 16 * MB)),
        at_least(1.3, "Part 2, 1 MB, MB/s", bytes, NGINX_CACHE, by_size(PART2, NGINX_CACHE, MB)),
        at_least(1.3, "Part 2, 16 MB, MB/s", bytes, NGINX_CACHE, by_size(PART2, NGINX_CACHE, 16 * MB)),
        at_least(1.2, "Part 2, 1 KB, requests/s", requests, VARNISH, (limit(PART2), limit(VARNISH))),
        at_least(1.0, "Part 2, 1 KB, requests/s", requests, NGINX_CACHE, (limit(PART2), limit(NGINX_CACHE))),
        at_least(
            0.25,
            "Part 2, 1 MB, -z 5712 -n 8, MB/s",
            bytes,
            BOUND,
            (segment_size(PART2, "-z 5712"), segment_size(BOUND, "")),
        ),
        at_most(1.5, "Part 2, 1 KB, p99", p99, NGINX_CACHE, by_size(PART2, NGINX_CACHE, KB)),
        at_most(1.3, "Part 2, 1 MB, CPU seconds per GB", cpu, VARNISH, by_size(PART2, VARNISH, MB)),
        at_least(1.0, "Part 1, 1 KB, requests/s", requests, NGINX_PASS, by_size(PART1, NGINX_PASS, KB)),
        at_least(1.3, "Part 1, 1 MB, MB/s", bytes, NGINX_PASS, by_size(PART1, NGINX_PASS, MB)),
        at_least(1.3, "Part 1, 16 MB, MB/s", bytes, NGINX_PASS, by_size(PART1, NGINX_PASS, 16 * MB)),
        at_least(1.0, "our gfserver, 1 KB, requests/s", requests, NGINX_STATIC, by_size(BOUND, NGINX_STATIC, KB)),
        at_least(
            1.6,
            "our gfserver, 1 KB, requests/s",
            requests,
            "the provided gfserver",
            by_size(BOUND, &provided_bound, KB),
        ),
        at_least(
            0.97,
            "Part 2, a million catalog entries, the same ten asked for, 1 KB, requests/s",
            requests,
            "ten entries",
            (catalog(TEN_OF_A_MILLION), catalog(TEN)),
        ),
        at_least(
            0.97,
            "Part 2, a million catalog entries, any asked for, 1 KB, requests/s",
            requests,
            "ten entries",
            (catalog(MILLION), catalog(TEN)),
        ),
        at_least(
            0.97,
            "Part 2, a million catalog entries, any asked for, 1 KB, requests/s",
            requests,
            "a thousand entries, any asked for",
            (catalog(MILLION), catalog(THOUSAND)),
        ),
        at_least(
            0.8,
            "Part 2, 64 proxies x 1 client, 1 KB, requests/s",
            requests,
            "1 proxy x 64 clients",
            (proxies("64", KB), proxies("1", KB)),
        ),
        at_least(
            0.8,
            "Part 2, 64 proxies x 1 client, 1 MB, MB/s",
            bytes,
            "1 proxy x 64 clients",
            (proxies("64", MB), proxies("1", MB)),
        ),
        at_least(
            0.9,
            "Part 2, 1 MB, beside a proxy whose 64 clients stall, MB/s",
            bytes,
            "beside an idle one",
            (stalled("64"), stalled("0")),
        ),
    ]
}

/// The cell that stands at `key`.
pub fn find<'c>(cells: &'c [Cell], (series, server, variant, size, clients): Key<'_>) -> Option<&'c Cell> {
    cells.iter().find(|cell| {
        cell.series == series
            && cell.server == server
            && cell.variant == variant
            && cell.size == size
            && cell.clients == clients
    })
}
