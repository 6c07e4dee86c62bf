//! What a database error means for the work at hand.
//!
//! In: SQLite's errors. Out: one of three consequences. A refused row is set aside, an unavailable database is waited
//! for and never costs a record, and after a fatal error nothing may be acknowledged any more: the process ends.

use rusqlite::{ErrorCode, ffi};

/// Why the store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refuses this row, and always will.
    #[error("{0}")]
    Refused(String),
    /// The database cannot be written (or read) now: full disk, input/output errors, another process's lock.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The file cannot be trusted any more: a failed sync or a corrupted page.
    #[error("{0}")]
    Fatal(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        let rusqlite::Error::SqliteFailure(failure, _) = &error else {
            // Conversions between Rust's and SQLite's types: the row's fault.
            return Self::Refused(text);
        };
        match failure.extended_code {
            ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC => {
                return Self::Fatal(format!(
                    "syncing the database to disk failed ({text}): what was written since the last sync may be \
                     lost, so nothing more is acknowledged; check the disk and restart"
                ));
            }
            _ => {}
        }
        match failure.code {
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Fatal(format!(
                "the database file is corrupted ({text}): keep it, run `offpath-collector check`, and restore a \
                 backup or recover it with SQLite's `.recover`"
            )),
            ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch => {
                Self::Refused(text)
            }
            _ => Self::Unavailable(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(extended_code: i32) -> &'static str {
        match rusqlite::Error::SqliteFailure(ffi::Error::new(extended_code), None).into() {
            StoreError::Refused(_) => "refused",
            StoreError::Unavailable(_) => "unavailable",
            StoreError::Fatal(_) => "fatal",
        }
    }

    #[test]
    fn errors_have_the_consequence_that_keeps_records() {
        let cases = [
            (ffi::SQLITE_FULL, "unavailable"),
            (ffi::SQLITE_BUSY, "unavailable"),
            (ffi::SQLITE_IOERR_WRITE, "unavailable"),
            (ffi::SQLITE_IOERR_READ, "unavailable"),
            (ffi::SQLITE_CANTOPEN, "unavailable"),
            (ffi::SQLITE_IOERR_FSYNC, "fatal"),
            (ffi::SQLITE_IOERR_DIR_FSYNC, "fatal"),
            (ffi::SQLITE_CORRUPT, "fatal"),
            (ffi::SQLITE_NOTADB, "fatal"),
            (ffi::SQLITE_CONSTRAINT_CHECK, "refused"),
            (ffi::SQLITE_CONSTRAINT_TRIGGER, "refused"),
            (ffi::SQLITE_TOOBIG, "refused"),
        ];
        for (code, expected) in cases {
            assert_eq!(class(code), expected, "{code}");
        }
    }
}
