//! OTLP's attribute values as JSON.
//!
//! In: `AnyValue` and `KeyValue` lists, and ids. Out: JSON with OTLP's names and JSON's own types: string, bool, whole number,
//! double, array, object. Bytes become base64 and doubles that JSON lacks become `"NaN"`, `"Infinity"` and
//! `"-Infinity"`, as in protobuf's JSON mapping. Where a key comes twice, the last one stays.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use serde_json::Value;

/// Attributes by name. Sorted, so that equal maps are equal texts: resources and streams are recognised by them.
pub type Attributes = BTreeMap<String, Value>;

/// The attributes of a list.
#[must_use]
pub fn attributes(list: &[KeyValue]) -> Attributes {
    list.iter().map(|pair| (pair.key.clone(), optional(pair.value.as_ref()))).collect()
}

/// One value; an absent one is `null`.
#[must_use]
pub fn optional(value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        None => Value::Null,
        Some(any_value::Value::StringValue(text)) => Value::from(text.as_str()),
        Some(any_value::Value::BoolValue(flag)) => Value::from(*flag),
        Some(any_value::Value::IntValue(number)) => Value::from(*number),
        Some(any_value::Value::DoubleValue(number)) => double(*number),
        Some(any_value::Value::BytesValue(bytes)) => Value::from(STANDARD.encode(bytes)),
        Some(any_value::Value::ArrayValue(array)) => {
            array.values.iter().map(|value| optional(Some(value))).collect()
        }
        Some(any_value::Value::KvlistValue(list)) => {
            list.values.iter().map(|pair| (pair.key.clone(), optional(pair.value.as_ref()))).collect()
        }
        // An index into the string table of profiles; in other signals it refers to nothing.
        Some(any_value::Value::StringValueStrindex(index)) => Value::from(*index),
    }
}

/// A trace's or span's id as hexadecimal digits, as OTLP's JSON has it.
#[must_use]
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn double(number: f64) -> Value {
    if number.is_finite() {
        Value::from(number)
    } else if number.is_nan() {
        Value::from("NaN")
    } else if number > 0.0 {
        Value::from("Infinity")
    } else {
        Value::from("-Infinity")
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValueList};
    use serde_json::json;

    use super::*;

    fn any(value: any_value::Value) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    #[test]
    fn every_type_keeps_its_json_type() {
        use any_value::Value as V;
        let pair = KeyValue { key: "k".into(), value: Some(any(V::BoolValue(true))), ..KeyValue::default() };
        let cases = [
            (V::StringValue("1".into()), json!("1")),
            (V::IntValue(i64::MAX), json!(i64::MAX)),
            (V::DoubleValue(1.0), json!(1.0)),
            (V::DoubleValue(f64::NAN), json!("NaN")),
            (V::DoubleValue(f64::NEG_INFINITY), json!("-Infinity")),
            (V::BytesValue(vec![255, 0]), json!("/wA=")),
            (
                V::ArrayValue(ArrayValue { values: vec![any(V::IntValue(1)), AnyValue::default()] }),
                json!([1, null]),
            ),
            (V::KvlistValue(KeyValueList { values: vec![pair] }), json!({"k": true})),
        ];
        for (value, expected) in cases {
            assert_eq!(optional(Some(&any(value))), expected);
        }
    }

    #[test]
    fn the_last_of_two_equal_keys_stays() {
        let pair = |number| KeyValue {
            key: "k".into(),
            value: Some(any(any_value::Value::IntValue(number))),
            ..KeyValue::default()
        };
        assert_eq!(attributes(&[pair(1), pair(2)]), Attributes::from([("k".into(), json!(2))]));
    }
}
