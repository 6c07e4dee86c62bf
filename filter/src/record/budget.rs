//! How many bytes of a record are left, and what must give way.

use crate::otlp::attribute::MAX_OVERHEAD_BYTES;

/// Kept for the record's last words: the attribute `offpath.truncated` and the count of attributes left out.
const LAST_WORDS_BYTES: usize = 40;

/// A value that is cut to less than this says nothing, and is left out.
const MIN_CUT_BYTES: usize = 16;

/// The bytes of one record.
pub(super) struct Budget {
    end: usize,
    was_cut: bool,
    left_out: u64,
}

impl Budget {
    /// For a record of at most `max_bytes` that begins at `start` of its buffer.
    pub(super) fn new(start: usize, max_bytes: usize) -> Self {
        Self { end: (start + max_bytes).saturating_sub(LAST_WORDS_BYTES), was_cut: false, left_out: 0 }
    }

    /// Whether an attribute with a value of at most `value_len` bytes fits; if not, it counts as left out.
    pub(super) fn admits(&mut self, out: &[u8], key: &str, value_len: usize) -> bool {
        let fits = value_len <= self.room(out, key);
        self.left_out += u64::from(!fits);
        fits
    }

    /// Whether an attribute with a value of `value_len` bytes fits uncut.
    pub(super) fn has_room(&self, out: &[u8], key: &str, value_len: usize, max_len: usize) -> bool {
        value_len <= max_len && value_len <= self.room(out, key)
    }

    /// As much of `text` as fits and as `max_len` bytes allow; `None` when it must be left out.
    pub(super) fn fit<'t>(
        &mut self,
        out: &[u8],
        key: &str,
        text: &'t str,
        max_len: usize,
    ) -> Option<&'t str> {
        let room = self.room(out, key);
        if room < text.len().min(MIN_CUT_BYTES) {
            self.left_out += 1;
            return None;
        }
        Some(self.cut(text, max_len.min(room)))
    }

    /// The longest prefix of at most `max_len` bytes that ends at a character's boundary.
    pub(super) fn cut<'t>(&mut self, text: &'t str, max_len: usize) -> &'t str {
        if text.len() <= max_len {
            return text;
        }
        let prefix = text.get(..text.floor_char_boundary(max_len)).unwrap_or(text);
        self.was_cut = true;
        prefix
    }

    /// Whether the record does not say everything.
    pub(super) fn was_exceeded(&self) -> bool {
        self.was_cut || self.left_out > 0
    }

    /// How many attributes were left out whole.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    fn room(&self, out: &[u8], key: &str) -> usize {
        self.end.saturating_sub(out.len() + key.len() + MAX_OVERHEAD_BYTES)
    }
}
