//! Batch ids: what a sender calls a batch, and keeps over retries.
//!
//! In: the header `x-offpath-batch`. Out: a key under which a batch is stored once, and for `<uuid>-<sequence>` also
//! the sender and its sequence number, in which a gap means loss. A key of another shape still deduplicates, but
//! names no sender. Requests without the header have no id and are never taken for duplicates.

/// The header that carries a batch id.
pub const HEADER: &str = "x-offpath-batch";

/// The longest batch id, in bytes.
pub const MAX_BYTES: usize = 128;

/// A batch's id: 1 to [`MAX_BYTES`] visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BatchId(String);

/// Why a header is no batch id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{HEADER} has {bytes} bytes or characters that are not visible ASCII: 1 to {MAX_BYTES} visible ASCII characters are allowed"
)]
pub struct InvalidBatchId {
    bytes: usize,
}

impl BatchId {
    /// Reads a header's value.
    ///
    /// # Errors
    /// [`InvalidBatchId`].
    pub fn parse(value: &[u8]) -> Result<Self, InvalidBatchId> {
        let bytes = value.len();
        match str::from_utf8(value) {
            Ok(text) if (1..=MAX_BYTES).contains(&bytes) && value.iter().all(u8::is_ascii_graphic) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(InvalidBatchId { bytes }),
        }
    }

    /// The id as it was sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The sender's uuid and the sequence number, counted from 1, when the id is `<uuid>-<sequence>`.
    #[must_use]
    pub fn sequence(&self) -> Option<(&str, i64)> {
        let (sender, sequence) = self.0.rsplit_once('-')?;
        let digits = sequence.bytes().all(|byte| byte.is_ascii_digit()) && !sequence.starts_with('0');
        (digits && is_uuid(sender)).then(|| sequence.parse().ok())?.map(|sequence| (sender, sequence))
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(position, byte)| match position {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0b9e4c1e-6f1d-4d6e-9a55-2f1f6f1c2a3b";

    #[test]
    fn a_uuid_and_a_sequence_name_a_sender() {
        let id = BatchId::parse(format!("{UUID}-17").as_bytes()).unwrap();
        assert_eq!(id.sequence(), Some((UUID, 17)));
    }

    #[test]
    fn other_shapes_are_keys_without_a_sender() {
        for text in [
            "x",
            UUID,
            &format!("{UUID}-0"),
            &format!("{UUID}-01"),
            &format!("{UUID}-+1"),
            &format!("x{UUID}-1"),
            &format!("{UUID}-9223372036854775808"),
        ] {
            assert_eq!(BatchId::parse(text.as_bytes()).unwrap().sequence(), None, "{text}");
        }
    }

    #[test]
    fn length_and_characters_are_bounded() {
        assert!(BatchId::parse(&[b'a'; MAX_BYTES]).is_ok());
        for value in [&[b'a'; MAX_BYTES + 1][..], b"", b"a b", b"\xff", "ä".as_bytes()] {
            assert!(BatchId::parse(value).is_err(), "{value:?}");
        }
    }
}
