//! Secrets in all the places where a client, or the application, can put bytes that a record may tell, in many encodings;
//! and a search for them in what came out, in any encoding.
//!
//! Every secret contains [`MARKER`], every client's address ends like [`ADDRESSES`]: so one search finds whichever it is.
//! [`planted`] goes to the plugin's tests here and in real Envoy; nothing is dropped.

mod places;

use std::fmt::Write as _;
use std::slice;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode;
use serde_json::{Value, json};

/// Is in every secret, and in nothing else.
pub const MARKER: &str = "Xq7ZwLr9";

/// What tells the client's addresses from their networks, as text.
pub const ADDRESSES: [&str; 3] = ["113.177", "f17e:7177", "cb0071b1"];

/// A request with one secret in it.
#[derive(Clone, Debug)]
pub struct Planted {
    /// What kind of place it is in, and how the name beside it is written.
    pub place: String,
    /// How the secret is written.
    pub encoding: &'static str,
    /// Path and query.
    pub target: String,
    /// Request headers; `host` is among them only where the secret is in it.
    pub headers: Vec<(&'static str, String)>,
    /// Headers that the application answers with.
    pub response_headers: Vec<(&'static str, String)>,
    /// Whether nothing but `redact.path_params` says that it is a secret.
    pub needs_path_params: bool,
}

/// The parts of the plugin's configuration that all of it is planted for.
#[must_use]
pub fn config() -> Value {
    json!({
        "logs": {
            "request_headers": REQUEST_HEADERS,
            "response_headers": ["location", "link", "set-cookie", "x-session"],
            "client_address": "truncated",
        },
        "routes": ["/reset/{token}", "/a/{id}/{token}.pdf", "/files/{*rest}", "/orders/{id}"],
        "redact": {
            "query_params": ["pin"],
            "header_values": ["x-session"],
            "path_params": ["token", "rest"],
        },
    })
}

/// Other configurations with which nothing of it may be told, each with its name and whether it is for secrets, too, that need
/// `redact.path_params`.
#[must_use]
pub fn other_configs() -> Vec<(&'static str, Value, bool)> {
    let with = |changes: &[(&str, &str, Value)]| {
        let mut changed = config();
        for (section, key, value) in changes {
            if let Some(section) = changed.get_mut(*section).and_then(Value::as_object_mut) {
                section.insert((*key).to_owned(), value.clone());
            }
        }
        changed
    };
    let no_address = ("logs", "client_address", json!("none"));
    let attributes = [
        ("logs", "attributes", attributes()),
        ("logs", "request_headers", json!([])),
        ("logs", "response_headers", json!([])),
    ];
    let no_path_params = ("redact", "path_params", json!([]));
    vec![
        ("no path parameters", with(slice::from_ref(&no_path_params)), false),
        ("no client addresses", with(slice::from_ref(&no_address)), true),
        ("attributes", with(&attributes), true),
        ("attributes, no client addresses", with(&[&attributes[..], &[no_address]].concat()), true),
        ("attributes, no path parameters", with(&[&attributes[..], &[no_path_params]].concat()), false),
    ]
}

/// `logs.attributes` of whatever tells of what a client sends.
fn attributes() -> Value {
    let header = |name: &&str| ((*name).to_owned(), json!(format!("request.headers['{name}']")));
    let others = [
        ("path", "request.path"),
        ("url_path", "request.url_path"),
        ("query", "request.query"),
        ("host", "request.host"),
        ("agent", "request.useragent"),
        ("id", "request.id"),
        ("client", "source.address"),
        ("clients", "['at ' + source.address, request.path]"),
        ("line", "request.method + ' ' + request.path + ' ' + request.host"),
        ("note", "'x-note' in request.headers ? 'seen: ' + request.headers['x-note'] : ''"),
        ("location", "response.headers['location']"),
        ("headers", "request.headers.map(name, request.headers[name])"),
        ("all", "request.headers"),
    ];
    let others = others.map(|(name, expression)| (name.to_owned(), json!(expression)));
    REQUEST_HEADERS.iter().map(header).chain(others).collect::<serde_json::Map<_, _>>().into()
}

const REQUEST_HEADERS: [&str; 17] = [
    "authorization",
    "cookie",
    "x-api-key",
    "x-session",
    "referer",
    "origin",
    "x-original-url",
    "x-envoy-original-path",
    "x-forwarded-host",
    "x-note",
    "x-forwarded-for",
    "x-real-ip",
    "forwarded",
    "x-envoy-external-address",
    "true-client-ip",
    "cf-connecting-ip",
    "x-client-ip",
];

/// All secrets, each in a request of its own.
#[must_use]
pub fn planted() -> Vec<Planted> {
    places::all()
}

/// The forms in which a secret is looked for, each with its name.
#[must_use]
pub fn forms() -> Vec<(String, String)> {
    let reversed: String = MARKER.chars().rev().collect();
    let mut forms = vec![
        ("as it is".to_owned(), MARKER.to_owned()),
        ("reversed".to_owned(), reversed),
        ("percent-encoded".to_owned(), percent(MARKER)),
        ("percent-encoded twice".to_owned(), percent(&percent(MARKER))),
        ("hexadecimal".to_owned(), hex(MARKER.as_bytes())),
        ("JSON escapes".to_owned(), json_escapes()),
        ("JSON escapes within JSON".to_owned(), json_escapes().replace('\\', "\\\\")),
        ("UTF-16".to_owned(), MARKER.chars().flat_map(|char| [char, '\0']).collect()),
    ];
    for shift in 0..3 {
        let encoded = STANDARD.encode(format!("{}{MARKER}", "a".repeat(shift)));
        // Only the characters that stand for nothing but the marker's bits.
        let (begin, end) = ((8 * shift).div_ceil(6), 8 * (shift + MARKER.len()) / 6);
        let form = encoded.get(begin..end).unwrap_or_default().to_owned();
        forms.push((format!("base64, shifted by {shift}"), form));
    }
    forms.extend(ADDRESSES.map(|address| (format!("the address {address}"), address.to_owned())));
    forms
}

/// The first secret in `output`, with its form and what is around it; upper and lower case are the same, and all escapes are
/// looked into.
#[must_use]
pub fn found(output: &[u8]) -> Option<String> {
    let forms: Vec<_> = forms().into_iter().map(|(name, form)| (name, form.to_ascii_lowercase())).collect();
    let mut view = String::from_utf8_lossy(output).to_ascii_lowercase();
    for depth in 0.. {
        for (name, form) in &forms {
            if let Some((before, after)) = view.split_once(form.as_str()) {
                let before: String = before.chars().rev().take(120).collect();
                let before: String = before.chars().rev().collect();
                let after: String = after.chars().take(60).collect();
                return Some(format!("{name}, decoded {depth} times: …{before}[{form}]{after}…"));
            }
        }
        let decoded = percent_decode(view.as_bytes()).decode_utf8_lossy().to_ascii_lowercase();
        if decoded == view {
            break;
        }
        view = decoded;
    }
    None
}

/// Every byte as an escape.
fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "%{byte:02X}");
        out
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn json_escapes() -> String {
    MARKER.bytes().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "\\u{byte:04x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_secret_is_found_in_its_own_request() {
        for planted in planted() {
            let request = format!("{} {:?} {:?}", planted.target, planted.headers, planted.response_headers);
            assert!(found(request.as_bytes()).is_some(), "{planted:?}");
        }
    }

    #[test]
    fn every_form_is_found_and_nothing_else() {
        for (name, form) in forms() {
            assert!(found(format!("x{form}y").as_bytes()).is_some(), "{name}");
        }
        assert_eq!(found(b"GET /orders/REDACTED 200 12ms 203.0.113.0 2001:db8:1::"), None);
    }
}
