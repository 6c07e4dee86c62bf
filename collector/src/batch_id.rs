//! Batch ids: what a sender calls a batch, and keeps over retries.
//!
//! In: the header `x-offpath-batch`. Out: a key under which a batch is stored once, and for `<uuid>-<sequence>` also
//! the sender and its sequence number, in which a gap means loss. A key of another shape still deduplicates, but
//! names no sender. Requests without the header have no id and are never taken for duplicates. Dead letters that are put
//! back have keys of the store's own ([`of_letter`]), which no header can hold.

/// The header that carries a batch id.
pub const HEADER: &str = "x-offpath-batch";

/// The longest batch id, in bytes.
pub const MAX_BYTES: usize = 128;

/// Between a batch's id and the number of its dead letter: what [`BatchId::parse`] refuses, so that no sender has such an id.
const LETTER: char = ' ';

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
}

/// The key of the dead letter `letter` of a batch that is stored under `key`, when it is put back: no duplicate of the
/// batch, nor a number of its sender's sequence, but still that sender's.
#[must_use]
pub fn of_letter(key: &str, letter: i64) -> String {
    format!("{}{LETTER}{letter}", batch(key))
}

/// The sender's uuid, of a batch that is stored under `key` or of a dead letter of it.
#[must_use]
pub fn sender(key: &str) -> Option<&str> {
    sequence(batch(key)).map(|(sender, _)| sender)
}

fn batch(key: &str) -> &str {
    key.split_once(LETTER).map_or(key, |(batch, _)| batch)
}

/// The sender's uuid and the sequence number, counted from 1, when `key` is `<uuid>-<sequence>`.
#[must_use]
pub fn sequence(key: &str) -> Option<(&str, i64)> {
    let (sender, sequence) = key.rsplit_once('-')?;
    let digits = sequence.bytes().all(|byte| byte.is_ascii_digit()) && !sequence.starts_with('0');
    (digits && is_uuid(sender)).then(|| sequence.parse().ok())?.map(|sequence| (sender, sequence))
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
        assert_eq!(sequence(&format!("{UUID}-17")), Some((UUID, 17)));
        assert_eq!(sender(&format!("{UUID}-17")), Some(UUID));
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
            &format!("{UUID}-17#3"),
        ] {
            let id = BatchId::parse(text.as_bytes()).unwrap();
            assert_eq!((sequence(id.as_str()), sender(id.as_str())), (None, None), "{text}");
        }
    }

    #[test]
    fn a_dead_letter_is_its_batchs_senders_and_has_no_place_in_the_sequence() {
        let first = of_letter(&format!("{UUID}-17"), 3);
        assert_eq!((sender(&first), sequence(&first)), (Some(UUID), None));
        assert_eq!(of_letter(&first, 4), of_letter(&format!("{UUID}-17"), 4));
        assert_eq!(sender(&of_letter("x", 3)), None);
    }

    #[test]
    fn no_header_can_hold_the_key_of_a_dead_letter() {
        for id in [format!("{UUID}-17"), "run#1".to_owned()] {
            assert!(BatchId::parse(of_letter(&id, 2).as_bytes()).is_err(), "{id}");
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
