//! What must never be told, and is taken out before anything is encoded: values of query parameters and headers that carry
//! secrets, path segments whose template names them, user info of URLs, and as much of the client's address as the
//! user wants hidden.
//!
//! Bytes from outside come in, bytes that may be told go to [`crate::record`]. A record is encoded once, and whatever
//! leaves the plugin of a request (a batch, a line in the proxy's log) is made of its bytes: so what is taken out here is
//! in none of them. Where it is doubtful what a text means, more is taken out rather than less.

mod address;
mod escape;
mod finding;
mod names;
mod params;
mod templates;
mod user_info;

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::{ClientAddress, Config, ConfigError, Redact};
use crate::route::Routes;
use escape::Text;
use finding::Finding;
use names::ParamNames;
use templates::Templates;

pub use names::MAX_PARAM_NAME_BYTES;

/// What stands in place of a value.
pub const REDACTED: &str = "REDACTED";

/// What kind of text it is in which secrets are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A URL's path.
    Path,
    /// Anything else: a query, or a header, which may be a URL or a list of them.
    Text,
}

/// Tells the values of a request as far as they may be told.
#[derive(Debug)]
pub struct Redactor {
    params: ParamNames,
    /// Sorted.
    secret_headers: Vec<String>,
    templates: Option<Templates>,
    client_address: ClientAddress,
    /// Headers that records tell under names of their own.
    is_user_agent_secret: bool,
    is_request_id_secret: bool,
    is_host_secret: bool,
}

impl Redactor {
    /// Whether all of it can be redacted.
    ///
    /// # Errors
    /// When `redact.path_params` names a parameter that no template has.
    pub fn check(redact: &Redact, routes: &Routes) -> Result<(), ConfigError> {
        Templates::check(&redact.path_params, routes)
    }

    /// What `redact.*` and `logs.client_address` say, and the built-in lists. The configuration has passed [`Redactor::check`]: a parameter
    /// that no template has is never found, and so told.
    pub fn new(config: &Config, routes: &Arc<Routes>) -> Self {
        let secret_headers = names::secret_headers(&config.redact.header_values);
        let is_secret = |name: &str| secret_headers.iter().any(|known| known == name);
        Self {
            params: ParamNames::new(&config.redact.query_params),
            templates: Templates::new(&config.redact.path_params, routes),
            client_address: config.logs.client_address,
            is_user_agent_secret: is_secret("user-agent"),
            is_request_id_secret: is_secret("x-request-id"),
            is_host_secret: is_secret("host"),
            secret_headers,
        }
    }

    /// A request's path. Comes before its other values, in which the secrets of its path are looked for.
    pub fn path<'v>(&mut self, path: &'v [u8]) -> Cow<'v, [u8]> {
        let found = match &mut self.templates {
            Some(templates) => templates.request_path(path),
            None if !may_hold_secrets(path) => return Cow::Borrowed(path),
            None => Vec::new(),
        };
        self.told(&Text::new(path), Place::Path, found)
    }

    /// A query, or any other text that a client chose.
    pub fn text<'v>(&self, text: &'v [u8]) -> Cow<'v, [u8]> {
        self.told(&Text::new(text), Place::Text, Vec::new())
    }

    /// Whether a header's value is only ever told as [`REDACTED`]: `name` is in lower case.
    pub fn is_secret_header(&self, name: &str) -> bool {
        self.secret_headers.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
    }

    /// The value of a header, or of something else that a user has named: `name` is in lower case. A secret header's is
    /// [`REDACTED`] as a whole, and addresses of clients are in none where they must not be told in full.
    pub fn value<'v>(&self, name: &str, value: &'v [u8]) -> Cow<'v, [u8]> {
        if value.is_empty() {
            return Cow::Borrowed(value);
        }
        if self.is_secret_header(name) {
            return Cow::Borrowed(REDACTED.as_bytes());
        }
        if self.client_address != ClientAddress::Full && address::is_address_header(name) {
            return map(Cow::Owned(address::header(name, value, self.client_address)), |told| {
                self.text(told)
            });
        }
        let text = Text::new(value);
        self.told(&text, Place::Text, address::find(&text, self.client_address))
    }

    /// The `user-agent` header.
    pub fn user_agent<'v>(&self, value: &'v [u8]) -> Cow<'v, [u8]> {
        self.unless(self.is_user_agent_secret, value)
    }

    /// The `x-request-id` header.
    pub fn request_id<'v>(&self, value: &'v [u8]) -> Cow<'v, [u8]> {
        if self.client_address != ClientAddress::Full {
            return self.value("x-request-id", value);
        }
        self.unless(self.is_request_id_secret, value)
    }

    /// The request's host or authority, without user info.
    pub fn host<'v>(&self, authority: &'v [u8]) -> Cow<'v, [u8]> {
        if self.is_host_secret && !authority.is_empty() {
            return Cow::Borrowed(REDACTED.as_bytes());
        }
        if self.templates.is_none() && !may_hold_secrets(authority) {
            return Cow::Borrowed(authority);
        }
        map(self.text(authority), |authority| {
            let text = Text::new(authority);
            let user_info = text.units(0..).filter(|(_, unit)| unit.byte == b'@').last();
            let host = user_info.and_then(|(at, unit)| authority.get(at + unit.len()..));
            Cow::Borrowed(host.unwrap_or(authority))
        })
    }

    /// The part of the client's address that may be told: `address` is Envoy's, `ip:port` or `[ip6]:port`; the port goes.
    pub fn client_address<'v>(&self, address: &'v [u8]) -> Option<Cow<'v, str>> {
        address::told(address, self.client_address)
    }

    fn unless<'v>(&self, is_secret: bool, value: &'v [u8]) -> Cow<'v, [u8]> {
        match self.templates {
            _ if is_secret && !value.is_empty() => Cow::Borrowed(REDACTED.as_bytes()),
            None if !may_hold_secrets(value) => Cow::Borrowed(value),
            _ => self.text(value),
        }
    }

    /// `text` without what was `found` in it already, and without secrets of other kinds.
    fn told<'v>(&self, text: &Text<'v>, place: Place, mut found: Vec<Finding>) -> Cow<'v, [u8]> {
        found.extend(params::find(&self.params, text, place).into_iter().map(Finding::secret));
        found.extend(user_info::find(text).into_iter().map(Finding::secret));
        if let Some(templates) = &self.templates {
            if place == Place::Text {
                found.extend(templates.paths(text));
            }
            found.extend(templates.segments(text));
        }
        if found.is_empty() {
            Cow::Borrowed(text.bytes)
        } else {
            Cow::Owned(finding::told(text.bytes, found))
        }
    }
}

/// 1 for each byte without which there is neither a parameter nor user info.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which refuses what is out of bounds")]
const SIGNS: [u8; 256] = {
    let mut signs = [0; 256];
    signs[b'=' as usize] = 1;
    signs[b'@' as usize] = 1;
    signs[b'%' as usize] = 1;
    signs[b'\\' as usize] = 1;
    // JSON's members have quotes.
    signs[b'"' as usize] = 1;
    signs[b'\'' as usize] = 1;
    signs
};

/// Whether `text` has one of the [`SIGNS`]. Nearly no path, agent or id has any, and this is all that they cost: a look at each
/// byte, without a branch.
fn may_hold_secrets(text: &[u8]) -> bool {
    text.iter().fold(0, |found, &byte| found | SIGNS.get(usize::from(byte)).unwrap_or(&1)) != 0
}

/// One redaction after another.
fn map<'v>(told: Cow<'v, [u8]>, next: impl FnOnce(&[u8]) -> Cow<'_, [u8]>) -> Cow<'v, [u8]> {
    match told {
        Cow::Borrowed(told) => next(told),
        Cow::Owned(told) => Cow::Owned(next(&told).into_owned()),
    }
}

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
