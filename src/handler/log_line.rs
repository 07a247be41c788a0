//! The line that each request leaves in the log, at level info; at warn, if the proxy failed it.

use std::time::Duration;

use log::{Level, log_enabled};

use super::Connection;
use crate::reply::Outcome;

pub(super) fn write(connection: &dyn Connection, path: &[u8], outcome: &Outcome, took: Duration, via: &str) {
    let level = match outcome {
        Outcome::Sent(_) | Outcome::NotFound => Level::Info,
        Outcome::Failed(_) | Outcome::Cut(_) => Level::Warn,
    };
    if !log_enabled!(target: "gfproxy::request", level) {
        return;
    }
    let (status, bytes, reason) = match outcome {
        Outcome::Sent(bytes) => ("OK", *bytes, ""),
        Outcome::NotFound => ("FILE_NOT_FOUND", 0, ""),
        Outcome::Failed(reason) => ("ERROR", 0, reason.as_str()),
        Outcome::Cut(reason) => ("CUT", 0, reason.as_str()),
    };
    let (path, peer) = (path.escape_ascii(), connection.peer());
    let ms = took.as_secs_f64() * 1e3;
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    log::log!(target: "gfproxy::request", level, "{peer} {path} {status} {bytes} B {ms:.1} ms via {via}{reason}");
}
