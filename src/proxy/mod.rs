//! A request from the handler's call to its outcome: over the cache, the origin, or both.
//!
//! One [`Proxy`] serves a process. Programs that know of us start it with their options; for the kit's unmodified mains
//! the first request starts it with what the environment says.

mod drain;
mod log_line;
mod metrics;
mod paced_reply;
mod settings;
#[allow(unsafe_code)]
mod unacked;

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;
use parking_lot::{Mutex, RwLock};

use base::fork::PerProcess;
use base::process::is_ending;
use drain::Drain;
use getfile::{Outcome, Reply, Status};
use metrics::Requests;
use origin::{Config as OriginConfig, Origin, OriginError};
pub(crate) use paced_reply::Connection;
use paced_reply::PacedReply;
pub(crate) use settings::{Settings, SettingsError};
use shm_channel::{Client, ClientError, OpenError, Transfer};
use telemetry::logging;
use telemetry::metrics::{Exporter, ListenError, Metrics};

/// Below this segment size a file's chunks are held back until they fill TCP segments.
const CORK_BELOW: u32 = 64 << 10;

/// How long requests fail without another attempt where the channel cannot be opened.
const CHANNEL_RETRY: Duration = Duration::from_secs(2);

/// So long a client may take for a chunk, while nobody else waits for its segment and while somebody does. What is left
/// is put back, and a slower client waits without a segment: those serve all clients of the process.
const CLIENT_WAIT: Duration = Duration::from_millis(50);
const CLIENT_WAIT_WANTED: Duration = Duration::from_millis(2);

/// How long the end of the process waits for a lock, and for requests that still run.
const MOMENT: Duration = Duration::from_millis(250);

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
    Channel(#[from] Arc<ClientError>),
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error(transparent)]
    Metrics(#[from] ListenError),
    #[error("stall_ms is 0, which would drop every client: 1 is the least")]
    Stall,
    #[error("started already")]
    Twice,
    #[error("the proxy was stopped")]
    Stopped,
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

/// The way to the cache daemon.
#[derive(Debug, Default)]
enum Channel {
    #[default]
    None,
    Open(Arc<Client>),
    /// The last attempt failed, and with what: another one may take much memory for nothing.
    Failed(Instant, Arc<ClientError>),
    /// For good: a handler that is late must not open it again.
    Stopped,
}

impl Channel {
    fn client(&self) -> Option<&Arc<Client>> {
        match self {
            Self::Open(client) => Some(client),
            Self::None | Self::Failed(..) | Self::Stopped => None,
        }
    }
}

/// The process's proxy.
pub(crate) struct Proxy {
    settings: Settings,
    channel: Mutex<Channel>,
    /// By base URL: a program may give its workers different ones.
    origins: RwLock<HashMap<String, Arc<Origin>>>,
    drain: Drain,
    metrics: Metrics,
    requests: Requests,
    exporter: Mutex<Option<Exporter>>,
}

/// The process's proxy, from nothing over its start to its stop, and perhaps to the next start.
enum Current {
    None,
    Some(Arc<Proxy>),
    /// That of the parent of this process: the first request makes another one with its settings.
    Parents(Settings),
    Stopped,
}

static PROXY: PerProcess<RwLock<Current>> = PerProcess::new();

/// In a child of fork(2), that follows from what the parent had, unless a thread of the parent's was just changing it.
fn current() -> &'static RwLock<Current> {
    PROXY.get_or(|parents| {
        RwLock::new(match parents.and_then(RwLock::try_read).as_deref() {
            Some(Current::Some(proxy)) => Current::Parents(proxy.settings.clone()),
            Some(Current::Parents(settings)) => Current::Parents(settings.clone()),
            Some(Current::Stopped) => Current::Stopped,
            Some(Current::None) | None => Current::None,
        })
    })
}

impl Proxy {
    fn new(settings: Settings) -> Result<Arc<Self>, StartError> {
        if settings.stall.is_zero() {
            return Err(StartError::Stall);
        }
        let metrics = Metrics::new("gfproxy");
        let proxy = Arc::new(Self {
            settings,
            channel: Mutex::default(),
            origins: RwLock::default(),
            drain: Drain::default(),
            requests: Requests::new(&metrics),
            metrics,
            exporter: Mutex::default(),
        });
        logging::at_end(Self::end);
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
        let mut current = current().write();
        if matches!(*current, Current::Some(_)) {
            return Err(StartError::Twice);
        }
        *current = Current::Some(Self::new(settings)?);
        Ok(())
    }

    /// The process's proxy, made from the environment if there never was one.
    pub(crate) fn get() -> Result<Arc<Self>, StartError> {
        if let Current::Some(proxy) = &*current().read() {
            return Ok(Arc::clone(proxy));
        }
        let mut current = current().write();
        let proxy = match &*current {
            Current::None => Self::from_environment()?,
            Current::Some(proxy) => return Ok(Arc::clone(proxy)),
            Current::Parents(settings) => Self::after_parents(settings)?,
            Current::Stopped => return Err(StartError::Stopped),
        };
        *current = Current::Some(Arc::clone(&proxy));
        Ok(proxy)
    }

    fn from_environment() -> Result<Arc<Self>, StartError> {
        // First: what is wrong with the environment is told in the log.
        logging::start(Settings::default().verbosity);
        let settings = Settings::from_environment()?;
        Self::new(Settings { cache: false, ..settings })
    }

    /// That of a child of fork(2). The parent may still have the address of the metrics.
    fn after_parents(settings: &Settings) -> Result<Arc<Self>, StartError> {
        match Self::new(settings.clone()) {
            Err(error @ StartError::Metrics(_)) => {
                warn!("{error}: this child of a process that serves metrics does not");
                Self::new(Settings { metrics: None, ..settings.clone() })
            }
            made => made,
        }
    }

    /// The process's proxy, if it was started.
    pub(crate) fn current() -> Option<Arc<Self>> {
        match &*current().read() {
            Current::Some(proxy) => Some(Arc::clone(proxy)),
            Current::None | Current::Parents(_) | Current::Stopped => None,
        }
    }

    /// Stops the process's proxy at its end, as far as that takes but moments: what is stopped then runs, or is held by
    /// a thread that is gone for ever.
    fn end() {
        let Some(mut current) = PROXY.get().and_then(|current| current.try_write_for(MOMENT)) else { return };
        let Current::Some(proxy) = mem::replace(&mut *current, Current::Stopped) else { return };
        drop(current);
        proxy.close();
        if !proxy.drain.settle(MOMENT) {
            return;
        }
        // With their idle connections.
        let origins = proxy.origins.try_write_for(MOMENT).map(|mut origins| mem::take(&mut *origins));
        drop(origins);
    }

    /// As [`Drain::drain`].
    pub(crate) fn drain(&self, limit: Duration) -> usize {
        self.drain.drain(limit, |deadline| {
            let origins: Vec<_> = self.origins.read().values().map(Arc::clone).collect();
            origins.iter().map(|origin| origin.drain(deadline)).sum()
        })
    }

    /// Closes the channel. Handlers refuse from now on, those of before as well; a later start makes a new proxy.
    pub(crate) fn stop(self: &Arc<Self>) {
        {
            let mut current = current().write();
            // Not one that was started since.
            if matches!(&*current, Current::Some(proxy) if Arc::ptr_eq(proxy, self)) {
                *current = Current::Stopped;
            }
        }
        self.close();
    }

    fn close(&self) {
        self.drain.refuse();
        let exporter = self.exporter.lock().take();
        drop(exporter);
        let channel = mem::replace(&mut *self.channel.lock(), Channel::Stopped);
        if let Some(client) = channel.client() {
            client.stop();
        }
    }

    fn channel(&self) -> Result<Arc<Client>, StartError> {
        let mut channel = self.channel.lock();
        match &*channel {
            Channel::Open(client) => Ok(Arc::clone(client)),
            Channel::Stopped => Err(StartError::Stopped),
            Channel::Failed(at, error) if at.elapsed() < CHANNEL_RETRY => Err(Arc::clone(error).into()),
            Channel::None | Channel::Failed(..) => match Client::start(self.settings.channel.clone()) {
                Ok(client) => {
                    let client = Arc::new(client);
                    *channel = Channel::Open(Arc::clone(&client));
                    Ok(client)
                }
                Err(error) => {
                    let error = Arc::new(error);
                    *channel = Channel::Failed(Instant::now(), Arc::clone(&error));
                    Err(error.into())
                }
            },
        }
    }

    fn origin(&self, url: &str) -> Result<Arc<Origin>, OriginError> {
        if let Some(origin) = self.origins.read().get(url) {
            return Ok(Arc::clone(origin));
        }
        let origin = Arc::new(Origin::new(url, OriginConfig::from_environment()?)?);
        // Once more, now that libcurl and its TLS are there: they are taken down after that.
        logging::at_end(Self::end);
        Ok(Arc::clone(self.origins.write().entry(url.to_owned()).or_insert(origin)))
    }

    /// Serves one request, up to the end of its answer; but of [`Outcome::Failed`] the client is still to be told.
    /// `origin` is the worker's argument, where that is a URL.
    pub(crate) fn handle(
        &self,
        route: Route,
        path: &[u8],
        origin: Option<&str>,
        connection: &mut dyn Connection,
    ) -> Outcome {
        let Some(_in_flight) = self.drain.enter() else {
            return Outcome::Failed("the server is stopping".to_owned());
        };
        let begun = Instant::now();
        connection.set_timeouts(self.settings.linger, self.settings.stall);
        let mut reply = PacedReply::new(connection, self.settings.stall);
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
        let outcome = reply.conclude(outcome);
        if is_ending() {
            return outcome;
        }
        let took = begun.elapsed();
        self.requests.count(source, &outcome, &reply, took);
        log_line::write(&reply, path, &outcome, took, source);
        outcome
    }

    fn over_cache(&self, path: &[u8], reply: &mut PacedReply<'_>) -> Outcome {
        let client = match self.channel() {
            Ok(client) => client,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        match client.open(path) {
            Ok(mut transfer) => {
                let cork = client.config().segment_size < CORK_BELOW
                    && transfer.len() > u64::from(client.config().segment_size);
                let outcome = relay(&mut transfer, reply, cork);
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
        reply: &mut PacedReply<'_>,
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

/// Sends a whole transfer; with `cork`, in full TCP segments.
fn relay(transfer: &mut Transfer<'_>, reply: &mut PacedReply<'_>, cork: bool) -> Outcome {
    let set_cork = |reply: &PacedReply<'_>, on| {
        if cork {
            reply.connection.set_cork(on);
        }
    };
    set_cork(reply, true);
    if let Err(gone) = reply.header(Status::Ok, transfer.len()) {
        return Outcome::Cut(gone.to_string());
    }
    transfer.be_prompt();
    let outcome = loop {
        let patience = if transfer.is_wanted() { CLIENT_WAIT_WANTED } else { CLIENT_WAIT };
        match transfer.next_chunk() {
            Ok(Some(chunk)) => {
                let len = chunk.len();
                let sent = reply.send(chunk, patience).and_then(|sent| {
                    if sent < len {
                        transfer.put_back(len - sent);
                        // The client cannot make room by what is held back.
                        set_cork(reply, false);
                        reply.wait_for_client()?;
                        set_cork(reply, true);
                    }
                    Ok(())
                });
                if let Err(gone) = sent {
                    break Outcome::Cut(gone.to_string());
                }
            }
            Ok(None) => break Outcome::Sent(transfer.len()),
            Err(error) => break Outcome::Cut(error.to_string()),
        }
    };
    set_cork(reply, false);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_does_not_open_the_channel_again() {
        let start = || Proxy::start(Settings { cache: false, ..Settings::default() });
        start().expect("a proxy");
        let proxy = Proxy::get().expect("the proxy");
        proxy.channel().expect("a client, whose daemon need not be there");
        proxy.stop();
        assert!(matches!(proxy.channel(), Err(StartError::Stopped)));
        assert!(proxy.drain.enter().is_none());
        assert!(matches!(Proxy::get(), Err(StartError::Stopped)));

        start().expect("another proxy");
        // The first one's, once more.
        proxy.stop();
        let proxy = Proxy::get().expect("the other proxy");
        proxy.channel().expect("a client of its own");
        proxy.stop();
    }

    #[test]
    fn no_client_is_dropped_at_once() {
        let settings = Settings { cache: false, stall: Duration::ZERO, ..Settings::default() };
        assert!(matches!(Proxy::new(settings), Err(StartError::Stall)));
    }
}
