//! What `docs/reference/metrics.md` and the dashboard name is what the programs serve.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::pair::Pair;
use crate::programs::program;
use crate::scrape::{address, text};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// All words that are names of metrics.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_name = |word: &&str| {
        ["gfproxy_", "simplecached_", "process_"]
            .iter()
            .any(|prefix| word.starts_with(prefix) && word.len() > prefix.len())
    };
    words.filter(is_name).map(str::to_owned).collect()
}

/// The names of both programs.
fn served() -> BTreeSet<String> {
    let command = |name: &str| {
        let mut command = Command::new(program(name));
        command.args(["-v", "--metrics", "127.0.0.1:0"]);
        command
    };
    let directory = tempfile::tempdir().expect("a directory");
    let mut pair = Pair::start_with(directory, "", command("simplecached_noasan"), command("webproxy_noasan"));
    let texts = [text(&address(&mut pair.daemon)), text(&address(&mut pair.proxy))].concat();
    let names = texts.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn the_list_of_metrics_is_complete() {
    assert_eq!(names(&read("docs/reference/metrics.md")), served());
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana-dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let served = served();
    let mut asked = BTreeSet::new();
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            asked.append(&mut names(target["expr"].as_str().expect("an expression")));
        }
    }
    assert!(asked.len() > 15, "{asked:?}");
    for name in asked {
        let family = name.trim_end_matches("_bucket").trim_end_matches("_count").trim_end_matches("_sum");
        assert!(served.contains(family), "{name} is not served");
    }
}
