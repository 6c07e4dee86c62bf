//! What is asked of the host about a finished request, and how its answer becomes bytes by field.
//!
//! A [`Plan`] is compiled from the configuration: which fields and headers are wanted of every request, and which of
//! those only whose records are kept. Each of these two [`Stage`]s is asked for in as few host calls as is cheapest: the
//! request's headers at once, all else as a CEL list for `expr_evaluate`, or, where either fails, by property paths, one
//! host call each. All answers fill the same [`Captured`], which goes to [`crate::request`]. Nothing is dropped here: a
//! field that the host does not have is empty.

mod attribute;
mod field;
mod plan;
mod stage;

use std::slice::ChunksExact;

pub use attribute::{AttributeValue, NotAnAttribute};
pub use field::Field;
pub use plan::Plan;
use stage::Bits;
pub use stage::{NamedExpression, Stage, WantedHeader, WantedHeaders};

/// The values of one request, by the slots of a [`Plan`], in the parts in which they were answered. Reused from request to
/// request.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    parts: Vec<Values>,
    used: usize,
    failed: u64,
}

/// An answer, and where the values are in it.
#[derive(Debug, Clone, Default)]
struct Values {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

/// Why an answer could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl Captured {
    /// Takes the answer to a CEL list as the next `slots` values.
    ///
    /// # Errors
    /// When the answer is not `slots` values; then it is as if it had not come.
    pub fn take_list(&mut self, answer: Vec<u8>, slots: usize) -> Result<(), Malformed> {
        self.take(answer, |values| values.read_list(slots))
    }

    /// Takes a whole header map, of which the wanted ones are the next values.
    ///
    /// # Errors
    /// When the answer is no header map; then it is as if it had not come.
    pub fn take_headers(&mut self, answer: Vec<u8>, wanted: &WantedHeaders) -> Result<(), Malformed> {
        self.take(answer, |values| values.read_headers(wanted))
    }

    /// Forgets the last request, and frees what its values took.
    pub fn clear(&mut self) {
        for part in self.parts.iter_mut().take(self.used) {
            part.bytes = Vec::new();
        }
        self.used = 0;
        self.failed = 0;
    }

    /// How many bytes the answers take.
    pub fn bytes_len(&self) -> usize {
        self.parts.iter().take(self.used).map(|part| part.bytes.len()).sum()
    }

    /// Appends the next slot's value, as the property path answers it; `None` is a value that the host does not have.
    pub fn push(&mut self, value: Option<&[u8]>) {
        if self.used == 0 {
            self.begin_part(Vec::new());
        }
        if let Some(part) = self.used.checked_sub(1).and_then(|last| self.parts.get_mut(last)) {
            part.push(value.unwrap_or_default());
        }
    }

    /// Appends the next slot's value, which the host failed to evaluate: nothing, and it counts.
    pub fn push_failed(&mut self) {
        self.push(None);
        self.failed += 1;
    }

    /// How many values failed.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// The bytes in a slot; empty where the host has none.
    pub fn slot(&self, mut slot: usize) -> &[u8] {
        for part in self.parts.iter().take(self.used) {
            match slot.checked_sub(part.spans.len()) {
                None => return part.slot(slot),
                Some(left) => slot = left,
            }
        }
        &[]
    }

    fn take(
        &mut self,
        answer: Vec<u8>,
        read: impl FnOnce(&mut Values) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let values = self.begin_part(answer).ok_or(Malformed)?;
        let taken = read(values);
        if taken.is_err() {
            values.bytes = Vec::new();
            self.used -= 1;
        }
        taken
    }

    fn begin_part(&mut self, bytes: Vec<u8>) -> Option<&mut Values> {
        if self.used == self.parts.len() {
            self.parts.push(Values::default());
        }
        let part = self.parts.get_mut(self.used)?;
        self.used += 1;
        part.bytes = bytes;
        part.spans.clear();
        Some(part)
    }
}

impl Values {
    /// Reads a list: the first halves of pairs.
    fn read_list(&mut self, slots: usize) -> Result<(), Malformed> {
        let mut pairs = Pairs::of(&self.bytes)?;
        if pairs.len() != slots {
            return Err(Malformed);
        }
        for pair in &mut pairs {
            self.spans.push(pair?.0);
        }
        pairs.end()
    }

    /// Reads pairs of names and values. An empty answer is an empty map. A header may come several times: then its values
    /// are joined by commas, as CEL joins them, or the first one counts.
    fn read_headers(&mut self, wanted: &WantedHeaders) -> Result<(), Malformed> {
        // Nothing begins at 0, where the count is.
        const MISSING: Span = (0, 0);
        self.spans.resize(wanted.len(), MISSING);
        if self.bytes.is_empty() {
            return Ok(());
        }
        let mut repeated = 0;
        let mut pairs = Pairs::of(&self.bytes)?;
        for pair in &mut pairs {
            let (name, value) = pair?;
            for place in wanted.places(bytes_in(&self.bytes, name)) {
                match self.spans.get_mut(place) {
                    Some(span) if *span == MISSING => *span = value,
                    _ => repeated |= 1 << place,
                }
            }
        }
        pairs.end()?;
        // Each joined once: however often a client repeats a header, no more is added than the map has.
        for place in Bits(repeated) {
            if let Some(header) = wanted.get(place).filter(|header| header.is_joined) {
                let joined = self.join(&header.name)?;
                if let Some(span) = self.spans.get_mut(place) {
                    *span = joined;
                }
            }
        }
        Ok(())
    }

    /// Appends all values of a header, with commas between them.
    fn join(&mut self, name: &[u8]) -> Result<Span, Malformed> {
        let mut joined = Vec::new();
        let mut separator: &[u8] = b"";
        for pair in Pairs::of(&self.bytes)? {
            let (first, second) = pair?;
            if self.bytes_in(first) == name {
                joined.extend_from_slice(separator);
                joined.extend_from_slice(self.bytes_in(second));
                separator = b",";
            }
        }
        Ok(self.append(&joined))
    }

    fn push(&mut self, value: &[u8]) {
        let span = self.append(value);
        self.spans.push(span);
    }

    fn append(&mut self, value: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        (u32::try_from(start).unwrap_or(u32::MAX), u32::try_from(self.bytes.len()).unwrap_or(u32::MAX))
    }

    fn slot(&self, slot: usize) -> &[u8] {
        self.spans.get(slot).map(|span| self.bytes_in(*span)).unwrap_or_default()
    }

    fn bytes_in(&self, span: Span) -> &[u8] {
        bytes_in(&self.bytes, span)
    }
}

/// Where a value begins and ends.
type Span = (u32, u32);

fn bytes_in(bytes: &[u8], (start, end): Span) -> &[u8] {
    bytes.get(start as usize..end as usize).unwrap_or_default()
}

/// Reads proxy-wasm's serialized pairs: a count, the lengths of both halves of each pair, then each half with a NUL behind
/// it. All numbers are u32, little-endian.
struct Pairs<'b> {
    lengths: ChunksExact<'b, u8>,
    /// Where the next pair begins.
    at: usize,
    end: usize,
}

impl<'b> Pairs<'b> {
    fn of(bytes: &'b [u8]) -> Result<Self, Malformed> {
        let count = u32::from_le_bytes(*bytes.first_chunk().ok_or(Malformed)?);
        let at =
            (count as usize).checked_mul(8).and_then(|lengths| lengths.checked_add(4)).ok_or(Malformed)?;
        let lengths = bytes.get(4..at).ok_or(Malformed)?.chunks_exact(8);
        Ok(Self { lengths, at, end: bytes.len() })
    }

    /// Whether what has been read is all that there is.
    fn end(&self) -> Result<(), Malformed> {
        if self.at == self.end { Ok(()) } else { Err(Malformed) }
    }

    /// The span of the half that comes next.
    fn half(&mut self, len: u32) -> Result<Span, Malformed> {
        let end = self.at.checked_add(len as usize).filter(|&end| end < self.end).ok_or(Malformed)?;
        let span = (u32::try_from(self.at), u32::try_from(end));
        self.at = end + 1;
        span.0.ok().zip(span.1.ok()).ok_or(Malformed)
    }
}

impl Iterator for Pairs<'_> {
    type Item = Result<(Span, Span), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let &[a, b, c, d, e, f, g, h] = self.lengths.next()? else { return None };
        let (first, second) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        Some(self.half(first).and_then(|first| Ok((first, self.half(second)?))))
    }
}

impl ExactSizeIterator for Pairs<'_> {
    fn len(&self) -> usize {
        self.lengths.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::list;
    use proptest::prelude::*;

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
            captured.take_list(list(&[b"altogether"]), 1).unwrap();
            captured.clear();
            if first_listed {
                captured.take_list(list(&first), 2).unwrap();
            } else {
                first.iter().for_each(|value| captured.push(Some(value)));
            }
            if rest_listed {
                captured.take_list(list(&rest), 2).unwrap();
            } else {
                assert_eq!(captured.take_list(list(&rest), 3), Err(Malformed));
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

    #[test]
    fn answers_are_freed_with_the_request_and_malformed_ones_at_once() {
        let mut captured = Captured::default();
        let held =
            |captured: &Captured| captured.parts.iter().map(|part| part.bytes.capacity()).sum::<usize>();
        captured.take_list(list(&[b"GET", b"/"]), 2).unwrap();
        let first = held(&captured);
        assert_eq!((captured.bytes_len(), first > 0), (list(&[b"GET", b"/"]).len(), true));
        assert_eq!(captured.take_list(vec![0xff; 1000], 2), Err(Malformed));
        assert_eq!(held(&captured), first);
        captured.clear();
        assert_eq!((captured.bytes_len(), held(&captured)), (0, 0));
    }

    /// Pairs as a header map is answered.
    fn headers(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut answer = (pairs.len() as u32).to_le_bytes().to_vec();
        for (name, value) in pairs {
            answer.extend((name.len() as u32).to_le_bytes());
            answer.extend((value.len() as u32).to_le_bytes());
        }
        pairs.iter().for_each(|(name, value)| answer.extend([name, &b"\0"[..], value, b"\0"].concat()));
        answer
    }

    fn wanted(name: &str, is_joined: bool) -> WantedHeader {
        WantedHeader { name: name.into(), is_joined }
    }

    #[test]
    fn wanted_headers_are_found_in_the_map_and_a_list_may_follow() {
        let map = headers(&[
            (b":path", b"/"),
            (b"x-a", b"1"),
            (b"user-agent", b"\xff"),
            (b"x-a", b""),
            (b"user-agent", b"second"),
            (b"x-a", b"3"),
        ]);
        let names = WantedHeaders::new(vec![
            wanted("x-a", true),
            wanted("user-agent", false),
            wanted("x-b", true),
            wanted("x-a", false),
        ]);
        let mut captured = Captured::default();
        captured.take_headers(map.clone(), &names).unwrap();
        captured.take_list(list(&[b"200"]), 1).unwrap();
        let slots: Vec<_> = (0..6).map(|slot| captured.slot(slot)).collect();
        assert_eq!(slots, [&b"1,,3"[..], b"\xff", b"", b"1", b"200", b""]);
        captured.clear();
        captured.take_headers(Vec::new(), &names).unwrap();
        captured.push(Some(b"404"));
        assert_eq!((captured.slot(0), captured.slot(3), captured.slot(4)), (&b""[..], &b""[..], &b"404"[..]));
        for cut in 1..map.len() {
            captured.clear();
            assert_eq!(captured.take_headers(map[..cut].to_vec(), &names), Err(Malformed), "cut at {cut}");
            assert_eq!(captured.slot(0), b"");
        }
    }

    #[test]
    fn repeated_headers_take_no_more_room_than_the_map() {
        let value = [b'v'; 300];
        let pairs: Vec<(&[u8], &[u8])> =
            (0..100).map(|n| (if n % 2 == 0 { &b"x-a"[..] } else { b"x-b" }, &value[..])).collect();
        let map = headers(&pairs);
        let mut captured = Captured::default();
        let names = WantedHeaders::new(vec![wanted("x-a", true), wanted("x-b", true)]);
        captured.take_headers(map.clone(), &names).unwrap();
        assert_eq!((captured.slot(0).len(), captured.slot(1).len()), (50 * 301 - 1, 50 * 301 - 1));
        assert!(captured.parts[0].bytes.len() <= 2 * map.len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_map_or_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut captured = Captured::default();
            let names = WantedHeaders::new(vec![wanted("", true), wanted("a", false)]);
            if captured.take_headers(bytes, &names).is_ok() {
                (0..2).for_each(|slot| { captured.slot(slot); });
            }
        }

        #[test]
        fn any_bytes_are_a_list_or_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..120), slots in 0usize..6) {
            let mut captured = Captured::default();
            if captured.take_list(bytes, slots).is_ok() {
                (0..slots).for_each(|slot| { captured.slot(slot); });
            }
        }
    }
}
