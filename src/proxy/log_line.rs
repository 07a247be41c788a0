//! The line that each request leaves in the log, at level info; at warn, if the proxy failed it. Where the log is of
//! warnings alone, a client that fails at will leaves a few.

use std::sync::LazyLock;
use std::time::Duration;

use log::{Level, log_enabled};

use super::{PacedReply, Source};
use base::{LeftOut, Limiter};
use getfile::Outcome;

const TARGET: &str = "gfproxy::request";

/// Requests that failed, by the client's address.
static FAILED: LazyLock<Limiter<String>> = LazyLock::new(|| Limiter::new(TARGET, 32));

/// Without the port, which is another for each connection.
fn address(client: &str) -> String {
    client.rsplit_once(':').map_or(client, |(address, _)| address).to_owned()
}

pub(super) fn write(reply: &PacedReply<'_>, path: &[u8], outcome: &Outcome, took: Duration, source: Source) {
    let level = match outcome {
        Outcome::Sent(_) | Outcome::NotFound => Level::Info,
        Outcome::Failed(_) | Outcome::Cut(_) => Level::Warn,
    };
    if !log_enabled!(target: TARGET, level) {
        return;
    }
    let client = reply.connection.peer();
    let left_out = if log_enabled!(target: TARGET, Level::Info) { Some(0) } else { FAILED.admit(address(&client)) };
    let Some(left_out) = left_out.map(LeftOut) else { return };
    let (status, reason) = match outcome {
        Outcome::Sent(_) => ("OK", ""),
        Outcome::NotFound => ("FILE_NOT_FOUND", ""),
        Outcome::Failed(reason) => ("ERROR", reason.as_str()),
        Outcome::Cut(reason) => ("CUT", reason.as_str()),
    };
    let path = path.escape_ascii();
    let ms = (took.as_secs_f64() * 1e4).round() / 10.0;
    let (source, bytes, resumed) = (source.name(), reply.bytes, reply.resumed);
    let how = if resumed == 0 { String::new() } else { format!(", resumed ({resumed})") };
    let colon = if reason.is_empty() { "" } else { ": " };
    log::log!(
        target: TARGET,
        level,
        client:% = client, path:% = path, status, bytes, ms, via = source, resumed, reason;
        "{client} {path} {status} {bytes} B {ms:.1} ms via {source}{how}{colon}{reason}{left_out}"
    );
}
