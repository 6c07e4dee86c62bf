//! Protobuf's encoding: fields appended to a byte vector, and a reader for the few messages that come back.
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

/// Wire type of 64-bit values that always take eight bytes.
const FIXED64: u32 = 1;
/// Wire type of everything that carries its length: strings, bytes, messages, packed repeated fields.
const LENGTH_DELIMITED: u32 = 2;
/// Wire type of 32-bit values that always take four bytes.
const FIXED32: u32 = 5;

/// The tags that fields begin with. Field numbers are below 16, as all of OTLP's that are written here: so a tag is one byte.
pub mod tag {
    /// Of integers and booleans.
    pub const fn varint(field: u32) -> u8 {
        of(field, 0)
    }

    /// Of doubles and fixed 64-bit integers.
    pub const fn fixed64(field: u32) -> u8 {
        of(field, super::FIXED64)
    }

    /// Of strings, bytes, messages and packed repeated fields.
    pub const fn bytes(field: u32) -> u8 {
        of(field, super::LENGTH_DELIMITED)
    }

    /// Of fixed 32-bit integers.
    pub const fn fixed32(field: u32) -> u8 {
        of(field, super::FIXED32)
    }

    const fn of(field: u32, wire_type: u32) -> u8 {
        debug_assert!(field < 16);
        (field << 3 | wire_type) as u8
    }
}

/// Appends an unsigned integer, seven bits a byte, least significant first.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes [`put_varint`] takes.
#[inline]
pub const fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends the tag of a varint field and its value.
#[inline]
pub fn put_uint(out: &mut Vec<u8>, field: u32, value: u64) {
    out.push(tag::varint(field));
    put_varint(out, value);
}

/// Appends a `sint32`/`sint64` field, zigzag-encoded.
#[inline]
pub fn put_sint(out: &mut Vec<u8>, field: u32, value: i64) {
    put_uint(out, field, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a `fixed64` field.
#[inline]
pub fn put_fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    out.push(tag::fixed64(field));
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a `fixed32` field.
#[inline]
pub fn put_fixed32(out: &mut Vec<u8>, field: u32, value: u32) {
    out.push(tag::fixed32(field));
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a `double` field.
#[inline]
pub fn put_double(out: &mut Vec<u8>, field: u32, value: f64) {
    put_fixed64(out, field, value.to_bits());
}

/// Appends the tag and the length of a length-delimited field; its `len` bytes are for the caller to append.
#[inline]
pub fn put_header(out: &mut Vec<u8>, field: u32, len: usize) {
    if len < 0x80 {
        // Nearly all are: one append instead of two.
        out.extend_from_slice(&[tag::bytes(field), len as u8]);
    } else {
        out.push(tag::bytes(field));
        put_varint(out, len as u64);
    }
}

/// Appends a length-delimited field.
#[inline]
pub fn put_bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    put_header(out, field, value.len());
    out.extend_from_slice(value);
}

/// How many bytes [`put_bytes`] takes.
#[inline]
pub const fn bytes_field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// A message whose length is not known when it begins: [`Open::begin`] leaves `WIDTH` bytes for it,
/// [`Open::end`] fills them in.
///
/// The length is a varint padded with continuation bits, which every conforming decoder reads; it saves moving the
/// message afterwards. `WIDTH` bytes hold lengths below 2^(7 `WIDTH`).
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Open<const WIDTH: usize> {
    length_at: usize,
}

impl<const WIDTH: usize> Open<WIDTH> {
    /// Appends the tag of `field` and the place of its length.
    #[inline]
    pub fn begin(out: &mut Vec<u8>, field: u32) -> Self {
        out.push(tag::bytes(field));
        let length_at = out.len();
        out.extend_from_slice(&[0; WIDTH]);
        Self { length_at }
    }

    /// Ends the message where `out` ends now.
    #[inline]
    pub fn end(self, out: &mut [u8]) {
        let mut len = out.len().saturating_sub(self.length_at + WIDTH);
        if let Some(place) = out.get_mut(self.length_at..self.length_at + WIDTH) {
            for (index, byte) in place.iter_mut().enumerate() {
                *byte = (len & 0x7f) as u8 | if index + 1 < WIDTH { 0x80 } else { 0 };
                len >>= 7;
            }
        }
    }
}

/// One field of a message that is being read.
#[derive(Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// A varint.
    Varint(u64),
    /// A length-delimited field's bytes.
    Bytes(&'a [u8]),
    /// Eight bytes, little-endian.
    Fixed64(u64),
    /// Four bytes, whose value nobody here asks for.
    Fixed32,
}

/// Reads a message's fields in order: number and value. Ends at the first byte that cannot be read, for what was
/// read before it is all that can be known.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `message`.
    pub fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// What has not been read: after the last field nothing, unless the message is broken.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let field = match (tag & 7) as u32 {
            0 => Field::Varint(self.varint()?),
            LENGTH_DELIMITED => {
                let len = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(len)?)
            }
            FIXED64 => Field::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            FIXED32 => self.take(4).map(|_| Field::Fixed32)?,
            _ => return None,
        };
        Some((tag >> 3, field))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = (u64, Field<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let unread = self.0;
        let field = self.field();
        if field.is_none() {
            self.0 = unread;
        }
        field
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn varints_take_as_many_bytes_as_announced() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value), "{value}");
            assert_eq!(Reader::new(&out).varint(), Some(value));
        }
    }

    #[test]
    fn a_padded_length_reads_as_the_length() {
        for len in [0usize, 1, 127, 128, 20_000] {
            let mut out = Vec::new();
            let open = Open::<3>::begin(&mut out, 2);
            out.resize(out.len() + len, b'x');
            open.end(&mut out);
            let fields: Vec<_> = Reader::new(&out).collect();
            assert_eq!(fields, [(2, Field::Bytes(&vec![b'x'; len][..]))]);
        }
    }

    proptest! {
        #[test]
        fn reading_any_bytes_ends(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Reader::new(&bytes).count() <= bytes.len());
        }
    }
}
