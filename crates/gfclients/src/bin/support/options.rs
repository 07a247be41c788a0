//! The command line: the course kit's options under their short and long names, and a few of our own, which are long.

use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use getfile::{DEFAULT_PORT, Timeouts};

/// The options that both clients take.
#[derive(clap::Args, Debug)]
pub struct CommonOptions {
    /// Server address: a name, an IPv4 or an IPv6 address
    #[arg(short, long, value_name = "server_addr", default_value = "localhost")]
    pub server: String,

    /// Server port (1 to 65535)
    #[arg(short, long, value_name = "server_port", default_value_t = DEFAULT_PORT, value_parser = number(1..=u16::MAX))]
    pub port: u16,

    /// Number of threads, each with one request at a time (1 to 100)
    #[arg(short, long, value_name = "thread_count", default_value_t = 1, value_parser = number(1..=100_u16))]
    pub thread_count: u16,

    /// Workload file: the paths to ask for, separated by blanks or line ends
    #[arg(short, long, value_name = "workload_path", default_value = "workload.txt")]
    pub workload_path: PathBuf,

    /// Number of requests in all (1 to 1000); they go round the workload, from its second path on
    #[arg(short, long, value_name = "request_count", default_value_t = 10, value_parser = number(1..=1000_u16))]
    pub request_count: u16,

    /// Make the requests that many times over, for runs of more than 1000 (1 to 1000000)
    #[arg(long, value_name = "count", default_value_t = 1, value_parser = number(1..=1_000_000_u32))]
    pub rounds: u32,

    /// Seconds that a connection may take (0.001 to 86400)
    #[arg(long, value_name = "seconds", default_value = "10", value_parser = seconds)]
    pub connect_timeout: Duration,

    /// Seconds that the server may be silent in a request (0.001 to 86400)
    #[arg(long, value_name = "seconds", default_value = "60", value_parser = seconds)]
    pub read_timeout: Duration,

    /// Seconds to go on asking a server that refuses connections, from the start or since it last took one (0 to 86400)
    #[arg(long, value_name = "seconds", default_value = "5", value_parser = seconds_or_none)]
    pub refused_timeout: Duration,
}

impl CommonOptions {
    pub fn timeouts(&self) -> Timeouts {
        Timeouts { connect: self.connect_timeout, read: self.read_timeout, refused: self.refused_timeout }
    }

    pub fn total_requests(&self) -> u64 {
        u64::from(self.request_count) * u64::from(self.rounds)
    }
}

/// Reads the command line. Help is printed here; a bad option becomes one line on standard error and status 2.
pub fn parse<P: Parser>(arguments: impl IntoIterator<Item = OsString>) -> Result<P, ExitCode> {
    super::survive_large_files();
    P::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            super::say(error);
            ExitCode::SUCCESS
        }
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            super::complain(format_args!("{} (-h shows the options)", line.trim_start_matches("error: ")));
            ExitCode::from(2)
        }
    })
}

/// A parser for whole numbers that names the range in its error.
pub fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let value = text.parse().ok().filter(|value| range.contains(value));
        value.ok_or_else(|| format!("not a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A parser for a time in seconds, with or without decimals.
pub fn seconds(text: &str) -> Result<Duration, String> {
    seconds_within(text, 0.001..=86_400.0)
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    seconds_within(text, 0.0..=86_400.0)
}

fn seconds_within(text: &str, range: RangeInclusive<f64>) -> Result<Duration, String> {
    let value = text.parse().ok().filter(|value| range.contains(value));
    value
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("not a number of seconds from {} to {}", range.start(), range.end()))
}
