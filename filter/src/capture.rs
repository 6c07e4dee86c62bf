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

    /// Takes headers that are at hand one by one, of which the wanted ones are the next values: as [`Captured::take_headers`] takes a
    /// map of them, but for the space of the others.
    pub fn push_headers<'h>(
        &mut self,
        headers: impl Iterator<Item = (&'h [u8], &'h [u8])> + Clone,
        wanted: &WantedHeaders,
    ) {
        if let Some(values) = self.begin_part(Vec::new()) {
            values.push_headers(headers, wanted);
        }
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

    /// Appends the values of wanted headers, by the same rule.
    fn push_headers<'h>(
        &mut self,
        headers: impl Iterator<Item = (&'h [u8], &'h [u8])> + Clone,
        wanted: &WantedHeaders,
    ) {
        self.spans.resize(wanted.len(), (0, 0));
        let (mut found, mut repeated) = (0_u64, 0_u64);
        for (name, value) in headers.clone() {
            for place in wanted.places(name) {
                repeated |= found & 1 << place;
                if found & 1 << place == 0 {
                    found |= 1 << place;
                    self.set(place, value);
                }
            }
        }
        for place in Bits(repeated) {
            if let Some(header) = wanted.get(place).filter(|header| header.is_joined) {
                let values = headers.clone().filter(|(name, _)| *name == header.name).map(|(_, value)| value);
                self.set(place, &values.collect::<Vec<_>>().join(b",".as_slice()));
            }
        }
    }

    fn set(&mut self, slot: usize, value: &[u8]) {
        let span = self.append(value);
        if let Some(place) = self.spans.get_mut(slot) {
            *place = span;
        }
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
mod tests;
