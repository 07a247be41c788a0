//! What can be set about a proxy, and what the environment says of it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use origin::{check_base, shown};
use shm_channel::{ClientConfig, Layout, MAX_SEGMENT_SIZE, MAX_SEGMENTS, MIN_SEGMENT_SIZE};

/// The longest path of a Unix socket, in bytes.
const MAX_SOCKET_PATH: usize = 107;

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
        let origin = text("GFPROXY_ORIGIN", check_base)
            .map_err(|error| SettingsError { value: shown(&error.value), ..error })?;
        let metrics = text("GFPROXY_METRICS", |address| {
            let port =
                address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
            matches!(port, Some(Ok(_)))
                .then_some(())
                .ok_or_else(|| "not HOST:PORT with a port from 0 to 65535".to_owned())
        })?;
        let mut settings = Self { origin, metrics, ..Self::default() };
        if let Some(socket) = set("GFPROXY_SOCKET") {
            if socket.len() > MAX_SOCKET_PATH {
                return Err(refused("GFPROXY_SOCKET", &socket, format!("longer than {MAX_SOCKET_PATH} bytes")));
            }
            settings.channel.socket = PathBuf::from(socket);
        }
        let channel = &mut settings.channel;
        if let Some(segments) = read("GFPROXY_SEGMENTS", 1..=MAX_SEGMENTS)? {
            channel.segments = segments;
        }
        if let Some(size) = read("GFPROXY_SEGMENT_SIZE", MIN_SEGMENT_SIZE..=MAX_SEGMENT_SIZE)? {
            channel.segment_size = size;
        }
        if let Err(error) = Layout::new(channel.segments, channel.segment_size) {
            let reason = format!("with GFPROXY_SEGMENT_SIZE={}: {error}", channel.segment_size);
            return Err(refused("GFPROXY_SEGMENTS", channel.segments.to_string().as_ref(), reason));
        }
        if let Some(ms) = read("GFPROXY_CACHE_WAIT_MS", 0..=u32::MAX)? {
            channel.wait = Duration::from_millis(ms.into());
        }
        if let Some(ms) = read("GFPROXY_STALL_MS", 1..=u32::MAX)? {
            settings.stall = Duration::from_millis(ms.into());
        }
        Ok(settings)
    }
}

/// The variable's value, unless it is empty.
fn set(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn refused(name: &'static str, value: &OsStr, reason: impl Into<String>) -> SettingsError {
    SettingsError { name, value: value.to_string_lossy().into_owned(), reason: reason.into() }
}

fn text(name: &'static str, check: impl Fn(&str) -> Result<(), String>) -> Result<Option<String>, SettingsError> {
    let Some(value) = set(name) else { return Ok(None) };
    let text = value.to_str().ok_or_else(|| refused(name, &value, "not UTF-8"))?;
    check(text).map_err(|reason| refused(name, &value, reason))?;
    Ok(Some(text.to_owned()))
}

fn read(name: &'static str, range: RangeInclusive<u32>) -> Result<Option<u32>, SettingsError> {
    let Some(value) = set(name) else { return Ok(None) };
    let number = value.to_str().and_then(|value| value.parse().ok()).filter(|number| range.contains(number));
    let reason = || format!("not a number from {} to {}", range.start(), range.end());
    number.map(Some).ok_or_else(|| refused(name, &value, reason()))
}
