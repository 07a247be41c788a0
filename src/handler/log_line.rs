//! The line that each request leaves in the log, at level info; at warn, if the proxy failed it.

use std::time::Duration;

use log::{Level, log_enabled};

use super::{Source, Watched};
use crate::reply::Outcome;

const TARGET: &str = "gfproxy::request";

pub(super) fn write(reply: &Watched<'_>, path: &[u8], outcome: &Outcome, took: Duration, source: Source) {
    let level = match outcome {
        Outcome::Sent(_) | Outcome::NotFound => Level::Info,
        Outcome::Failed(_) | Outcome::Cut(_) => Level::Warn,
    };
    if !log_enabled!(target: TARGET, level) {
        return;
    }
    let (status, reason) = match outcome {
        Outcome::Sent(_) => ("OK", ""),
        Outcome::NotFound => ("FILE_NOT_FOUND", ""),
        Outcome::Failed(reason) => ("ERROR", reason.as_str()),
        Outcome::Cut(reason) => ("CUT", reason.as_str()),
    };
    let (path, client) = (path.escape_ascii(), reply.connection.peer());
    let ms = (took.as_secs_f64() * 1e4).round() / 10.0;
    let (source, bytes, resumed) = (source.name(), reply.bytes, reply.resumed);
    let how = if resumed == 0 { String::new() } else { format!(", resumed ({resumed})") };
    let colon = if reason.is_empty() { "" } else { ": " };
    log::log!(
        target: TARGET,
        level,
        client:% = client, path:% = path, status, bytes, ms, via = source, resumed, reason;
        "{client} {path} {status} {bytes} B {ms:.1} ms via {source}{how}{colon}{reason}"
    );
}
