//! OTLP attributes: `KeyValue { key: 1, value: AnyValue 2 }`, appended to a message under a field number of the
//! message's own choice. Source: opentelemetry-proto, `common/v1/common.proto`.

use super::wire::{bytes_field_len, put_bytes, put_double, put_header, put_uint, put_varint, varint_len};

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
    begin(out, field, key, bytes_field_len(value.len()));
    put_bytes(out, STRING_VALUE, value.as_bytes());
}

/// Appends an attribute that is an array of one string, the form of header attributes.
pub fn put_one_str_array(out: &mut Vec<u8>, field: u32, key: &str, value: &str) {
    let any = bytes_field_len(value.len());
    let array = bytes_field_len(any);
    begin(out, field, key, bytes_field_len(array));
    put_header(out, ARRAY_VALUE, array);
    put_header(out, 1, any);
    put_bytes(out, STRING_VALUE, value.as_bytes());
}

/// Appends an integer attribute. Values are counts and codes, never negative.
pub fn put_int(out: &mut Vec<u8>, field: u32, key: &str, value: u64) {
    begin(out, field, key, 1 + varint_len(value));
    put_uint(out, INT_VALUE, value);
}

/// Appends a double attribute.
pub fn put_f64(out: &mut Vec<u8>, field: u32, key: &str, value: f64) {
    begin(out, field, key, 9);
    put_double(out, DOUBLE_VALUE, value);
}

/// Appends a boolean attribute.
pub fn put_bool(out: &mut Vec<u8>, field: u32, key: &str, value: bool) {
    begin(out, field, key, 2);
    put_uint(out, BOOL_VALUE, u64::from(value));
}

/// Appends the `KeyValue` up to the `AnyValue`, of which `any_len` bytes are to follow.
#[inline]
fn begin(out: &mut Vec<u8>, field: u32, key: &str, any_len: usize) {
    put_header(out, field, bytes_field_len(key.len()) + bytes_field_len(any_len));
    put_bytes(out, KEY, key.as_bytes());
    put_varint(out, u64::from(VALUE << 3 | 2));
    put_varint(out, any_len as u64);
}
