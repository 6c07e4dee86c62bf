//! The database: one SQLite file with the queue, the rows and the accounting.
//!
//! In: a folder, which [`folder`] looks after. Out: connections, one that writes ([`crate::writer`]) and some that only
//! read ([`crate::query`]). The file is never replaced: one that is corrupted, lost, too old, or that belongs to something
//! else, is an error, and what was acknowledged stays in it for whoever repairs it.

pub mod accounting;
pub mod dead_letters;
pub mod drops;
pub mod error;
pub mod exemplars;
pub mod folder;
pub mod inbox;
pub mod logs;
pub mod points;
pub mod senders;
pub mod spans;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

pub use error::StoreError;
pub use folder::Folder;

/// The database's name within the data folder.
pub const DATABASE_FILE: &str = "offpath.db";
/// `ofpa`, in the file's header: what tells our files from other SQLite files.
const APPLICATION_ID: i32 = 0x6f66_7061;
const SCHEMA_VERSION: i32 = 3;
/// What makes a database of one version one of the next, from the oldest version that can be brought up to date on. Each
/// only adds to what is there.
const MIGRATIONS: [&str; 1] = [include_str!("migrations/2.sql")];
const OLDEST_VERSION: i32 = SCHEMA_VERSION - MIGRATIONS.len() as i32;
/// How long to wait for another process (`dead-letters replay`) that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The only tenant there is so far.
pub const TENANT: &str = "default";

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or its files cannot be reached.
    #[error("data folder `{path}`: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another collector has it.
    #[error("data folder `{0}` is in use by another collector: each needs a folder of its own")]
    InUse(PathBuf),
    /// There is no database where one is needed.
    #[error("data folder `{0}` holds no {DATABASE_FILE}")]
    Missing(PathBuf),
    /// The folder was in use, and its database is gone.
    #[error(
        "`{path}` is {found}, but `{witness}` says that the folder was in use: what was acknowledged is not there, and \
         nothing was touched; put the file back, or start anew in an empty folder"
    )]
    Lost {
        /// The database.
        path: PathBuf,
        /// `missing` or `empty`.
        found: &'static str,
        /// The file that says so.
        witness: PathBuf,
    },
    /// The file is SQLite's, but not ours.
    #[error("`{path}` is not an offpath database (application id `{found:#x}`): it is left as it is")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The application id in it.
        found: i32,
    },
    /// The file was written by another version, and cannot be brought to ours, or not by whoever opens it.
    #[error(
        "`{path}` has schema version `{found}`, this program wants {SCHEMA_VERSION}: nothing in it was touched; {}",
        advice(*found)
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in it.
        found: i32,
    },
    /// SQLite's checks found damage.
    #[error("`{path}` is corrupted and is left as it is: {reason}")]
    Corrupted {
        /// The file.
        path: PathBuf,
        /// The first findings.
        reason: String,
    },
    /// The file system cannot hold a write-ahead log.
    #[error("`{path}` cannot have a write-ahead log (journal mode `{found}`): a local file system is needed")]
    JournalMode {
        /// The file.
        path: PathBuf,
        /// The mode that SQLite fell back to.
        found: String,
    },
    /// SQLite cannot open or prepare it.
    #[error("`{path}`: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

/// What to do about a database of version `found`.
fn advice(found: i32) -> &'static str {
    if found > SCHEMA_VERSION {
        "it is newer, use the program that wrote it"
    } else if found >= OLDEST_VERSION {
        "`serve` brings it up to date"
    } else {
        "it is too old to be brought up to date, read it with the program that wrote it and begin anew in another folder"
    }
}

/// Opens an existing database to write, beside a running collector or without one.
///
/// # Errors
/// Any of [`OpenError`].
pub fn open_existing(folder: &Path) -> Result<Connection, OpenError> {
    open_writable(&existing(folder)?, Prepare::Nothing)
}

/// Opens an existing database to read.
///
/// # Errors
/// [`OpenError`].
pub fn open_read_only(folder: &Path) -> Result<Connection, OpenError> {
    let path = existing(folder)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sqlite = |source| OpenError::Sqlite { path: path.clone(), source };
    let connection = Connection::open_with_flags(&path, flags).map_err(sqlite)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite)?;
    connection.pragma_update(None, "query_only", true).map_err(sqlite)?;
    Ok(connection)
}

/// Runs SQLite's full check over an existing database.
///
/// # Errors
/// [`OpenError::Corrupted`] with the findings, and any other [`OpenError`].
pub fn check_folder(folder: &Path) -> Result<(), OpenError> {
    check(&open_existing(folder)?, &existing(folder)?, "integrity_check")
}

/// The database in `folder`. An empty file is refused before SQLite sees it: SQLite would take it for a new database,
/// and throw away the write-ahead log beside it.
fn existing(folder: &Path) -> Result<PathBuf, OpenError> {
    let path = folder.join(DATABASE_FILE);
    match std::fs::metadata(&path) {
        Ok(file) if file.len() == 0 => Err(OpenError::Corrupted { path, reason: "it is empty".to_owned() }),
        Ok(_) => Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(OpenError::Missing(folder.to_owned())),
        Err(source) => Err(OpenError::Io { path, source }),
    }
}

/// What may be done to a database so that it is one of ours: from nothing to everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Prepare {
    Nothing,
    /// An older one may be opened, to be brought up to date ([`upgrade`]).
    Upgrade,
    /// It may be created, too.
    Create,
}

fn open_writable(path: &Path, prepare: Prepare) -> Result<Connection, OpenError> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, prepare == Prepare::Create);
    let open = || -> Result<Result<Connection, OpenError>, rusqlite::Error> {
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        if let Err(error) = identify(&mut connection, path, prepare)? {
            // Or closing it would move what is in the write-ahead log.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            return Ok(Err(error));
        }
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            return Ok(Err(OpenError::JournalMode { path: path.to_owned(), found: mode }));
        }
        // FULL: a commit returns when the write-ahead log is on disk. An acknowledgement promises no less.
        connection.pragma_update(None, "synchronous", "full")?;
        // Checkpoints are the writer's own work, since SQLite hides the errors of automatic ones.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Ok(connection))
    };
    open().unwrap_or_else(|source| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            Err(OpenError::Corrupted { path: path.to_owned(), reason: source.to_string() })
        }
        _ => Err(OpenError::Sqlite { path: path.to_owned(), source }),
    })
}

/// Tells our file from others by its header, and fills an empty one where that is allowed.
fn identify(
    connection: &mut Connection,
    path: &Path,
    prepare: Prepare,
) -> rusqlite::Result<Result<(), OpenError>> {
    let (application_id, version) =
        (number(connection, "application_id")?, number(connection, "user_version")?);
    if application_id == APPLICATION_ID {
        let oldest = if prepare >= Prepare::Upgrade { OLDEST_VERSION } else { SCHEMA_VERSION };
        return Ok(match version {
            found if (oldest..=SCHEMA_VERSION).contains(&found) => Ok(()),
            found => Err(OpenError::Version { path: path.to_owned(), found }),
        });
    }
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 || application_id != 0 || version != 0 {
        return Ok(Err(OpenError::Foreign { path: path.to_owned(), found: application_id }));
    }
    if prepare != Prepare::Create {
        return Ok(Err(OpenError::Corrupted {
            path: path.to_owned(),
            reason: "it has no tables".to_owned(),
        }));
    }
    // One transaction: a crash in the middle leaves an empty file, not half a schema.
    let transaction = connection.transaction()?;
    transaction.execute_batch(include_str!("schema.sql"))?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()?;
    Ok(Ok(()))
}

/// Brings a database from [`OLDEST_VERSION`] on to ours, in one transaction: after a crash in the middle it is as it was.
fn upgrade(connection: &mut Connection) -> rusqlite::Result<()> {
    let found = number(connection, "user_version")?;
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for (from, migration) in (OLDEST_VERSION..).zip(MIGRATIONS).filter(|(from, _)| *from >= found) {
        transaction.execute_batch(migration)?;
        tracing::info!(from, to = from + 1, "the database's schema was brought up to date");
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, pragma, |row| row.get(0))
}

fn check(connection: &Connection, path: &Path, pragma: &str) -> Result<(), OpenError> {
    let findings = || -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(&format!("PRAGMA {pragma}(10)"))?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    let corrupted = |reason| Err(OpenError::Corrupted { path: path.to_owned(), reason });
    match findings() {
        Ok(findings) if findings == ["ok"] => Ok(()),
        Ok(findings) => corrupted(findings.join("; ")),
        Err(error) => corrupted(error.to_string()),
    }
}

/// The id of a resource's attributes, which are written once for all that share them.
///
/// # Errors
/// [`StoreError`].
pub fn intern_resource(connection: &Connection, attributes: &str) -> Result<i64, StoreError> {
    let mut find = connection.prepare_cached("SELECT id FROM resources WHERE attributes = ?1")?;
    if let Some(id) = find.query_row(params![attributes], |row| row.get(0)).optional()? {
        return Ok(id);
    }
    connection
        .prepare_cached("INSERT INTO resources (attributes) VALUES (?1)")?
        .execute(params![attributes])?;
    Ok(connection.last_insert_rowid())
}

/// A database in memory, with the schema.
#[cfg(test)]
pub(crate) fn in_memory() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(include_str!("schema.sql")).unwrap();
    connection
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What there is, and how it was created.
    fn schema(connection: &Connection) -> Vec<(String, Option<String>)> {
        let mut statement = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn an_older_schema_becomes_the_same_as_a_new_one() {
        let mut connection = in_memory();
        let new = schema(&connection);
        connection.execute_batch("DROP TABLE exemplars").unwrap();
        connection.pragma_update(None, "user_version", 2).unwrap();
        for _ in 0..2 {
            upgrade(&mut connection).unwrap();
            assert_eq!(number(&connection, "user_version").unwrap(), SCHEMA_VERSION);
            assert_eq!(schema(&connection), new);
        }
    }
}
