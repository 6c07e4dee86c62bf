//! The framing of protobuf messages: field after field, borrowed, nothing allocated.
//!
//! In: the bytes of one message. Out: its fields, for [`super::logs`], [`super::metrics`] and [`super::traces`] to walk
//! down to single records. Prost's derive decodes whole messages only; the varints are read by prost.

use super::Malformed;

/// The value of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A length-delimited field: string, bytes, embedded message or packed numbers.
    Bytes(&'a [u8]),
    /// A varint.
    Varint(u64),
    /// A fixed-width number, which nothing here looks into.
    Fixed,
}

/// The fields of one message, in the order of the wire.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    message: &'static str,
    rest: &'a [u8],
}

/// Reads the fields of `bytes`; `message` is its name in errors.
#[must_use]
pub fn fields<'a>(message: &'static str, bytes: &'a [u8]) -> Fields<'a> {
    Fields { message, rest: bytes }
}

/// The length-delimited fields `tag` of `bytes`; other fields are skipped, but must be well-formed.
pub fn messages<'a>(
    message: &'static str,
    bytes: &'a [u8],
    tag: u32,
) -> impl Iterator<Item = Result<&'a [u8], Malformed>> {
    fields(message, bytes).filter_map(move |field| match field {
        Ok((found, Value::Bytes(bytes))) if found == tag => Some(Ok(bytes)),
        Ok((found, _)) if found == tag => {
            Some(Err(Malformed::Wire { message, reason: format!("field {tag} is not length-delimited") }))
        }
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).ok().filter(|tag| *tag > 0);
        let tag = tag.ok_or_else(|| self.error(format!("invalid field key `{key}`")))?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            other => return Err(self.error(format!("invalid wire type `{other}` of field {tag}"))),
        };
        Ok((tag, value))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        // A length delimiter is a plain varint, as are keys and numbers.
        match prost::decode_length_delimiter(&mut self.rest) {
            Ok(number) => Ok(number as u64),
            Err(error) => Err(self.error(error.to_string())),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let Some((taken, rest)) = self.rest.split_at_checked(length) else {
            return Err(
                self.error(format!("a field of {length} bytes ends after {} of them", self.rest.len()))
            );
        };
        self.rest = rest;
        Ok(taken)
    }

    fn error(&self, reason: String) -> Malformed {
        Malformed::Wire { message: self.message, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_the_order_of_the_wire() {
        let bytes = [0x0a, 2, b'h', b'i', 0x10, 0x96, 0x01, 0x1d, 1, 2, 3, 4];
        let read: Result<Vec<_>, _> = fields("Test", &bytes).collect();
        assert_eq!(read.unwrap(), [(1, Value::Bytes(b"hi")), (2, Value::Varint(150)), (3, Value::Fixed)]);
    }

    #[test]
    fn broken_framing_is_one_error_and_then_the_end() {
        let cases: [(&[u8], &str); 5] = [
            (&[0x0a, 5, 1], "Test: a field of 5 bytes ends after 1 of them"),
            (&[0x00, 1], "Test: invalid field key `0`"),
            (&[0x0b], "Test: invalid wire type `3` of field 1"),
            (&[0x09, 1, 2], "Test: a field of 8 bytes ends after 2 of them"),
            (&[0xff; 11], "Test: failed to decode Protobuf message: invalid varint"),
        ];
        for (bytes, expected) in cases {
            let read: Vec<_> = fields("Test", bytes).collect();
            assert_eq!(read.len(), 1, "{bytes:?}");
            assert_eq!(read[0].clone().unwrap_err().to_string(), expected);
        }
    }
}
