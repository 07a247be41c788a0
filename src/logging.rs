//! Where log lines go: standard error, one line each, through the `log` facade.

use std::io::Write;
use std::process;

use log::LevelFilter;

/// Starts logging, unless the program has a logger of its own. `verbosity` is the number of `-v`; the variable
/// `GFPROXY_LOG` (`info`, or `gfproxy::channel=debug,warn`) says more precisely what to log.
pub(crate) fn start(verbosity: i32) {
    let level = match verbosity {
        ..=0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        3.. => LevelFilter::Trace,
    };
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level);
    if let Ok(filters) = std::env::var("GFPROXY_LOG") {
        builder.parse_filters(&filters);
    }
    builder.format(|line, record| {
        let (time, level, pid) = (line.timestamp_millis(), record.level(), process::id());
        writeln!(line, "{time} {level} [{pid}] {}", record.args())
    });
    // Fails if the program has set a logger: then that one is used.
    let _ = builder.try_init();
}
