//! The plugin's parts, natively, each beside what a user would otherwise pick for the same work: `cargo bench`.
//!
//! A group has a function `offpath` and one for each peer; `cargo xtask bench native` prints their ratios.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

mod measure;
mod on_log;
mod prost_record;
mod record;

use std::time::Duration;

use criterion::Criterion;

const CONFIG: &str = r#"{"collector": {"cluster": "otlp"}}"#;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    measure::define(&mut criterion);
    record::define(&mut criterion);
    on_log::define(&mut criterion);
    criterion.final_summary();
}
