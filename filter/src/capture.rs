//! What is asked of the host about a finished request, and how its answer becomes bytes by field.
//!
//! A [`Plan`] is compiled from the configuration: which fields and headers are wanted of every request, and which of
//! those only whose records are kept. Each of these two [`Stage`]s can be asked for as one CEL list for `expr_evaluate`
//! (one host call for all of it) and as property paths (one host call each, where CEL is missing or fails). Either answer
//! fills the same [`Captured`], which goes to [`crate::request`]. Nothing is dropped here: a field that the host does not
//! have is empty.

mod field;
mod plan;
mod stage;

pub use field::Field;
pub use plan::Plan;
pub use stage::Stage;

/// The values of one request, by the slots of a [`Plan`]: those of its first stage, then those of the rest, if they were
/// asked for. Reused from request to request.
#[derive(Debug, Default)]
pub struct Captured {
    first: Values,
    rest: Values,
}

#[derive(Debug, Default)]
struct Values {
    bytes: Vec<u8>,
    spans: Vec<(u32, u32)>,
}

/// Why a CEL answer could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl Captured {
    /// Takes the answer to a CEL list as the first values of a request: proxy-wasm's serialized pairs, u32 little-endian
    /// count, then a u32 length of the value and a u32 length of the unused second half for each, then for each value its
    /// bytes, NUL, the second half, NUL.
    ///
    /// # Errors
    /// When the answer is not `slots` such values; then nothing is known of the request.
    pub fn take_list(&mut self, answer: Vec<u8>, slots: usize) -> Result<(), Malformed> {
        self.rest.clear();
        self.first.take_list(answer, slots)
    }

    /// Takes a further answer, whose slots follow those that are there.
    ///
    /// # Errors
    /// When the answer is not `slots` such values; then only the first ones are known.
    pub fn extend_with_list(&mut self, answer: Vec<u8>, slots: usize) -> Result<(), Malformed> {
        self.rest.take_list(answer, slots)
    }

    /// Forgets the last request.
    pub fn clear(&mut self) {
        self.first.clear();
        self.rest.clear();
    }

    /// Appends the next slot's value, as the property path answers it; `None` is a value that the host does not have.
    pub fn push(&mut self, value: Option<&[u8]>) {
        let values = if self.rest.spans.is_empty() { &mut self.first } else { &mut self.rest };
        values.push(value);
    }

    /// The bytes in a slot; empty where the host has none.
    pub fn slot(&self, slot: usize) -> &[u8] {
        match slot.checked_sub(self.first.spans.len()) {
            None => self.first.slot(slot),
            Some(slot) => self.rest.slot(slot),
        }
    }
}

impl Values {
    fn take_list(&mut self, answer: Vec<u8>, slots: usize) -> Result<(), Malformed> {
        self.bytes = answer;
        self.spans.clear();
        let read = self.read_spans(slots);
        if read.is_err() {
            self.clear();
        }
        read
    }

    fn read_spans(&mut self, slots: usize) -> Result<(), Malformed> {
        let count = self.u32_at(0).ok_or(Malformed)? as usize;
        if count != slots {
            return Err(Malformed);
        }
        let mut at = slots.checked_mul(8).and_then(|sizes| sizes.checked_add(4)).ok_or(Malformed)?;
        for slot in 0..slots {
            let value_len = self.u32_at(4 + 8 * slot).ok_or(Malformed)?;
            let unused_len = self.u32_at(8 + 8 * slot).ok_or(Malformed)?;
            let start = u32::try_from(at).map_err(|_| Malformed)?;
            let end = start.checked_add(value_len).ok_or(Malformed)?;
            self.spans.push((start, end));
            at = (end as usize)
                .checked_add(2)
                .and_then(|at| at.checked_add(unused_len as usize))
                .ok_or(Malformed)?;
        }
        if at == self.bytes.len() { Ok(()) } else { Err(Malformed) }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
    }

    fn push(&mut self, value: Option<&[u8]>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value.unwrap_or_default());
        let span =
            (u32::try_from(start).unwrap_or(u32::MAX), u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
        self.spans.push(span);
    }

    fn slot(&self, slot: usize) -> &[u8] {
        let span =
            self.spans.get(slot).and_then(|&(start, end)| self.bytes.get(start as usize..end as usize));
        span.unwrap_or_default()
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(values: &[&[u8]]) -> Vec<u8> {
        let mut answer = (values.len() as u32).to_le_bytes().to_vec();
        for value in values {
            answer.extend((value.len() as u32).to_le_bytes());
            answer.extend(0u32.to_le_bytes());
        }
        for value in values {
            answer.extend_from_slice(value);
            answer.extend([0, 0]);
        }
        answer
    }

    #[test]
    fn a_list_fills_the_slots_that_single_values_would_fill() {
        let values: [&[u8]; 4] = [b"GET", b"", &200u64.to_le_bytes(), b"\xff\x00\xfe"];
        let (mut by_list, mut by_value) = (Captured::default(), Captured::default());
        by_list.take_list(list(&values), 4).unwrap();
        values.iter().for_each(|value| by_value.push(Some(value)));
        for (slot, value) in values.iter().enumerate() {
            assert_eq!(by_list.slot(slot), *value);
            assert_eq!(by_value.slot(slot), *value);
        }
        assert_eq!(by_list.slot(4), b"");
    }

    #[test]
    fn the_rest_follows_the_first_however_either_was_asked_for() {
        let (first, rest): ([&[u8]; 2], [&[u8]; 2]) = ([b"GET", b"/"], [b"", b"curl"]);
        for (first_listed, rest_listed) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut captured = Captured::default();
            captured.take_list(list(&[b"another", b"request"]), 2).unwrap();
            captured.extend_with_list(list(&[b"altogether"]), 1).unwrap();
            captured.clear();
            if first_listed {
                captured.take_list(list(&first), 2).unwrap();
            } else {
                first.iter().for_each(|value| captured.push(Some(value)));
            }
            if rest_listed {
                captured.extend_with_list(list(&rest), 2).unwrap();
            } else {
                assert_eq!(captured.extend_with_list(list(&rest), 3), Err(Malformed));
                rest.iter().for_each(|value| captured.push(Some(value)));
            }
            let slots: Vec<_> = (0..5).map(|slot| captured.slot(slot)).collect();
            assert_eq!(slots, [b"GET", &b"/"[..], b"", b"curl", b""]);
        }
    }

    #[test]
    fn a_list_of_another_length_or_with_bytes_left_over_is_malformed() {
        let answer = list(&[b"GET", b"/"]);
        let mut captured = Captured::default();
        assert_eq!(captured.take_list(answer.clone(), 2), Ok(()));
        assert_eq!(captured.take_list(answer.clone(), 3), Err(Malformed));
        assert_eq!(captured.take_list([answer.as_slice(), b"x"].concat(), 2), Err(Malformed));
        for cut in 0..answer.len() {
            assert_eq!(captured.take_list(answer[..cut].to_vec(), 2), Err(Malformed), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..120), slots in 0usize..6) {
            let mut captured = Captured::default();
            if captured.take_list(bytes, slots).is_ok() {
                (0..slots).for_each(|slot| { captured.slot(slot); });
            }
        }
    }
}
