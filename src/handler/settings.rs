//! What can be set about a proxy, and what the environment says of it.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fmt::Display, str::FromStr};

use crate::channel::ClientConfig;

/// The settings of a [`super::Proxy`].
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Connect to the daemon at the start, not at the first request that needs it.
    pub(crate) cache: bool,
    /// The origin's base URL.
    pub(crate) origin: Option<String>,
    pub(crate) channel: ClientConfig,
    /// How long a client may take no byte before it is dropped.
    pub(crate) stall: Duration,
    /// How long the server waits for a client to close after the answer.
    pub(crate) linger: Duration,
    pub(crate) verbosity: i32,
    /// Where metrics are served.
    pub(crate) metrics: Option<String>,
}

/// A variable of the environment that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?}: {reason}")]
pub(crate) struct SettingsError {
    name: &'static str,
    value: String,
    reason: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache: true,
            origin: None,
            channel: ClientConfig::default(),
            stall: Duration::from_secs(30),
            linger: Duration::from_secs(5),
            verbosity: 0,
            metrics: None,
        }
    }
}

impl Settings {
    /// The defaults, but for what `GFPROXY_ORIGIN`, `GFPROXY_SOCKET`, `GFPROXY_SEGMENTS`, `GFPROXY_SEGMENT_SIZE`,
    /// `GFPROXY_CACHE_WAIT_MS`, `GFPROXY_STALL_MS` and `GFPROXY_METRICS` say.
    pub(crate) fn from_environment() -> Result<Self, SettingsError> {
        let origin = env::var("GFPROXY_ORIGIN").ok().filter(|url| !url.is_empty());
        let metrics = env::var("GFPROXY_METRICS").ok().filter(|address| !address.is_empty());
        let mut settings = Self { origin, metrics, ..Self::default() };
        if let Some(socket) = env::var_os("GFPROXY_SOCKET").filter(|path| !path.is_empty()) {
            settings.channel.socket = PathBuf::from(socket);
        }
        let channel = &mut settings.channel;
        if let Some(segments) = read("GFPROXY_SEGMENTS")? {
            channel.segments = segments;
        }
        if let Some(size) = read("GFPROXY_SEGMENT_SIZE")? {
            channel.segment_size = size;
        }
        if let Some(ms) = read("GFPROXY_CACHE_WAIT_MS")? {
            channel.wait = Duration::from_millis(ms);
        }
        if let Some(ms) = read::<NonZeroU64>("GFPROXY_STALL_MS")? {
            settings.stall = Duration::from_millis(ms.get());
        }
        Ok(settings)
    }
}

fn read<T: FromStr<Err: Display>>(name: &'static str) -> Result<Option<T>, SettingsError> {
    let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = value.to_string_lossy().into_owned();
    match value.parse() {
        Ok(number) => Ok(Some(number)),
        Err(error) => Err(SettingsError { name, reason: T::Err::to_string(&error), value }),
    }
}
