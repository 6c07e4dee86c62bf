//! The data folder: who may use it, and whether it ever was.
//!
//! In: a path. Out: the connection that writes, to a database that is sound. `offpath.lock` keeps other collectors out,
//! and is the witness of use: it is empty until the database's schema is on disk, then it says so. Only a folder whose
//! witness is silent gets a new database. In any other, a database that is missing or empty was lost with what it held,
//! and that is an error before SQLite opens anything, since SQLite would begin anew and drop the write-ahead log.
//!
//! A crash before the witness is written leaves an empty file, which is filled, or a whole schema, which is kept: nothing
//! can have been acknowledged by then.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{DATABASE_FILE, OpenError, Prepare, check, open_writable, upgrade};

const LOCK_FILE: &str = "offpath.lock";
/// What the lock file says once there is a database.
const INITIALISED: &[u8] = b"initialised\n";
/// Larger files are not checked in full at startup; `offpath-collector check` does it.
const QUICK_CHECK_MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// A data folder that this process alone serves, for as long as this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Creates the folder when it is missing, and takes its lock.
    ///
    /// # Errors
    /// [`OpenError::Io`], or [`OpenError::InUse`].
    pub fn lock(path: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(io)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_FILE))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Opens the database to write, creating it in a folder that was never used, checks that it is sound, and brings it up
    /// to date.
    ///
    /// # Errors
    /// Any of [`OpenError`].
    pub fn open(&self) -> Result<Connection, OpenError> {
        let path = self.path.join(DATABASE_FILE);
        let initialised = self.size(LOCK_FILE)?.is_some_and(|bytes| bytes > 0);
        let found = match self.size(DATABASE_FILE)? {
            None => Some("missing"),
            Some(0) => Some("empty"),
            Some(_) => None,
        };
        if let (Some(found), Some(witness)) = (found, self.witness(initialised)?) {
            return Err(OpenError::Lost { path, found, witness });
        }
        let prepare = if initialised { Prepare::Upgrade } else { Prepare::Create };
        let mut connection = open_writable(&path, prepare)?;
        if self.size(DATABASE_FILE)?.is_some_and(|bytes| bytes <= QUICK_CHECK_MAX_BYTES) {
            check(&connection, &path, "quick_check")?;
        }
        upgrade(&mut connection).map_err(|source| OpenError::Sqlite { path, source })?;
        if !initialised {
            self.initialise().map_err(|source| OpenError::Io { path: self.path.clone(), source })?;
        }
        Ok(connection)
    }

    /// What says that the folder was in use. The write-ahead log appears after the schema is on disk.
    fn witness(&self, initialised: bool) -> Result<Option<PathBuf>, OpenError> {
        if initialised {
            return Ok(Some(self.path.join(LOCK_FILE)));
        }
        for name in [format!("{DATABASE_FILE}-wal"), format!("{DATABASE_FILE}-shm")] {
            if self.size(&name)?.is_some() {
                return Ok(Some(self.path.join(name)));
            }
        }
        Ok(None)
    }

    /// Makes the new database durable, names included, and then says that it is there.
    fn initialise(&self) -> std::io::Result<()> {
        // A file's name is durable only when its folder is, and the folders above may be as new as this one.
        for folder in self.path.canonicalize()?.ancestors() {
            match File::open(folder) {
                Ok(folder) => folder.sync_all()?,
                // Not made for this: whoever makes a folder may read it.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                Err(error) => return Err(error),
            }
        }
        (&self.lock).write_all(INITIALISED)?;
        self.lock.sync_all()
    }

    fn size(&self, name: &str) -> Result<Option<u64>, OpenError> {
        let path = self.path.join(name);
        match std::fs::metadata(&path) {
            Ok(file) => Ok(Some(file.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(OpenError::Io { path, source }),
        }
    }
}
