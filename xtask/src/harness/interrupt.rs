//! Ctrl-C, or the signal that asks a program to end: what was started is ended in order.

use anyhow::Context as _;
use tokio::signal::unix::{self, SignalKind};

/// Ends at Ctrl-C or SIGTERM, from now on.
///
/// # Errors
/// When the system does not let it listen.
pub fn signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = unix::signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = unix::signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
