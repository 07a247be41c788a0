//! What can be set about a proxy, and what the environment says of it.

use std::env;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::channel::{ClientConfig, MAX_SEGMENT_SIZE, MAX_SEGMENTS, MIN_SEGMENT_SIZE};

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
    /// `GFPROXY_CACHE_WAIT_MS`, `GFPROXY_MAX_AGE_MS`, `GFPROXY_STALL_MS` and `GFPROXY_METRICS` say.
    pub(crate) fn from_environment() -> Result<Self, SettingsError> {
        let origin = env::var("GFPROXY_ORIGIN").ok().filter(|url| !url.is_empty());
        let metrics = env::var("GFPROXY_METRICS").ok().filter(|address| !address.is_empty());
        let mut settings = Self { origin, metrics, ..Self::default() };
        if let Some(socket) = env::var_os("GFPROXY_SOCKET").filter(|path| !path.is_empty()) {
            settings.channel.socket = PathBuf::from(socket);
        }
        let channel = &mut settings.channel;
        if let Some(segments) = read("GFPROXY_SEGMENTS", 1..=MAX_SEGMENTS)? {
            channel.segments = segments;
        }
        if let Some(size) = read("GFPROXY_SEGMENT_SIZE", MIN_SEGMENT_SIZE..=MAX_SEGMENT_SIZE)? {
            channel.segment_size = size;
        }
        if let Some(ms) = read("GFPROXY_CACHE_WAIT_MS", 0..=u32::MAX)? {
            channel.wait = Duration::from_millis(ms.into());
        }
        if let Some(ms) = read("GFPROXY_MAX_AGE_MS", 0..=u32::MAX)? {
            channel.max_age = Duration::from_millis(ms.into());
        }
        if let Some(ms) = read("GFPROXY_STALL_MS", 1..=u32::MAX)? {
            settings.stall = Duration::from_millis(ms.into());
        }
        Ok(settings)
    }
}

fn read(name: &'static str, range: RangeInclusive<u32>) -> Result<Option<u32>, SettingsError> {
    let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let number = value.to_str().and_then(|value| value.parse().ok()).filter(|number| range.contains(number));
    number.map(Some).ok_or_else(|| SettingsError {
        name,
        value: value.to_string_lossy().into_owned(),
        reason: format!("not a number from {} to {}", range.start(), range.end()),
    })
}
