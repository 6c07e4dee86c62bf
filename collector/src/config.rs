//! The configuration: flags, or the same names in a TOML file.
//!
//! In: the command line and, with `--config`, a file; a flag wins over the file. Out: a checked [`Config`]. Unknown
//! keys, wrong types and numbers out of range are errors that name the key, the value and what is allowed.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::auth::Token;

/// What can be set, each as `--flag` and as the key `flag` (with `_` for `-`) of the TOML file.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address for OTLP over HTTP [default: 127.0.0.1:4318]
    #[arg(long, value_name = "IP:PORT")]
    pub otlp_http: Option<SocketAddr>,
    /// Address for the page, the API and the metrics [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT")]
    pub http: Option<SocketAddr>,
    /// Folder of the database
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The queue; `embedded` is the only one so far [default: embedded]
    #[arg(long)]
    pub queue: Option<String>,
    /// The store; `sqlite` is the only one so far [default: sqlite]
    #[arg(long)]
    pub store: Option<String>,
    /// File with the bearer token that requests must carry
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Listen off loopback without a token
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub insecure: Option<bool>,
    /// Largest request, as it comes: 1024 to 536870912 [default: 16777216]
    #[arg(long, value_name = "BYTES")]
    pub max_request_bytes: Option<u64>,
    /// Largest request after decompression: 1024 to 536870912 [default: 67108864]
    #[arg(long, value_name = "BYTES")]
    pub max_decompressed_bytes: Option<u64>,
    /// Queued bytes from which on requests are refused with 503: 65536 to 1125899906842624 [default: 1073741824]
    #[arg(long, value_name = "BYTES")]
    pub max_queue_bytes: Option<u64>,
    /// Free disk below which requests are refused with 503: 0 to 1125899906842624 [default: 268435456]
    #[arg(long, value_name = "BYTES")]
    pub min_free_disk_bytes: Option<u64>,
    /// Open connections of each listener at most, more wait: 1 to 65536 [default: 1024]
    #[arg(long, value_name = "COUNT")]
    pub max_connections: Option<u64>,
    /// How long a connection may be open without a request under way: 1 to 3600000 [default: 120000]
    #[arg(long, value_name = "MS")]
    pub idle_timeout_ms: Option<u64>,
    /// How long a request's body may take to come, before it is refused with 503: 1 to 3600000 [default: 30000]
    #[arg(long, value_name = "MS")]
    pub body_timeout_ms: Option<u64>,
    /// How long the queue is drained after SIGTERM, the rest waits for the next start: 0 to 3600000 [default: 10000]
    #[arg(long, value_name = "MS")]
    pub shutdown_timeout_ms: Option<u64>,
}

/// Settings, complete and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address for OTLP over HTTP.
    pub otlp_http: SocketAddr,
    /// Address for the page, the API and the metrics.
    pub http: SocketAddr,
    /// Folder of the database.
    pub data: PathBuf,
    /// What requests must carry.
    pub token: Token,
    /// Largest request, as it comes.
    pub max_request_bytes: usize,
    /// Largest request after decompression.
    pub max_decompressed_bytes: usize,
    /// Queued bytes from which on requests are refused.
    pub max_queue_bytes: u64,
    /// Free disk below which requests are refused.
    pub min_free_disk_bytes: u64,
    /// Open connections of each listener at most.
    pub max_connections: u32,
    /// How long a connection may be open without a request under way.
    pub idle_timeout: Duration,
    /// How long a request's body may take to come.
    pub body_timeout: Duration,
    /// How long the queue is drained when the collector is told to end.
    pub shutdown_timeout: Duration,
}

/// A number that can be set: what it is when it is not, and what is allowed.
struct Number {
    name: &'static str,
    default: u64,
    allowed: RangeInclusive<u64>,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const PIB: u64 = 1024 * 1024 * 1024 * MIB;
/// SQLite holds no value of more than a billion bytes.
const REQUEST_BYTES: RangeInclusive<u64> = KIB..=512 * MIB;

const MAX_REQUEST_BYTES: Number =
    Number { name: "max_request_bytes", default: 16 * MIB, allowed: REQUEST_BYTES };
const MAX_DECOMPRESSED_BYTES: Number =
    Number { name: "max_decompressed_bytes", default: 64 * MIB, allowed: REQUEST_BYTES };
const MAX_QUEUE_BYTES: Number =
    Number { name: "max_queue_bytes", default: 1024 * MIB, allowed: 64 * KIB..=PIB };
const MIN_FREE_DISK_BYTES: Number =
    Number { name: "min_free_disk_bytes", default: 256 * MIB, allowed: 0..=PIB };
const MAX_CONNECTIONS: Number = Number { name: "max_connections", default: 1024, allowed: 1..=65_536 };
/// Longer than clients keep idle connections (Go: 90 s), so that they, who know when they send, close them.
const IDLE_TIMEOUT_MS: Number = Number { name: "idle_timeout_ms", default: 120_000, allowed: 1..=3_600_000 };
const BODY_TIMEOUT_MS: Number = Number { name: "body_timeout_ms", default: 30_000, allowed: 1..=3_600_000 };
const SHUTDOWN_TIMEOUT_MS: Number =
    Number { name: "shutdown_timeout_ms", default: 10_000, allowed: 0..=3_600_000 };

impl Number {
    fn check(&self, value: Option<u64>) -> Result<u64, String> {
        let value = value.unwrap_or(self.default);
        if self.allowed.contains(&value) {
            return Ok(value);
        }
        let (name, least, most) = (self.name, self.allowed.start(), self.allowed.end());
        Err(format!("{name} `{value}` is out of range: {least} to {most} is allowed"))
    }

    /// A number of bytes, or of things, in memory.
    fn size<T: TryFrom<u64>>(&self, value: Option<u64>) -> Result<T, String> {
        let value = self.check(value)?;
        T::try_from(value).map_err(|_| format!("{} `{value}` is too large for this machine", self.name))
    }

    fn milliseconds(&self, value: Option<u64>) -> Result<Duration, String> {
        self.check(value).map(Duration::from_millis)
    }
}

impl Settings {
    /// Reads the settings of a TOML file.
    ///
    /// # Errors
    /// A message with the file's name, and the line and key of the mistake.
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("configuration `{}`: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
        toml::from_str(&text).map_err(|error| failed(&error.to_string().trim_end()))
    }

    /// These settings, and `other`'s where there are none.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            otlp_http: self.otlp_http.or(other.otlp_http),
            http: self.http.or(other.http),
            data: self.data.or(other.data),
            queue: self.queue.or(other.queue),
            store: self.store.or(other.store),
            token_file: self.token_file.or(other.token_file),
            insecure: self.insecure.or(other.insecure),
            max_request_bytes: self.max_request_bytes.or(other.max_request_bytes),
            max_decompressed_bytes: self.max_decompressed_bytes.or(other.max_decompressed_bytes),
            max_queue_bytes: self.max_queue_bytes.or(other.max_queue_bytes),
            min_free_disk_bytes: self.min_free_disk_bytes.or(other.min_free_disk_bytes),
            max_connections: self.max_connections.or(other.max_connections),
            idle_timeout_ms: self.idle_timeout_ms.or(other.idle_timeout_ms),
            body_timeout_ms: self.body_timeout_ms.or(other.body_timeout_ms),
            shutdown_timeout_ms: self.shutdown_timeout_ms.or(other.shutdown_timeout_ms),
        }
    }

    /// Fills in the defaults and checks.
    ///
    /// # Errors
    /// A message that names the setting, its value and what is allowed.
    pub fn resolve(self) -> Result<Config, String> {
        only("queue", self.queue.as_deref(), "embedded")?;
        only("store", self.store.as_deref(), "sqlite")?;
        let otlp_http = self.otlp_http.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 4318)));
        let http = self.http.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080)));
        let token = self.token_file.as_deref().map(Token::read).transpose()?;
        if token.is_none() && !self.insecure.unwrap_or(false) {
            for (name, address) in [("otlp_http", otlp_http), ("http", http)] {
                if !address.ip().is_loopback() {
                    return Err(format!(
                        "{name} `{address}` is reachable from other machines: this needs token_file, or insecure"
                    ));
                }
            }
        }
        Ok(Config {
            otlp_http,
            http,
            data: self.data.ok_or("data is missing: a folder for the database is needed")?,
            token: token.unwrap_or_default(),
            max_request_bytes: MAX_REQUEST_BYTES.size(self.max_request_bytes)?,
            max_decompressed_bytes: MAX_DECOMPRESSED_BYTES.size(self.max_decompressed_bytes)?,
            max_queue_bytes: MAX_QUEUE_BYTES.check(self.max_queue_bytes)?,
            min_free_disk_bytes: MIN_FREE_DISK_BYTES.check(self.min_free_disk_bytes)?,
            max_connections: MAX_CONNECTIONS.size(self.max_connections)?,
            idle_timeout: IDLE_TIMEOUT_MS.milliseconds(self.idle_timeout_ms)?,
            body_timeout: BODY_TIMEOUT_MS.milliseconds(self.body_timeout_ms)?,
            shutdown_timeout: SHUTDOWN_TIMEOUT_MS.milliseconds(self.shutdown_timeout_ms)?,
        })
    }
}

fn only(name: &str, value: Option<&str>, allowed: &str) -> Result<(), String> {
    match value {
        Some(value) if value != allowed => {
            Err(format!("{name} `{value}` is not supported: `{allowed}` is allowed"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(toml: &str) -> Result<Config, String> {
        let settings: Settings = toml::from_str(toml).map_err(|error| error.to_string())?;
        Settings { data: Some("d".into()), ..Settings::default() }.or(settings).resolve()
    }

    #[test]
    fn defaults_listen_on_loopback() {
        let config = resolve("").unwrap();
        assert_eq!(config.otlp_http.to_string(), "127.0.0.1:4318");
        assert_eq!(config.http.to_string(), "127.0.0.1:8080");
        assert_eq!((config.max_request_bytes, config.max_decompressed_bytes), (16 << 20, 64 << 20));
    }

    #[test]
    fn mistakes_are_named_with_what_is_allowed() {
        let cases = [
            ("typo = 1", "unknown field `typo`"),
            ("queue = 'nats://x'", "queue `nats://x` is not supported: `embedded` is allowed"),
            ("store = 'postgres://x'", "store `postgres://x` is not supported: `sqlite` is allowed"),
            ("http = 'localhost'", "invalid socket address"),
            ("http = '0.0.0.0:1'", "http `0.0.0.0:1` is reachable from other machines"),
            ("otlp_http = '[::]:1'", "otlp_http `[::]:1` is reachable"),
            ("max_request_bytes = -1", "max_request_bytes"),
            ("insecure = 'yes'", "insecure"),
            ("token_file = '/nowhere/token'", "token file `/nowhere/token`"),
        ];
        for (toml, expected) in cases {
            let error = resolve(toml).unwrap_err();
            assert!(error.contains(expected), "{toml}: {error}");
        }
    }

    #[test]
    fn every_number_has_a_range_which_the_help_tells() {
        use clap::Args;
        let help = Settings::augment_args(clap::Command::new("serve")).render_long_help().to_string();
        let numbers = [
            MAX_REQUEST_BYTES,
            MAX_DECOMPRESSED_BYTES,
            MAX_QUEUE_BYTES,
            MIN_FREE_DISK_BYTES,
            MAX_CONNECTIONS,
            IDLE_TIMEOUT_MS,
            BODY_TIMEOUT_MS,
            SHUTDOWN_TIMEOUT_MS,
        ];
        let placeholders =
            help.matches("<BYTES>").count() + help.matches("<MS>").count() + help.matches("<COUNT>").count();
        assert_eq!(numbers.len(), placeholders, "each number is checked here");
        for Number { name, default, allowed } in numbers {
            let flag = format!("--{} ", name.replace('_', "-"));
            let text = help.split(&flag).nth(1).unwrap().lines().nth(1).unwrap().trim();
            let (least, most) = (*allowed.start(), *allowed.end());
            assert!(text.ends_with(&format!(": {least} to {most} [default: {default}]")), "{name}: {text}");
            for value in [least.checked_sub(1), Some(most + 1)].into_iter().flatten() {
                let error = resolve(&format!("{name} = {value}")).unwrap_err();
                let expected = format!("{name} `{value}` is out of range: {least} to {most} is allowed");
                assert_eq!(error, expected);
            }
            for value in [least, default, most] {
                resolve(&format!("{name} = {value}")).unwrap();
            }
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = Settings { max_queue_bytes: Some(100_000), ..Settings::default() };
        let file = Settings { max_queue_bytes: Some(200_000), data: Some("d".into()), ..Settings::default() };
        assert_eq!(flags.or(file).resolve().unwrap().max_queue_bytes, 100_000);
    }

    #[test]
    fn off_loopback_is_allowed_when_asked_for() {
        assert!(resolve("http = '0.0.0.0:1'\ninsecure = true").is_ok());
    }
}
