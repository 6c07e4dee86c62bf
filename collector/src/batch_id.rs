//! Batch ids: what a sender calls a batch, and keeps over retries.
//!
//! In: the header `x-offpath-batch`. Out: a key under which a batch is stored once, and for `<uuid>-<sequence>` also
//! the sender and its sequence number, in which a gap means loss. A key of another shape still deduplicates, but
//! names no sender. Requests without the header have no id and are never taken for duplicates.

/// The header that carries a batch id.
pub const HEADER: &str = "x-offpath-batch";

/// The longest batch id, in bytes.
pub const MAX_BYTES: usize = 128;

/// Between a batch's id and the number of its dead letter.
const LETTER: char = '#';

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

    /// The sender's uuid, of a batch or of a dead letter of it.
    #[must_use]
    pub fn sender(&self) -> Option<&str> {
        let batch = self.0.split_once(LETTER).map_or(self.0.as_str(), |(batch, _)| batch);
        sequence(batch).map(|(sender, _)| sender)
    }

    /// The id of the batch's dead letter `letter` when that is put back: no duplicate of the batch, nor a number of its
    /// sender's sequence, but still that sender's.
    #[must_use]
    pub fn of_letter(text: &str, letter: i64) -> String {
        let batch = text.split_once(LETTER).map_or(text, |(batch, _)| batch);
        format!("{batch}{LETTER}{letter}")
    }

    /// The sender's uuid and the sequence number, counted from 1, when the id is `<uuid>-<sequence>`.
    #[must_use]
    pub fn sequence(&self) -> Option<(&str, i64)> {
        sequence(&self.0)
    }
}

fn sequence(text: &str) -> Option<(&str, i64)> {
    let (sender, sequence) = text.rsplit_once('-')?;
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
    fn a_dead_letter_is_its_batchs_senders_and_has_no_place_in_the_sequence() {
        let (first, again) = (format!("{UUID}-17#3"), format!("{UUID}-17#4"));
        assert_eq!(BatchId::of_letter(&format!("{UUID}-17"), 3), first);
        assert_eq!(BatchId::of_letter(&first, 4), again);
        let id = BatchId::parse(first.as_bytes()).unwrap();
        assert_eq!((id.sender(), id.sequence()), (Some(UUID), None));
        assert_eq!(BatchId::parse(format!("{UUID}-17").as_bytes()).unwrap().sender(), Some(UUID));
        assert_eq!(BatchId::parse(b"x#3").unwrap().sender(), None);
    }

    #[test]
    fn length_and_characters_are_bounded() {
        assert!(BatchId::parse(&[b'a'; MAX_BYTES]).is_ok());
        for value in [&[b'a'; MAX_BYTES + 1][..], b"", b"a b", b"\xff", "ä".as_bytes()] {
            assert!(BatchId::parse(value).is_err(), "{value:?}");
        }
    }
}
