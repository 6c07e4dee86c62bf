//! Pages of an answer that may be long.
//!
//! A page ends after so many rows or bytes; its cursor is the place of its last row, by time and row: pages neither skip
//! nor repeat a row while new ones arrive.

/// The largest page in bytes of its rows' JSON, but for its first row: a page that would be larger ends early.
/// What the answer takes is what counts: text grows when it is escaped, and SQLite's `length` counts characters, up to
/// a NUL.
pub const MAX_PAGE_BYTES: usize = 16 * 1024 * 1024;

/// A place between two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub(super) time_unix_nano: i64,
    pub(super) id: i64,
}

impl Cursor {
    /// Reads what [`Cursor::to_text`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (time, id) = text.split_once('.')?;
        Some(Self { time_unix_nano: time.parse().ok()?, id: id.parse().ok()? })
    }

    /// The cursor for the API: opaque to whoever gets it.
    #[must_use]
    pub fn to_text(self) -> String {
        format!("{}.{}", self.time_unix_nano, self.id)
    }
}
