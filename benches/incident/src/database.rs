//! The application's database, PostgreSQL, with one table for its log. Whether a call stalls is the database's business: a
//! trigger there draws it, so that no code here knows.

use std::{path::Path, time::SystemTime};

use anyhow::Context as _;
use tokio_postgres::{Client, NoTls, Statement};

/// What is logged of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RequestLog {
    /// The number in its path.
    pub(crate) request: i64,
    /// When it came.
    pub(crate) began_unix_nano: i64,
    /// How it was answered.
    pub(crate) status: i32,
    /// How long its work took.
    pub(crate) duration_seconds: f64,
}

impl RequestLog {
    /// Its path: nothing else is asked for.
    pub(crate) fn path(&self) -> String {
        format!("/task/{}", self.request)
    }
}

/// Nanoseconds since 1970.
pub(crate) fn unix_nano(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// One connection, which ends with the handle.
pub(crate) struct Database {
    client: Client,
    insert: Statement,
    insert_batch: Statement,
}

impl Database {
    /// Connects to the database whose URL is in the file.
    ///
    /// # Errors
    /// When the file cannot be read, or the database not be reached.
    pub(crate) async fn connect(url_file: &Path) -> anyhow::Result<Self> {
        let url = std::fs::read_to_string(url_file)
            .with_context(|| format!("cannot read `{}`", url_file.display()))?;
        let (client, connection) =
            tokio_postgres::connect(url.trim(), NoTls).await.context("cannot connect to the database")?;
        tokio::spawn(connection);
        let insert = client
            .prepare("INSERT INTO request_log VALUES ($1, $2, $3, $4, $5)")
            .await
            .context("the database has no such table")?;
        let insert_batch = client
            .prepare(
                "INSERT INTO request_log
                 SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::int[], $5::float8[])",
            )
            .await?;
        Ok(Self { client, insert, insert_batch })
    }

    /// Writes one row, in a transaction of its own.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn insert(&self, log: &RequestLog) -> anyhow::Result<()> {
        self.client
            .execute(
                &self.insert,
                &[&log.request, &log.began_unix_nano, &log.path(), &log.status, &log.duration_seconds],
            )
            .await
            .with_context(|| format!("the log of request {} was not written", log.request))?;
        Ok(())
    }

    /// Writes a batch with one statement, and in the same transaction how far the queue was read.
    ///
    /// # Errors
    /// What the database says: then nothing was written.
    pub(crate) async fn insert_batch(&mut self, logs: &[RequestLog], position: i64) -> anyhow::Result<()> {
        let requests: Vec<i64> = logs.iter().map(|log| log.request).collect();
        let begins: Vec<i64> = logs.iter().map(|log| log.began_unix_nano).collect();
        let paths: Vec<String> = logs.iter().map(RequestLog::path).collect();
        let statuses: Vec<i32> = logs.iter().map(|log| log.status).collect();
        let durations: Vec<f64> = logs.iter().map(|log| log.duration_seconds).collect();
        let transaction = self.client.transaction().await?;
        transaction
            .execute(&self.insert_batch, &[&requests, &begins, &paths, &statuses, &durations])
            .await
            .context("the batch was not written")?;
        transaction.execute("UPDATE consumer SET position = $1", &[&position]).await?;
        transaction.commit().await.context("the batch was not committed")
    }

    /// How far the queue was read.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn position(&self) -> anyhow::Result<i64> {
        let row = self.client.query_one("SELECT position FROM consumer", &[]).await?;
        row.try_get(0).context("not a position")
    }
}
