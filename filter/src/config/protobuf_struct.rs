//! Decodes `google.protobuf.Struct`, the form in which Envoy passes a configuration that is written as YAML or JSON
//! right in the proxy's configuration. Source: protobuf, `google/protobuf/struct.proto`.

use serde_json::{Map, Number, Value};

use crate::otlp::wire::{Field, Reader};

/// Deeper values are refused: no key of the configuration is nearly as deep.
const MAX_DEPTH: usize = 16;

/// The object that `message` encodes; `None` when it encodes none.
pub(super) fn decode(message: &[u8]) -> Option<Value> {
    object(message, MAX_DEPTH)
}

/// `Struct { fields: 1 }`, each `{ key: 1, value: 2 }`.
fn object(message: &[u8], depth: usize) -> Option<Value> {
    let mut entries = Map::new();
    for field in fields(message)? {
        let (1, Field::Bytes(entry)) = field else { return None };
        let (mut key, mut entry_value) = ("", Value::Null);
        for field in fields(entry)? {
            match field {
                (1, Field::Bytes(text)) => key = str::from_utf8(text).ok()?,
                (2, Field::Bytes(message)) => entry_value = value(message, depth.checked_sub(1)?)?,
                _ => return None,
            }
        }
        entries.insert(key.to_owned(), entry_value);
    }
    Some(Value::Object(entries))
}

/// `Value { null: 1, number: 2, string: 3, bool: 4, struct: 5, list: 6 }`, of which the last one counts.
fn value(message: &[u8], depth: usize) -> Option<Value> {
    let mut last = Value::Null;
    for field in fields(message)? {
        last = match field {
            (1, Field::Varint(_)) => Value::Null,
            (2, Field::Fixed64(bits)) => Value::Number(Number::from_f64(f64::from_bits(bits))?),
            (3, Field::Bytes(text)) => Value::String(str::from_utf8(text).ok()?.to_owned()),
            (4, Field::Varint(flag)) => Value::Bool(flag != 0),
            (5, Field::Bytes(message)) => object(message, depth)?,
            (6, Field::Bytes(message)) => list(message, depth)?,
            _ => return None,
        };
    }
    Some(last)
}

/// `ListValue { values: 1 }`.
fn list(message: &[u8], depth: usize) -> Option<Value> {
    let items = fields(message)?.into_iter().map(|field| match field {
        (1, Field::Bytes(message)) => value(message, depth.checked_sub(1)?),
        _ => None,
    });
    items.collect::<Option<Vec<_>>>().map(Value::Array)
}

/// All fields of a message; `None` when it is broken.
fn fields(message: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut reader = Reader::new(message);
    let fields = reader.by_ref().collect();
    reader.rest().is_empty().then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::wire::{put_bytes, put_double, put_uint};
    use proptest::prelude::*;
    use serde_json::json;

    fn encode_value(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        match value {
            Value::Null => put_uint(&mut out, 1, 0),
            Value::Number(number) => put_double(&mut out, 2, number.as_f64().unwrap()),
            Value::String(text) => put_bytes(&mut out, 3, text.as_bytes()),
            Value::Bool(flag) => put_uint(&mut out, 4, u64::from(*flag)),
            Value::Object(_) => put_bytes(&mut out, 5, &encode(value)),
            Value::Array(items) => {
                let mut list = Vec::new();
                items.iter().for_each(|item| put_bytes(&mut list, 1, &encode_value(item)));
                put_bytes(&mut out, 6, &list);
            }
        }
        out
    }

    fn encode(object: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        for (key, value) in object.as_object().unwrap() {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, key.as_bytes());
            put_bytes(&mut entry, 2, &encode_value(value));
            put_bytes(&mut out, 1, &entry);
        }
        out
    }

    #[test]
    fn a_struct_configures_as_json_does() {
        let json = json!({
            "collector": {"cluster": "otlp", "max_in_flight": 3, "headers": {"authorization": "Bearer t"}},
            "logs": {"enabled": true, "request_headers": ["x-a", "x-b"], "max_record_bytes": 512},
        });
        let by_struct = crate::config::Config::parse(&encode(&json)).unwrap();
        assert_eq!(by_struct, crate::config::Config::parse(json.to_string().as_bytes()).unwrap());
        assert_eq!((by_struct.collector.max_in_flight, by_struct.logs.max_record_bytes), (3, 512));
    }

    #[test]
    fn mistakes_in_a_struct_are_named_as_in_json() {
        let parse = |json: Value| crate::config::Config::parse(&encode(&json)).unwrap_err().to_string();
        let error = parse(json!({"collector": {"cluster": "c", "max_in_flight": 1.5}}));
        assert!(error.contains("`collector.max_in_flight`: is `1.5`"), "{error}");
        let error = parse(json!({"collector": {"cluster": "c"}, "logs": null}));
        assert!(error.contains("`logs`: is `null`"), "{error}");
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| (0..depth).fold(json!({}), |inner, _| json!({"k": inner}));
        assert_eq!(decode(&encode(&nested(MAX_DEPTH))), Some(nested(MAX_DEPTH)));
        assert_eq!(decode(&encode(&nested(MAX_DEPTH + 1))), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_struct_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            decode(&bytes);
        }
    }
}
