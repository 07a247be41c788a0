//! results.json: every round, for other programs.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::goals::Goal;
use crate::measure::{Cell, Round, seconds};
use crate::plan::Run;
use crate::report::machine;

pub fn write(file: &Path, run: &Run, goals: &[Goal]) -> Result<(), String> {
    let value = json!({
        "machine": machine().into_iter().map(|(name, text)| (name.to_owned(), Value::from(text)))
            .collect::<serde_json::Map<_, _>>(),
        "quick": run.quick,
        "notes": run.notes,
        "goals": goals.iter().map(goal).collect::<Vec<_>>(),
        "cells": run.cells.iter().map(cell).collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&value).map_err(|e| e.to_string())? + "\n";
    let directory = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).and_then(|()| fs::write(file, text)).map_err(|e| format!("{}: {e}", file.display()))
}

fn goal(goal: &Goal) -> Value {
    json!({
        "what": goal.what,
        "against": goal.against,
        "wanted": goal.wanted,
        "at_most": goal.at_most,
        "measured": goal.measured,
        "met": goal.met(),
    })
}

fn cell(cell: &Cell) -> Value {
    let quantiles = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0];
    json!({
        "series": cell.series,
        "server": cell.server,
        "variant": cell.variant,
        "file_bytes": cell.size,
        "clients": cell.clients,
        "error": cell.rounds.as_ref().err(),
        "rounds": cell.rounds.as_ref().map(|rounds| rounds.iter().map(round).collect::<Vec<_>>()).unwrap_or_default(),
        "latency_seconds": quantiles.map(|quantile| json!([quantile, seconds(&cell.latencies, quantile)])),
        "resident_bytes": cell.resident,
        "system_calls_per_request": cell.system_calls,
    })
}

fn round(round: &Round) -> Value {
    json!({
        "requests_per_second": round.requests_per_second,
        "bytes_per_second": round.bytes_per_second,
        "p50_seconds": round.p50,
        "p99_seconds": round.p99,
        "cpu_seconds_per_gb": round.cpu_per_gb,
        "cpu_seconds_per_10000_requests": round.cpu_per_10k,
        "context_switches_per_request": round.switches_per_request,
    })
}
