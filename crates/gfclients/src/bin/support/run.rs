//! Works through the requests with threads that each take the next one.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use getfile::Client;
use nix::sys::signal::{SigSet, Signal};

use super::CommonOptions;
use super::workload::Workload;

/// One line on standard error, after the program's name. Where it cannot be written there is nobody left to tell.
pub fn complain(problem: impl Display) {
    drop(writeln!(io::stderr(), "{}: {problem}", env!("CARGO_BIN_NAME")));
}

/// Text on standard output, which may be closed: a reader that has seen enough is no failure.
pub fn say(text: impl Display) {
    drop(write!(io::stdout(), "{text}"));
}

/// A path for people: as it is where it is printable text, escaped where a terminal would take it for something else.
pub fn shown(path: &[u8]) -> String {
    match str::from_utf8(path) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.escape_ascii().to_string(),
    }
}

/// Makes a file that grows beyond `ulimit -f` an error of its write, instead of a signal that ends the program. To be
/// called before any thread starts.
pub fn survive_large_files() {
    // A write whose signal is blocked just fails. Cannot fail itself.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
}

/// The requests of one invocation.
pub struct Run {
    workload: Workload,
    client: Client,
    threads: u64,
    total: u64,
}

impl Run {
    /// Reads the workload and looks up the server: whatever can be known to be wrong before the first request.
    pub fn prepare(options: &CommonOptions) -> Result<Self, String> {
        let workload = Workload::read(&options.workload_path)?;
        let client = Client::new(&options.server, options.port, options.timeouts())
            .map_err(|e| format!("server {} port {}: {e}", options.server, options.port))?;
        let total = options.total_requests();
        Ok(Self { workload, client, threads: u64::from(options.thread_count).min(total), total })
    }

    /// Makes every request through `fetch`, which returns the length of the file or why there is none. Failures are
    /// reported one a line as they come, and a summary at the end. The status is 1 if any request failed.
    pub fn execute<E: Display>(
        &self,
        fetch: impl Fn(&Client, &[u8]) -> Result<u64, E> + Sync,
    ) -> Result<ExitCode, String> {
        let (next, bytes, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let start = Instant::now();
        let work = || {
            // The counters stand for nothing but themselves, and the end of the scope orders them before the summary.
            while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&n| n < self.total) {
                let path = self.workload.path(number);
                match fetch(&self.client, path) {
                    Ok(len) => {
                        bytes.fetch_add(len, Ordering::Relaxed);
                    }
                    Err(error) => {
                        failed.fetch_add(1, Ordering::Relaxed);
                        complain(format_args!("{}: {error}", shown(path)));
                    }
                }
            }
        };
        thread::scope(|scope| -> Result<(), String> {
            for _ in 0..self.threads {
                let spawned = thread::Builder::new().spawn_scoped(scope, work);
                spawned.map_err(|e| format!("cannot start a thread: {e}"))?;
            }
            Ok(())
        })?;
        let (bytes, failed, total) = (bytes.into_inner(), failed.into_inner(), self.total);
        let seconds = start.elapsed().as_secs_f64();
        let served = total - failed;
        say(format_args!("{served} of {total} requests served, {bytes} bytes in {seconds:.3} s\n"));
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
