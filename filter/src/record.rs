//! One finished request as an OTLP `LogRecord`, encoded straight into a batch's buffer.
//!
//! [`crate::request`] comes in; bytes go to [`crate::batch`]. A record never exceeds its bound: long values are cut at
//! a character's boundary, attributes that find no room are left out and counted in `dropped_attributes_count`, and
//! in both cases `offpath.truncated` says so. What matters most comes first, so that it is cut last.
//! Sources: opentelemetry-proto, `logs/v1/logs.proto`; OpenTelemetry's semantic conventions 1.44.0 for HTTP and RPC.

mod budget;

use std::borrow::Cow;
use std::fmt::Write;

use crate::capture::{AttributeValue, Field};
use crate::config::{Attribute, Logs};
use crate::otlp::attribute::{
    put_bool, put_f64, put_int, put_one_str_array, put_str, put_str_array, put_text,
};
use crate::otlp::envelope::ITEM;
use crate::otlp::wire::{Open, bytes_field_len, put_bytes, put_fixed32, put_fixed64, put_header, put_uint};
use crate::redact::{REDACTED, Redactor};
use crate::request::{FinishedRequest, Method};
use budget::Budget;

/// Field numbers of `LogRecord`.
mod log_record {
    pub(super) const TIME_UNIX_NANO: u32 = 1;
    pub(super) const SEVERITY_NUMBER: u32 = 2;
    pub(super) const SEVERITY_TEXT: u32 = 3;
    pub(super) const BODY: u32 = 5;
    pub(super) const ATTRIBUTES: u32 = 6;
    pub(super) const DROPPED_ATTRIBUTES_COUNT: u32 = 7;
    pub(super) const FLAGS: u32 = 8;
    pub(super) const TRACE_ID: u32 = 9;
    pub(super) const SPAN_ID: u32 = 10;
    pub(super) const OBSERVED_TIME_UNIX_NANO: u32 = 11;
    pub(super) const EVENT_NAME: u32 = 12;
}

/// The name of every record's event.
const EVENT_NAME: &str = "http.server.request";

/// The most bytes of single values.
#[derive(Debug, Clone, Copy)]
struct Limits {
    path: usize,
    query: usize,
    user_agent: usize,
    header: usize,
    text: usize,
}

impl Limits {
    /// For records of 8 KiB: path and query 2 KiB each, user agent 512 bytes, all else 256. Larger records take longer
    /// values in proportion; smaller ones leave out what does not fit.
    fn new(max_record_bytes: usize) -> Self {
        let part = |one_in: usize, least: usize| (max_record_bytes / one_in).max(least);
        Self {
            path: part(4, 2048),
            query: part(4, 2048),
            user_agent: part(16, 512),
            header: part(32, 256),
            text: part(32, 256),
        }
    }
}

/// Encodes records as the configuration wants them.
#[derive(Debug)]
pub struct Encoder {
    max_record_bytes: usize,
    redactor: Redactor,
    request_headers: Vec<Header>,
    response_headers: Vec<Header>,
    /// Those that the user has named.
    attributes: Vec<NamedAttribute>,
    limits: Limits,
}

#[derive(Debug)]
struct NamedAttribute {
    key: String,
    /// What its expression names last: of a path that leads to a header, that header.
    source: String,
    /// Whether it may have been taken from a secret header.
    is_secret: bool,
}

impl NamedAttribute {
    fn told<'v>(&self, value: &'v [u8], redactor: &Redactor) -> Cow<'v, [u8]> {
        if self.is_secret && !value.is_empty() {
            return Cow::Borrowed(REDACTED.as_bytes());
        }
        redactor.value(&self.source, value)
    }
}

#[derive(Debug)]
struct Header {
    name: String,
    key: String,
}

impl Encoder {
    /// For records of at most `max_record_bytes`, which may be less than the configuration allows but is 256 or more.
    pub fn new(config: &Logs, redactor: Redactor, max_record_bytes: usize) -> Self {
        let headers = |side, names: &[String]| {
            let header =
                |name: &String| Header { name: name.clone(), key: format!("http.{side}.header.{name}") };
            names.iter().map(header).collect()
        };
        let attribute = |Attribute { name, expression }: &Attribute| {
            let has_secret = expression.words.iter().any(|word| redactor.is_secret_header(header_of(word)));
            NamedAttribute {
                key: name.clone(),
                source: expression.words.last().cloned().unwrap_or_default(),
                is_secret: has_secret || expression.has_unnamed_headers,
            }
        };
        let attributes = config.attributes.iter().map(attribute).collect();
        Self {
            max_record_bytes,
            redactor,
            request_headers: headers("request", &config.request_headers),
            response_headers: headers("response", &config.response_headers),
            attributes,
            limits: Limits::new(max_record_bytes),
        }
    }

    /// Appends the record of `request` to `out`, as an item of a request's scope.
    pub fn encode(&mut self, request: &FinishedRequest<'_>, now_unix_nano: u64, out: &mut Vec<u8>) {
        let record = Open::<3>::begin(out, ITEM);
        let budget = Budget::new(out.len(), self.max_record_bytes);
        let mut writer = RecordWriter { budget, limits: self.limits, out };
        let (path, query) = request.path_and_query();
        let path = self.redactor.path(path);
        let path = text_of(&path, self.limits.path);
        writer.times_and_ids(request, now_unix_nano);
        writer.body(request, &path, self.max_record_bytes / 4);
        self.attributes(request, &path, query, &mut writer);
        writer.finish();
        record.end(out);
    }

    fn attributes(
        &self,
        request: &FinishedRequest<'_>,
        path: &str,
        query: Option<&[u8]>,
        out: &mut RecordWriter<'_>,
    ) {
        let outcome = &request.outcome;
        let limits = self.limits;
        out.str("http.request.method", request.method.as_str());
        if let Some(status) = outcome.status {
            out.int("http.response.status_code", u64::from(status));
        }
        let duration =
            if request.is_outbound { "http.client.request.duration" } else { "http.server.request.duration" };
        out.f64(duration, request.duration_nano as f64 / 1e9);
        out.f64("offpath.sample.weight", request.sample_weight);
        if let Some(error_type) = outcome.error_type {
            error_type.with_str(|text| out.str("error.type", text));
        }
        if let Some(status) = outcome.grpc_status {
            out.str("rpc.system.name", "grpc");
            out.str("rpc.response.status_code", status.as_str());
        }
        if let Some(scheme) = request.scheme {
            out.str("url.scheme", scheme.as_str());
        }
        if let Some(version) = request.protocol_version {
            out.str("network.protocol.version", version.as_str());
        }
        if let Some(upstream) = request.upstream_duration_nano {
            out.f64("envoy.upstream.duration", upstream as f64 / 1e9);
        }
        if let Some(kind) = request.stream_kind() {
            out.str("offpath.stream.kind", kind.as_str());
        }
        out.counts(request);
        if let Some(route) = request.route {
            out.str("http.route", route.template);
        }
        out.str_within("url.path", path, limits.path);
        out.flags(request);
        out.text("envoy.response.code_details", request.bytes(Field::CodeDetails), limits.text);
        out.text("envoy.upstream.cluster", request.bytes(Field::Cluster), limits.text);
        out.text("envoy.upstream.address", request.bytes(Field::UpstreamAddress), limits.text);
        out.text("envoy.route.name", request.bytes(Field::RouteName), limits.text);
        let redactor = &self.redactor;
        out.text("envoy.request.id", &redactor.request_id(request.bytes(Field::RequestId)), limits.text);
        if let Some(address) = redactor.client_address(request.bytes(Field::ClientAddress)) {
            out.str_within("client.address", &address, limits.text);
        }
        out.server(&redactor.host(request.bytes(Field::Host)));
        if request.method == Method::Other {
            let method = redactor.value(":method", request.bytes(Field::Method));
            out.text("http.request.method_original", &method, limits.text);
        }
        if let Some(query) = query.filter(|query| !query.is_empty()) {
            out.text("url.query", &redactor.text(query), limits.query);
        }
        let user_agent = redactor.user_agent(request.bytes(Field::UserAgent));
        out.text("user_agent.original", &user_agent, limits.user_agent);
        for (index, attribute) in self.attributes.iter().enumerate() {
            if let Ok(Some(value)) = request.attribute(index) {
                out.attribute(attribute, &value, redactor);
            }
        }
        for (index, header) in self.request_headers.iter().enumerate() {
            out.header(header, &redactor.value(&header.name, request.request_header(index)));
        }
        for (index, header) in self.response_headers.iter().enumerate() {
            out.header(header, &redactor.value(&header.name, request.response_header(index)));
        }
    }
}

/// A record that is being written, within its budget.
struct RecordWriter<'o> {
    out: &'o mut Vec<u8>,
    budget: Budget,
    limits: Limits,
}

impl RecordWriter<'_> {
    /// Everything of fixed size; about 130 bytes.
    fn times_and_ids(&mut self, request: &FinishedRequest<'_>, now_unix_nano: u64) {
        let severity = request.outcome.severity();
        put_fixed64(self.out, log_record::TIME_UNIX_NANO, request.start_unix_nano);
        put_fixed64(self.out, log_record::OBSERVED_TIME_UNIX_NANO, now_unix_nano);
        put_uint(self.out, log_record::SEVERITY_NUMBER, severity.number());
        put_bytes(self.out, log_record::SEVERITY_TEXT, severity.text().as_bytes());
        put_bytes(self.out, log_record::EVENT_NAME, EVENT_NAME.as_bytes());
        if let Some(context) = request.trace_context() {
            put_bytes(self.out, log_record::TRACE_ID, &context.trace_id);
            put_bytes(self.out, log_record::SPAN_ID, &context.span_id);
            put_fixed32(self.out, log_record::FLAGS, u32::from(context.flags));
        }
    }

    /// One line for people, `GET /orders/7 200 12ms`: the path is cut to `max_path_len` bytes.
    fn body(&mut self, request: &FinishedRequest<'_>, path: &str, max_path_len: usize) {
        let path = self.budget.cut(path, self.limits.path.min(max_path_len));
        let (mut status_digits, mut ms_digits) = (itoa::Buffer::new(), itoa::Buffer::new());
        let parts = [
            request.method.as_str(),
            " ",
            if path.is_empty() { "-" } else { path },
            " ",
            request.outcome.status.map_or("-", |status| status_digits.format(status)),
            " ",
            ms_digits.format(request.duration_nano / 1_000_000),
            "ms",
        ];
        let len = parts.iter().map(|part| part.len()).sum();
        put_header(self.out, log_record::BODY, bytes_field_len(len));
        put_header(self.out, 1, len);
        parts.iter().for_each(|part| self.out.extend_from_slice(part.as_bytes()));
    }

    /// One of the conventions' own values, which are short.
    fn str(&mut self, key: &str, value: &str) {
        self.str_within(key, value, self.limits.text);
    }

    fn int(&mut self, key: &str, value: u64) {
        if self.budget.admits(self.out, key, 10) {
            put_int(self.out, log_record::ATTRIBUTES, key, value);
        }
    }

    fn f64(&mut self, key: &str, value: f64) {
        if self.budget.admits(self.out, key, 8) {
            put_f64(self.out, log_record::ATTRIBUTES, key, value);
        }
    }

    /// An empty value is an attribute without a value, and left out.
    fn str_within(&mut self, key: &str, value: &str, max_len: usize) {
        if value.is_empty() {
            return;
        }
        if let Some(value) = self.budget.fit(self.out, key, value, max_len) {
            put_str(self.out, log_record::ATTRIBUTES, key, value);
        }
    }

    /// Any bytes.
    fn text(&mut self, key: &str, value: &[u8], max_len: usize) {
        // Nearly all are ASCII and fit, which takes less time to find out than whether they are UTF-8.
        if value.is_ascii() && self.budget.has_room(self.out, key, value.len(), max_len) {
            if !value.is_empty() {
                put_text(self.out, log_record::ATTRIBUTES, key, value);
            }
        } else {
            self.str_within(key, &text_of(value, max_len), max_len);
        }
    }

    /// A value of which everything may be told.
    fn header(&mut self, header: &Header, value: &[u8]) {
        if value.is_empty() {
            return;
        }
        let max_len = self.limits.header;
        let text = text_of(value, max_len);
        if let Some(text) = self.budget.fit(self.out, &header.key, &text, max_len) {
            put_one_str_array(self.out, log_record::ATTRIBUTES, &header.key, text);
        }
    }

    /// One that the user has named; an empty list is one without a value. Of a secret header nothing but a bool is told.
    fn attribute(&mut self, attribute: &NamedAttribute, value: &AttributeValue<'_>, redactor: &Redactor) {
        let (key, max_len) = (attribute.key.as_str(), self.limits.text);
        match value {
            AttributeValue::Bool(value) => {
                if self.budget.admits(self.out, key, 1) {
                    put_bool(self.out, log_record::ATTRIBUTES, key, *value);
                }
            }
            AttributeValue::Texts(values) => self.texts(attribute, values, redactor),
            AttributeValue::Text(value) => self.text(key, &attribute.told(value, redactor), max_len),
            _ if attribute.is_secret => self.str(key, REDACTED),
            // OTLP's `int_value` is signed.
            AttributeValue::Int(value) => self.int(key, value.cast_unsigned()),
            AttributeValue::Double(value) => self.f64(key, *value),
        }
    }

    /// A list, of which each text is cut as one alone would be; where not all of them fit, it is left out.
    fn texts(&mut self, attribute: &NamedAttribute, values: &[&[u8]], redactor: &Redactor) {
        // The tags and lengths of a text within its list.
        const ITEM_OVERHEAD_BYTES: usize = 8;
        let max_len = self.limits.text;
        let values: Vec<String> = values
            .iter()
            .map(|value| {
                let told = attribute.told(value, redactor);
                self.budget.cut(&text_of(&told, max_len), max_len).to_owned()
            })
            .collect();
        let len = values.iter().map(|value| value.len() + ITEM_OVERHEAD_BYTES).sum();
        if !values.is_empty() && self.budget.admits(self.out, &attribute.key, len) {
            put_str_array(self.out, log_record::ATTRIBUTES, &attribute.key, &values);
        }
    }

    fn counts(&mut self, request: &FinishedRequest<'_>) {
        for (key, field) in
            [("http.request.size", Field::RequestSize), ("http.response.size", Field::ResponseSize)]
        {
            if let Some(count) = request.count(field) {
                self.int(key, count);
            }
        }
    }

    fn flags(&mut self, request: &FinishedRequest<'_>) {
        if request.outcome.flags.is_empty() {
            return;
        }
        let mut names = String::new();
        for name in request.outcome.flags.names() {
            let _ = write!(names, "{}{name}", if names.is_empty() { "" } else { "," });
        }
        self.str("envoy.response.flags", &names);
    }

    /// `host`, `host:port`, `[ip6]`, `[ip6]:port`.
    fn server(&mut self, authority: &[u8]) {
        let port_at = authority.iter().rposition(|&byte| byte == b':').filter(|&at| {
            let digits = authority.get(at + 1..).unwrap_or_default();
            !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
        });
        let host = port_at.and_then(|at| authority.get(..at)).unwrap_or(authority);
        let host = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
        self.text("server.address", host, self.limits.text);
        let port = port_at.and_then(|at| str::from_utf8(authority.get(at + 1..)?).ok()?.parse::<u16>().ok());
        if let Some(port) = port {
            self.int("server.port", u64::from(port));
        }
    }

    fn finish(self) {
        if self.budget.was_exceeded() {
            put_bool(self.out, log_record::ATTRIBUTES, "offpath.truncated", true);
            if self.budget.left_out() > 0 {
                put_uint(self.out, log_record::DROPPED_ATTRIBUTES_COUNT, self.budget.left_out());
            }
        }
    }
}

/// The header that a word of an expression stands for: Envoy has names of its own for some, and others are called as they are.
fn header_of(word: &str) -> &str {
    match word {
        "useragent" => "user-agent",
        "id" => "x-request-id",
        ":authority" => "host",
        _ => word,
    }
}

/// Bytes as text, of which at most `max_len` bytes are wanted: what is not UTF-8 becomes U+FFFD. What lies far beyond the
/// bound is not looked at; one more byte shows that something was cut.
fn text_of(bytes: &[u8], max_len: usize) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes.get(..=max_len).unwrap_or(bytes))
}

#[cfg(test)]
mod tests;
