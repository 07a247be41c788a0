//! What `handle_with_curl` does: the path of a GETFILE request becomes an HTTP request to an origin, and its body goes
//! to the client as it arrives. docs/reference/origin.md says what is promised.

mod buffered_body;
mod coalesce;
mod config;
#[allow(unsafe_code)]
mod curl;
mod deadlines;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod response_head;
mod retry;
mod sink;
mod spool;
mod status;
mod surplus;
mod transfer;
mod url;

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use log::warn;
use parking_lot::Mutex;

use crate::curl::{Easy, Error, Options, Share};
use base::Chunk;
use getfile::{ClientGone, Outcome, Reply, Status};

use coalesce::Flights;
pub use config::{Config, ConfigError};
use retry::{Reached, Retry};
use sink::Sink;
use spool::Budgets;
use surplus::Surplus;
use transfer::{End, Failure, Rest, Transfer};
use url::Base;

/// Why there can be no [`Origin`].
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The base URL cannot be used.
    #[error("the origin {url:?} cannot be used: {reason}")]
    Base {
        /// The URL as it was given, without user name and password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The environment says something that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A path in the configuration holds a NUL byte.
    #[error("{0:?} is not a path")]
    Path(std::path::PathBuf),
    /// libcurl refused.
    #[error("libcurl: {0}")]
    Curl(String),
}

impl From<Error> for OriginError {
    fn from(error: Error) -> Self {
        Self::Curl(error.to_string())
    }
}

/// An HTTP origin, for all worker threads.
pub struct Origin {
    base: Base,
    config: Config,
    options: Options,
    share: Arc<Share>,
    /// The handles that no request uses, the one used last at the end. A worker takes that one, so there are never
    /// more handles, nor kept connections to the origin, than there were requests at a time.
    idle: Mutex<Vec<Easy>>,
    budgets: Budgets,
    surplus: Surplus,
    flights: Flights,
}

/// A URL without its user name and password, for messages.
pub fn shown(url: &str) -> String {
    // A "//" elsewhere may be in the password.
    let begin = url.find(':').filter(|&at| url[at..].starts_with("://")).map_or(0, |at| at + 3);
    match url.rfind('@') {
        Some(end) if end >= begin => format!("{}***{}", &url[..begin], &url[end..]),
        _ => url.to_owned(),
    }
}

/// Whether an origin can have this base URL, or why not.
pub fn check_base(url: &str) -> Result<(), String> {
    Base::parse(url).map(drop)
}

/// Warns of a directory in which bodies cannot be kept: only some origin's answers, days later, may need it.
fn check_temporary_directory() {
    if let Err(error) = spool::temporary_file() {
        warn!("{error}: large bodies without an announced length cannot be kept");
    }
}

impl Origin {
    /// An origin whose files lie below `base`, an http or https URL.
    pub fn new(base: &str, config: Config) -> Result<Self, OriginError> {
        let base = Base::parse(base).map_err(|reason| OriginError::Base { url: shown(base), reason })?;
        let options = Options {
            user_agent: CString::new(concat!("gfproxy/", env!("CARGO_PKG_VERSION"))).expect("no NUL"),
            connect_timeout: config.connect_timeout,
            redirects: config.redirects,
            redirects_may_use_http: !base.is_secure(),
            buffer: config.buffer,
            ca_file: config.ca_file.as_deref().map(c_path).transpose()?,
            ca_directory: config.ca_directory.as_deref().map(c_path).transpose()?,
        };
        check_temporary_directory();
        let share = Arc::new(Share::new()?);
        // What libcurl refuses, it refuses now and not at the first request.
        let first = Easy::new(&share, &options)?;
        let budgets = Budgets::new(&config);
        Ok(Self {
            base,
            config,
            options,
            share,
            idle: Mutex::new(vec![first]),
            budgets,
            surplus: Surplus::default(),
            flights: Flights::default(),
        })
    }

    /// Answers a request for `path`. Only a file's header and body are written to `reply`; how a request without a
    /// file is answered follows from the outcome.
    pub fn serve(&self, path: &[u8], reply: &mut dyn Reply) -> Outcome {
        self.fetch(path, &mut Client(reply))
    }

    fn fetch(&self, path: &[u8], sink: &mut dyn Sink) -> Outcome {
        let Some(url) = self.base.join(path) else {
            return Outcome::NotFound;
        };
        // Bound to a name, so that the lock is not held while a new handle is made.
        let idle = self.idle.lock().pop();
        let mut easy = match idle.map_or_else(|| Easy::new(&self.share, &self.options), Ok) {
            Ok(easy) => easy,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        let mut transfer = Transfer::new(&self.config, &self.budgets, &self.surplus, sink, keeps_encoding(path));
        match self.attempt_until_done(&mut easy, &url, &mut transfer) {
            Ok(outcome) => {
                self.idle.lock().push(easy);
                outcome
            }
            // A handle that refuses an option is not kept.
            Err(error) => transfer.give_up(error.to_string()),
        }
    }

    fn attempt_until_done(&self, easy: &mut Easy, url: &CStr, transfer: &mut Transfer<'_>) -> Result<Outcome, Error> {
        easy.set_url(url)?;
        let mut retry = Retry::new(&self.config, Instant::now());
        let mut ranged = false;
        let outcome = loop {
            let before = transfer.delivered();
            let result = easy.perform(transfer);
            let Failure { reason, again } = match transfer.finish(result) {
                End::Done(outcome) => break outcome,
                End::Failure(failure) => failure,
            };
            let rest = transfer.rest();
            let reached = match &rest {
                Rest::All => Reached::Nothing,
                Rest::From { offset, length, .. } => Reached::Body { more: offset - before, of: *length },
                Rest::Lost => break transfer.give_up(reason),
            };
            let wait = again.and_then(|least| retry.next(reached, least, Instant::now()));
            let Some(wait) = wait else {
                break transfer.give_up(reason);
            };
            log::debug!("origin: {reason}; going on from byte {} in {wait:?}", transfer.delivered());
            if !transfer.wait(wait) {
                break transfer.give_up(reason);
            }
            if let Rest::From { offset, if_range, .. } = rest {
                easy.set_range(Some((offset, &if_range)))?;
                ranged = true;
            }
            transfer.begin_attempt();
        };
        if ranged {
            easy.set_range(None)?;
        }
        Ok(outcome)
    }
}

/// A client that is written to as the file comes.
struct Client<'a>(&'a mut dyn Reply);

impl Sink for Client<'_> {
    fn header(&mut self, len: u64) -> Result<(), ClientGone> {
        self.0.header(Status::Ok, len)
    }

    fn body(&mut self, data: &[u8]) -> Result<(), ClientGone> {
        self.0.body(Chunk::from(data))
    }

    fn resumed(&mut self) {
        self.0.resumed();
    }

    /// Not known before something is sent.
    fn is_abandoned(&self) -> bool {
        false
    }
}

/// Whether a file's name says that it is compressed. Some origins say the same with `Content-Encoding`. A client that
/// asks for `a.tar.gz` wants it compressed.
fn keeps_encoding(path: &[u8]) -> bool {
    const SUFFIXES: [&[u8]; 6] = [b".gz", b".tgz", b".svgz", b".br", b".zst", b".z"];
    SUFFIXES
        .iter()
        .any(|suffix| path.len().checked_sub(suffix.len()).is_some_and(|at| path[at..].eq_ignore_ascii_case(suffix)))
}

fn c_path(path: &Path) -> Result<CString, OriginError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| OriginError::Path(path.to_owned()))
}
