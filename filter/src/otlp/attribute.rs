//! OTLP attributes: `KeyValue { key: 1, value: AnyValue 2 }`, appended to a message under a field number of the
//! message's own choice. Source: opentelemetry-proto, `common/v1/common.proto`.

use super::wire::{bytes_field_len, put_bytes, put_header, put_varint, tag, varint_len};

/// `KeyValue`'s fields.
const KEY: u32 = 1;
const VALUE: u32 = 2;

/// `AnyValue`'s fields.
const STRING_VALUE: u32 = 1;
const BOOL_VALUE: u32 = 2;
const INT_VALUE: u32 = 3;
const DOUBLE_VALUE: u32 = 4;
const ARRAY_VALUE: u32 = 5;

/// What every attribute may cost beyond its key and its value: three tags and up to four lengths.
pub const MAX_OVERHEAD_BYTES: usize = 16;

/// Appends a string attribute.
pub fn put_str(out: &mut Vec<u8>, field: u32, key: &str, value: &str) {
    put_text(out, field, key, value.as_bytes());
}

/// Appends a string attribute of bytes that are known to be UTF-8.
pub fn put_text(out: &mut Vec<u8>, field: u32, key: &str, value: &[u8]) {
    let any_len = 2 + value.len();
    if any_len < 0x80 {
        let head = [tag::bytes(VALUE), any_len as u8, tag::bytes(STRING_VALUE), value.len() as u8];
        begin(out, field, key, head.len() + value.len());
        out.extend_from_slice(&head);
        out.extend_from_slice(value);
    } else {
        let any_len = bytes_field_len(value.len());
        begin(out, field, key, bytes_field_len(any_len));
        put_header(out, VALUE, any_len);
        put_bytes(out, STRING_VALUE, value);
    }
}

/// Appends an attribute that is an array of one string, the form of header attributes.
pub fn put_one_str_array(out: &mut Vec<u8>, field: u32, key: &str, value: &str) {
    put_str_array(out, field, key, &[value]);
}

/// Appends an attribute that is an array of strings.
pub fn put_str_array(out: &mut Vec<u8>, field: u32, key: &str, values: &[impl AsRef<str>]) {
    let element_len = |value: &str| bytes_field_len(value.len());
    let array_len = values.iter().map(|value| bytes_field_len(element_len(value.as_ref()))).sum();
    let any_len = bytes_field_len(array_len);
    begin(out, field, key, bytes_field_len(any_len));
    put_header(out, VALUE, any_len);
    put_header(out, ARRAY_VALUE, array_len);
    for value in values.iter().map(AsRef::as_ref) {
        put_header(out, 1, element_len(value));
        put_bytes(out, STRING_VALUE, value.as_bytes());
    }
}

/// Appends an integer attribute; a negative one is passed as its two's complement.
pub fn put_int(out: &mut Vec<u8>, field: u32, key: &str, value: u64) {
    let any_len = 1 + varint_len(value);
    begin(out, field, key, 2 + any_len);
    out.extend_from_slice(&[tag::bytes(VALUE), any_len as u8, tag::varint(INT_VALUE)]);
    put_varint(out, value);
}

/// Appends a double attribute.
pub fn put_f64(out: &mut Vec<u8>, field: u32, key: &str, value: f64) {
    begin(out, field, key, 2 + 9);
    out.extend_from_slice(&[tag::bytes(VALUE), 9, tag::fixed64(DOUBLE_VALUE)]);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

/// Appends a boolean attribute.
pub fn put_bool(out: &mut Vec<u8>, field: u32, key: &str, value: bool) {
    begin(out, field, key, 2 + 2);
    out.extend_from_slice(&[tag::bytes(VALUE), 2, tag::varint(BOOL_VALUE), u8::from(value)]);
}

/// Appends the `KeyValue` up to its value, which is to follow with its own tag and length in `value_len` bytes.
fn begin(out: &mut Vec<u8>, field: u32, key: &str, value_len: usize) {
    let len_if_short = 2 + key.len() + value_len;
    if len_if_short < 0x80 {
        // Nearly all are: one append instead of four counts, for this is where a record's time goes.
        out.extend_from_slice(&[tag::bytes(field), len_if_short as u8, tag::bytes(KEY), key.len() as u8]);
    } else {
        put_header(out, field, bytes_field_len(key.len()) + value_len);
        put_header(out, KEY, key.len());
    }
    out.extend_from_slice(key.as_bytes());
}
