//! Records that find no room in the queue, as JSON lines for the proxy's own log, where a node's agent finds them.
//!
//! An encoded batch comes in, lines go to the shell. The lines of a second are bounded in number; what is beyond is for
//! the caller to drop.

use serde_json::{Map, Value};

use crate::otlp::wire::{Field, Reader};

/// The most lines of one second: a log that floods helps nobody.
const MAX_LINES_PER_SECOND: u64 = 1000;

/// Bounds the lines of each second.
#[derive(Debug, Default)]
pub(super) struct Spillway {
    second: u64,
    lines: u64,
}

impl Spillway {
    /// The first records of an encoded `ExportLogsServiceRequest` as lines, as many as this second still allows.
    pub(super) fn lines(&mut self, body: &[u8], now_unix_nano: u64) -> Vec<String> {
        let second = now_unix_nano / 1_000_000_000;
        if second != self.second {
            *self = Self { second, lines: 0 };
        }
        let allowed = usize::try_from(MAX_LINES_PER_SECOND.saturating_sub(self.lines)).unwrap_or(0);
        let lines: Vec<String> = records(body).take(allowed).map(line).collect();
        self.lines += lines.len() as u64;
        lines
    }
}

/// The `LogRecord`s of a request, down through `resource_logs: 1`, `scope_logs: 2`, `log_records: 2`.
fn records(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    messages(body, 1).flat_map(|resource| messages(resource, 2)).flat_map(|scope| messages(scope, 2))
}

fn messages(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    Reader::new(message).filter_map(move |field| match field {
        (found, Field::Bytes(bytes)) if found == number => Some(bytes),
        _ => None,
    })
}

/// One record as one line of JSON, without control characters in it.
fn line(record: &[u8]) -> String {
    let mut object = Map::new();
    let mut attributes = Map::new();
    for field in Reader::new(record) {
        let (key, value) = match field {
            (1, Field::Fixed64(nano)) => ("time_unix_nano", Value::from(nano)),
            (3, Field::Bytes(text)) => ("severity", text_value(text)),
            (5, Field::Bytes(any)) => ("body", any_value(any)),
            (9, Field::Bytes(id)) => ("trace_id", Value::from(hex(id))),
            (10, Field::Bytes(id)) => ("span_id", Value::from(hex(id))),
            (12, Field::Bytes(text)) => ("event_name", text_value(text)),
            (6, Field::Bytes(pair)) => {
                let key = messages(pair, 1).next().unwrap_or_default();
                let value = messages(pair, 2).next().unwrap_or_default();
                attributes.insert(String::from_utf8_lossy(key).into_owned(), any_value(value));
                continue;
            }
            _ => continue,
        };
        object.insert(key.to_owned(), value);
    }
    object.insert("attributes".to_owned(), Value::Object(attributes));
    Value::Object(object).to_string()
}

/// `AnyValue { string: 1, bool: 2, int: 3, double: 4, array: 5 }`.
fn any_value(message: &[u8]) -> Value {
    match Reader::new(message).next() {
        Some((1, Field::Bytes(text))) => text_value(text),
        Some((2, Field::Varint(flag))) => Value::from(flag != 0),
        Some((3, Field::Varint(number))) => Value::from(number),
        Some((4, Field::Fixed64(bits))) => Value::from(f64::from_bits(bits)),
        // No array that the plugin writes holds another one.
        Some((5, Field::Bytes(array))) => {
            messages(array, 1).map(|item| messages(item, 1).next().map_or(Value::Null, text_value)).collect()
        }
        _ => Value::Null,
    }
}

fn text_value(text: &[u8]) -> Value {
    Value::from(String::from_utf8_lossy(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::attribute::{put_f64, put_int, put_one_str_array, put_str};
    use crate::otlp::envelope::{Envelope, ITEM};
    use crate::otlp::wire::{Open, put_bytes, put_fixed64};

    fn body(records: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let request = Envelope::new(std::iter::empty(), "offpath", "1").begin(&mut out);
        for n in 0..records {
            let record = Open::<3>::begin(&mut out, ITEM);
            put_fixed64(&mut out, 1, n as u64);
            put_bytes(&mut out, 9, &[0xab, 1]);
            put_str(&mut out, 6, "url.path", "/a\n\"\u{1b}b");
            put_int(&mut out, 6, "http.response.status_code", 200);
            put_f64(&mut out, 6, "http.server.request.duration", 0.5);
            put_one_str_array(&mut out, 6, "http.request.header.x", "v");
            record.end(&mut out);
        }
        request.end(&mut out);
        out
    }

    #[test]
    fn a_record_is_one_line_of_json() {
        let lines = Spillway::default().lines(&body(1), 0);
        assert_eq!(
            lines,
            [concat!(
                r#"{"attributes":{"http.request.header.x":["v"],"http.response.status_code":200,"#,
                r#""http.server.request.duration":0.5,"url.path":"/a\n\"\u001bb"},"time_unix_nano":0,"trace_id":"ab01"}"#
            )]
        );
    }

    #[test]
    fn the_lines_of_a_second_are_bounded() {
        let mut spillway = Spillway::default();
        let counts: Vec<usize> = [0, 1, 999_999_999, 1_000_000_000, 3_000_000_000]
            .into_iter()
            .map(|now| spillway.lines(&body(600), now).len())
            .collect();
        assert_eq!(counts, [600, 400, 0, 600, 600]);
    }
}
