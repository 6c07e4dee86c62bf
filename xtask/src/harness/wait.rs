//! Waiting for something that another process does: asked again and again until it is so or a deadline is over. Nothing
//! here or in the tests waits for a fixed time and hopes.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};

/// Long enough for a loaded machine; what takes this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(20);

/// Asks `probe` until it answers `Some`.
///
/// # Errors
/// An error of `probe` at once; after [`DEADLINE`] one that names `what` was awaited.
pub async fn until<T>(
    what: &str,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = probe().await? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {} s for this: {what}", DEADLINE.as_secs());
        }
        sleep(PAUSE).await;
    }
}

/// Asks `read` until it answers `expected`. Unlike with [`until`], the error tells the last answer, which says how far it
/// came.
///
/// # Errors
/// An error of `read` at once; after [`DEADLINE`] one with the last answer.
pub async fn until_equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &T,
    mut read: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<()> {
    let end = Instant::now() + DEADLINE;
    loop {
        let found = read().await?;
        if found == *expected {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("waited {} s for {what} to be {expected:?}, it is {found:?}", DEADLINE.as_secs());
        }
        sleep(PAUSE).await;
    }
}
