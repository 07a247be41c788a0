//! Origins and clients for the tests, and what they have in common.

mod collector;
mod nginx;
mod scripted;
mod tls;

use std::time::Duration;

pub use collector::{Collector, OnChunk, pattern};
use getfile::{Outcome, Status};
pub use nginx::Nginx;
use origin::{Config, Origin};
pub use scripted::{After, Exchange, ScriptedOrigin};
pub use tls::{TlsOrigin, breaking_relay};

/// The defaults, but for waits that would only make tests slow.
pub fn config() -> Config {
    Config { backoff: Duration::from_millis(1), ..Config::default() }
}

/// What one request for `/file` led to.
pub struct Fetched {
    pub outcome: Outcome,
    pub client: Collector,
    pub server: ScriptedOrigin,
}

pub fn fetch(script: impl Fn(&mut Exchange<'_>) -> After + Send + Sync + 'static) -> Fetched {
    fetch_with(config(), script)
}

pub fn fetch_with(config: Config, script: impl Fn(&mut Exchange<'_>) -> After + Send + Sync + 'static) -> Fetched {
    let server = ScriptedOrigin::start(script);
    let mut client = Collector::default();
    let outcome = Origin::new(&server.url(), config).expect("an origin").serve(b"/file", &mut client);
    Fetched { outcome, client, server }
}

impl Fetched {
    #[track_caller]
    pub fn assert_whole(&self, file: &[u8]) {
        assert_eq!(self.outcome, Outcome::Sent(file.len() as u64));
        assert_eq!(self.client.header, Some((Status::Ok, file.len() as u64)));
        assert!(self.client.body == file, "the file differs");
    }

    /// Nothing was sent to the client, and the reason holds `reason`.
    #[track_caller]
    pub fn assert_failed(&self, reason: &str) {
        assert!(matches!(&self.outcome, Outcome::Failed(text) if text.contains(reason)), "{:?}", self.outcome);
        assert_eq!((self.client.header, self.client.body.len()), (None, 0));
    }

    /// The client has the beginning of the file and not all of it, and the reason holds `reason`.
    #[track_caller]
    pub fn assert_cut(&self, file: &[u8], reason: &str) {
        assert!(matches!(&self.outcome, Outcome::Cut(text) if text.contains(reason)), "{:?}", self.outcome);
        assert_eq!(self.client.header, Some((Status::Ok, file.len() as u64)));
        assert!(self.client.body.len() < file.len(), "the whole file");
        assert!(file.starts_with(&self.client.body), "the beginning differs");
    }
}
