//! What an operator can set about an origin.

use std::path::PathBuf;
use std::time::Duration;

/// The limits of an [`Origin`](super::Origin). A limit of zero is none, but for the counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// For one connection: name, TCP and TLS.
    pub connect_timeout: Duration,
    /// From the start of an attempt to the first byte of the body, redirects included.
    pub first_byte_timeout: Duration,
    /// A body that brings fewer than so many bytes a second, over `low_speed_time`, is given up. The time that the
    /// client takes does not count.
    pub low_speed_limit: u64,
    /// See `low_speed_limit`.
    pub low_speed_time: Duration,
    /// For the whole answer, the client's time included.
    pub total_timeout: Duration,
    /// How often a request is repeated that failed before the header was sent.
    pub retries: u32,
    /// How often a body that broke off is gone on with.
    pub resumes: u32,
    /// What is waited before the first repetition; each following one waits twice as long.
    pub backoff: Duration,
    /// No repetition begins later than this after the request.
    pub retry_within: Duration,
    /// How many redirects are followed.
    pub redirects: u32,
    /// The most bytes read from a connection at once.
    pub buffer: usize,
    /// A body of unknown length is kept in memory up to this size, and beyond it in an unlinked temporary file.
    pub spool_memory: u64,
    /// What all bodies that are kept at a time may take of memory.
    pub spool_memory_total: u64,
    /// A body of unknown length that is larger is refused.
    pub spool_ceiling: u64,
    /// Certificates to trust instead of libcurl's own: a file.
    pub ca_file: Option<PathBuf>,
    /// Certificates to trust instead of libcurl's own: a directory.
    pub ca_directory: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(30),
            low_speed_limit: 100,
            low_speed_time: Duration::from_secs(30),
            total_timeout: Duration::ZERO,
            retries: 3,
            resumes: 3,
            backoff: Duration::from_millis(100),
            retry_within: Duration::from_secs(15),
            redirects: 5,
            buffer: 256 << 10,
            spool_memory: 8 << 20,
            spool_memory_total: 24 << 20,
            spool_ceiling: 4 << 30,
            ca_file: None,
            ca_directory: None,
        }
    }
}
