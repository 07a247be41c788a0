//! What an operator can set about an origin.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The limits of an [`Origin`](super::Origin). A time of zero is no limit. For the connect timeout, zero is libcurl's
/// 300 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// For one connection: name, TCP and TLS.
    pub connect_timeout: Duration,
    /// From the start of an attempt to the first byte of the body, redirects included.
    pub first_byte_timeout: Duration,
    /// The bytes a second below which a body is given up, measured over `low_speed_time`. The client's time does not
    /// count.
    pub low_speed_limit: u64,
    /// See `low_speed_limit`.
    pub low_speed_time: Duration,
    /// For the whole answer, the client's time included.
    pub total_timeout: Duration,
    /// How often a request is repeated that failed before the header was sent.
    pub retries: u32,
    /// How often a body that broke off is gone on with, unless it made progress meanwhile.
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
    /// What they, and the bodies that wait for slow clients of a shared request, may take of the disk.
    pub spool_disk_total: u64,
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
            spool_disk_total: 16 << 30,
            spool_ceiling: 4 << 30,
            ca_file: None,
            ca_directory: None,
        }
    }
}

/// A variable of the environment that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?}: not a whole number of {unit}")]
pub struct ConfigError {
    name: String,
    value: OsString,
    unit: &'static str,
}

impl Config {
    /// The defaults, with the changes that the environment asks for. docs/reference/origin.md lists the variables. An
    /// empty variable counts as none.
    pub fn from_environment() -> Result<Self, ConfigError> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let number = |name: &str, unit: &'static str| match get(name) {
            None => Ok(None),
            Some(value) => match value.to_str().and_then(|text| text.parse::<u32>().ok()) {
                Some(number) => Ok(Some(number)),
                None => Err(ConfigError { name: name.to_owned(), value, unit }),
            },
        };
        let mut config = Self::default();
        for (name, limit) in [
            ("GFPROXY_ORIGIN_CONNECT_MS", &mut config.connect_timeout),
            ("GFPROXY_ORIGIN_FIRST_BYTE_MS", &mut config.first_byte_timeout),
            ("GFPROXY_ORIGIN_LOW_SPEED_MS", &mut config.low_speed_time),
            ("GFPROXY_ORIGIN_TOTAL_MS", &mut config.total_timeout),
            ("GFPROXY_ORIGIN_RETRY_MS", &mut config.retry_within),
        ] {
            if let Some(ms) = number(name, "milliseconds")? {
                *limit = Duration::from_millis(ms.into());
            }
        }
        for (name, count) in [
            ("GFPROXY_ORIGIN_RETRIES", &mut config.retries),
            ("GFPROXY_ORIGIN_RESUMES", &mut config.resumes),
            ("GFPROXY_ORIGIN_REDIRECTS", &mut config.redirects),
        ] {
            if let Some(n) = number(name, "times")? {
                *count = n;
            }
        }
        if let Some(bytes) = number("GFPROXY_ORIGIN_LOW_SPEED", "bytes a second")? {
            config.low_speed_limit = bytes.into();
        }
        for (name, size) in [
            ("GFPROXY_ORIGIN_SPOOL_MEMORY_KB", &mut config.spool_memory),
            ("GFPROXY_ORIGIN_SPOOL_TOTAL_KB", &mut config.spool_memory_total),
            ("GFPROXY_ORIGIN_SPOOL_DISK_KB", &mut config.spool_disk_total),
            ("GFPROXY_ORIGIN_SPOOL_CEILING_KB", &mut config.spool_ceiling),
        ] {
            if let Some(kib) = number(name, "KiB")? {
                *size = u64::from(kib) << 10;
            }
        }
        // As curl(1) has it.
        let bundle = get("CURL_CA_BUNDLE");
        if bundle.is_none() {
            config.ca_directory = get("SSL_CERT_DIR").map(PathBuf::from);
        }
        config.ca_file = bundle.or_else(|| get("SSL_CERT_FILE")).map(PathBuf::from);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_variables(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn variables_change_the_defaults() {
        assert_eq!(from(&[]), Ok(Config::default()));
        let config = from(&[
            ("GFPROXY_ORIGIN_CONNECT_MS", "250"),
            ("GFPROXY_ORIGIN_TOTAL_MS", ""),
            ("GFPROXY_ORIGIN_REDIRECTS", "0"),
            ("GFPROXY_ORIGIN_LOW_SPEED", "7"),
            ("GFPROXY_ORIGIN_SPOOL_DISK_KB", "0"),
            ("GFPROXY_ORIGIN_SPOOL_CEILING_KB", "4294967295"),
            ("SSL_CERT_FILE", "/ca.pem"),
            ("SSL_CERT_DIR", "/ca"),
        ]);
        let expected = Config {
            connect_timeout: Duration::from_millis(250),
            redirects: 0,
            low_speed_limit: 7,
            spool_disk_total: 0,
            spool_ceiling: 4_294_967_295 << 10,
            ca_file: Some("/ca.pem".into()),
            ca_directory: Some("/ca".into()),
            ..Config::default()
        };
        assert_eq!(config, Ok(expected));
    }

    #[test]
    fn curls_own_bundle_goes_first() {
        let config = from(&[("CURL_CA_BUNDLE", "/a"), ("SSL_CERT_FILE", "/b"), ("SSL_CERT_DIR", "/c")]);
        let expected = Config { ca_file: Some("/a".into()), ..Config::default() };
        assert_eq!(config, Ok(expected));
    }

    #[test]
    fn a_bad_variable_is_named() {
        for bad in ["5s", "-1", "1e3", "4294967296", " 1"] {
            let error = from(&[("GFPROXY_ORIGIN_FIRST_BYTE_MS", bad)]).expect_err(bad).to_string();
            assert_eq!(error, format!("GFPROXY_ORIGIN_FIRST_BYTE_MS={bad:?}: not a whole number of milliseconds"));
        }
    }
}
