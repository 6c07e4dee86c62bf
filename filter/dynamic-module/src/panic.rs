//! Where a panic ends: in the hook that it happened in, or, on the main thread, in the work on the one worker that it was about.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::abi::{Level, write_log};

/// Runs it; `None` when it panics. What the panic was about is in Envoy's standard error already.
pub(crate) fn caught<T>(act: impl FnOnce() -> T) -> Option<T> {
    // A pipeline is replaced after a panic, what a request left half done is thrown away, and nothing else is ever left half done.
    let result = catch_unwind(AssertUnwindSafe(act));
    if result.is_err() {
        write_log(Level::Error, "offpath: a hook has panicked");
    }
    result.ok()
}
