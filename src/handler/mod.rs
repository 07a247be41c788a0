//! A request from the handler's call to its outcome: over the cache, the origin, or both.
//!
//! One [`Proxy`] serves a process. Programs that know of us start it with their options; for the kit's unmodified mains
//! the first request starts it with what the environment says.

mod client;
mod log_line;
mod metrics;
mod settings;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::channel::{Client, ClientError, OpenError, Transfer};
use crate::metrics::{Exporter, ListenError, Metrics};
use crate::origin::{Config as OriginConfig, Origin, OriginError};
use crate::reply::{Outcome, Reply, Status};
pub(crate) use client::Connection;
use client::Watched;
use metrics::Requests;
pub(crate) use settings::{Settings, SettingsError};

/// Below this segment size a file's chunks are held back until they fill TCP segments.
const CORK_BELOW: u32 = 64 << 10;

/// So long a client may keep a segment waiting. A slower one waits without: a segment serves all clients of the process.
const PATIENCE: Duration = Duration::from_millis(10);

/// Where a request's file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Cache,
    Origin,
    CacheThenOrigin,
}

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Channel(#[from] ClientError),
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error(transparent)]
    Metrics(#[from] ListenError),
    #[error("started already")]
    Twice,
}

/// Where a file came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Cache,
    Origin,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Origin => "origin",
        }
    }
}

#[derive(Debug, Default)]
struct Flow {
    in_flight: usize,
    refusing: bool,
}

/// The process's proxy.
pub(crate) struct Proxy {
    settings: Settings,
    channel: Mutex<Option<Arc<Client>>>,
    /// By base URL: a program may give its workers different ones.
    origins: RwLock<HashMap<String, Arc<Origin>>>,
    flow: Mutex<Flow>,
    settled: Condvar,
    metrics: Metrics,
    requests: Requests,
    exporter: Mutex<Option<Exporter>>,
}

static PROXY: RwLock<Option<Arc<Proxy>>> = RwLock::new(None);

impl Proxy {
    fn new(settings: Settings) -> Result<Arc<Self>, StartError> {
        let metrics = Metrics::new("gfproxy");
        let proxy = Arc::new(Self {
            settings,
            channel: Mutex::default(),
            origins: RwLock::default(),
            flow: Mutex::default(),
            settled: Condvar::new(),
            requests: Requests::new(&metrics),
            metrics,
            exporter: Mutex::default(),
        });
        if proxy.settings.cache {
            proxy.channel()?;
        }
        if let Some(url) = &proxy.settings.origin {
            proxy.origin(url)?;
        }
        if let Some(address) = &proxy.settings.metrics {
            metrics::tell(&proxy.metrics, &proxy);
            *proxy.exporter.lock() = Some(Exporter::start(address, proxy.metrics.clone())?);
        }
        Ok(proxy)
    }

    /// Makes the process's proxy.
    pub(crate) fn start(settings: Settings) -> Result<(), StartError> {
        let mut current = PROXY.write();
        if current.is_some() {
            return Err(StartError::Twice);
        }
        *current = Some(Self::new(settings)?);
        Ok(())
    }

    /// The process's proxy, made from the environment if there is none yet.
    pub(crate) fn get() -> Result<Arc<Self>, StartError> {
        if let Some(proxy) = &*PROXY.read() {
            return Ok(Arc::clone(proxy));
        }
        let mut current = PROXY.write();
        if let Some(proxy) = &*current {
            return Ok(Arc::clone(proxy));
        }
        // First: what is wrong with the environment is told in the log.
        crate::logging::start(Settings::default().verbosity);
        let settings = Settings::from_environment()?;
        let proxy = Self::new(Settings { cache: false, ..settings })?;
        *current = Some(Arc::clone(&proxy));
        Ok(proxy)
    }

    /// The process's proxy, if it was started.
    pub(crate) fn current() -> Option<Arc<Self>> {
        PROXY.read().clone()
    }

    /// Refuses requests from now on and waits for those in flight. Returns how many are left at the end of `limit`.
    pub(crate) fn drain(&self, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        let mut flow = self.flow.lock();
        flow.refusing = true;
        while flow.in_flight > 0 && !self.settled.wait_until(&mut flow, deadline).timed_out() {}
        if flow.in_flight > 0 {
            warn!("transfers cut short after {} ms: {}", limit.as_millis(), flow.in_flight);
        }
        flow.in_flight
    }

    /// Closes the channel and lets a later start make a new proxy.
    pub(crate) fn stop(&self) {
        let exporter = self.exporter.lock().take();
        drop(exporter);
        if let Some(channel) = self.channel.lock().take() {
            channel.stop();
        }
        *PROXY.write() = None;
    }

    fn channel(&self) -> Result<Arc<Client>, ClientError> {
        let mut channel = self.channel.lock();
        if let Some(client) = &*channel {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(Client::start(self.settings.channel.clone())?);
        *channel = Some(Arc::clone(&client));
        Ok(client)
    }

    fn origin(&self, url: &str) -> Result<Arc<Origin>, OriginError> {
        if let Some(origin) = self.origins.read().get(url) {
            return Ok(Arc::clone(origin));
        }
        let origin = Arc::new(Origin::new(url, OriginConfig::from_environment()?)?);
        Ok(Arc::clone(self.origins.write().entry(url.to_owned()).or_insert(origin)))
    }

    /// Serves one request. `origin` is the worker's argument, where that is a URL.
    pub(crate) fn handle(
        &self,
        route: Route,
        path: &[u8],
        origin: Option<&str>,
        connection: &mut dyn Connection,
    ) -> Outcome {
        let Some(_in_flight) = InFlight::enter(self) else {
            return Outcome::Failed("the server is stopping".to_owned());
        };
        let begun = Instant::now();
        connection.set_timeouts(self.settings.linger, self.settings.stall);
        let mut reply = Watched::new(connection, self.settings.stall);
        let (outcome, source) = match route {
            Route::Origin => {
                (self.over_origin(path, origin, &mut reply, |o, path, reply| o.serve(path, reply)), Source::Origin)
            }
            Route::Cache => (self.over_cache(path, &mut reply), Source::Cache),
            Route::CacheThenOrigin => match self.over_cache(path, &mut reply) {
                // What many ask for at once and the cache does not have: one request to the origin for all.
                Outcome::NotFound => {
                    (self.over_origin(path, origin, &mut reply, Origin::serve_coalesced), Source::Origin)
                }
                outcome => (outcome, Source::Cache),
            },
        };
        let took = begun.elapsed();
        self.requests.count(source, &outcome, &reply, took);
        log_line::write(&reply, path, &outcome, took, source);
        outcome
    }

    fn over_cache(&self, path: &[u8], reply: &mut Watched<'_>) -> Outcome {
        let client = match self.channel() {
            Ok(client) => client,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        match client.open(path) {
            Ok(mut transfer) => {
                let cork = client.config().segment_size < CORK_BELOW
                    && transfer.len() > u64::from(client.config().segment_size);
                if cork {
                    reply.connection.set_cork(true);
                }
                let outcome = relay(&mut transfer, reply);
                if cork {
                    reply.connection.set_cork(false);
                }
                reply.resumed += transfer.sessions_lost();
                outcome
            }
            Err(OpenError::NotFound | OpenError::KeyTooLong(_)) => Outcome::NotFound,
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    fn over_origin(
        &self,
        path: &[u8],
        url: Option<&str>,
        reply: &mut Watched<'_>,
        serve: fn(&Arc<Origin>, &[u8], &mut dyn Reply) -> Outcome,
    ) -> Outcome {
        let Some(url) = url.or(self.settings.origin.as_deref()) else {
            return Outcome::Failed("no origin: neither the worker's argument nor GFPROXY_ORIGIN is a URL".to_owned());
        };
        match self.origin(url) {
            Ok(origin) => serve(&origin, path, reply),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

/// Sends a whole transfer.
fn relay(transfer: &mut Transfer<'_>, reply: &mut Watched<'_>) -> Outcome {
    let len = transfer.len();
    if let Err(gone) = reply.header(Status::Ok, len) {
        return Outcome::Cut(gone.to_string());
    }
    loop {
        match transfer.next_chunk() {
            Ok(Some(chunk)) => {
                let len = chunk.len();
                let sent = reply.send(chunk, PATIENCE).and_then(|sent| {
                    if sent < len {
                        transfer.put_back(len - sent);
                        reply.wait_for_client()?;
                    }
                    Ok(())
                });
                if let Err(gone) = sent {
                    return Outcome::Cut(gone.to_string());
                }
            }
            Ok(None) => return Outcome::Sent(len),
            Err(error) => return Outcome::Cut(error.to_string()),
        }
    }
}

/// A request that [`Proxy::drain`] waits for.
struct InFlight<'p>(&'p Proxy);

impl<'p> InFlight<'p> {
    fn enter(proxy: &'p Proxy) -> Option<Self> {
        let mut flow = proxy.flow.lock();
        if flow.refusing {
            return None;
        }
        flow.in_flight += 1;
        Some(Self(proxy))
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut flow = self.0.flow.lock();
        flow.in_flight -= 1;
        if flow.refusing && flow.in_flight == 0 {
            self.0.settled.notify_all();
        }
    }
}
