//! What is measured side by side.

use super::logger::{Kept, Logger};
use crate::harness::bootstrap::Mode;

/// One Envoy of its own.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// For people; no two are the same, and a comma is what `--only` has between them.
    pub(super) name: String,
    /// Who logs in it.
    pub(super) logger: Logger,
}

/// The two that no logger is in come first; all others are compared with them.
pub(super) const BASELINES: usize = 2;

/// What the targets are ratios to.
pub(super) const REFERENCE: &str = "native OTLP over gRPC";

/// The default of offpath's `batch.max_bytes`; that of Envoy's loggers is 16 KiB.
const OFFPATH_BATCH_BYTES: u32 = 256 * 1024;

/// All of them.
pub(super) fn all() -> Vec<Variant> {
    let mut all: Vec<Variant> = [
        ("no logger", Logger::Nobody),
        ("no logger again", Logger::Nobody),
        ("native file JSON", Logger::File),
        (REFERENCE, Logger::OtlpGrpc(None)),
        ("native OTLP over gRPC 256 KiB", Logger::OtlpGrpc(Some(OFFPATH_BATCH_BYTES))),
        ("native OTLP over HTTP", Logger::OtlpHttp),
        ("native gRPC access log service", Logger::AccessLogService),
    ]
    .map(|(name, logger)| Variant { name: name.to_owned(), logger })
    .into();
    for (mode, load) in
        [(Mode::AccessLogger, "logger"), (Mode::HttpFilter, "filter"), (Mode::DynamicModule, "module")]
    {
        if Mode::WASM.contains(&mode) {
            all.push(Variant { name: format!("{load}: empty"), logger: Logger::Empty(mode) });
        }
        for kept in Kept::ALL {
            let (capture, offpath) = (Logger::Capture(mode, kept), Logger::Offpath(mode, kept));
            all.push(Variant { name: format!("{load}: capture only {}", kept.name()), logger: capture });
            all.push(Variant { name: format!("{load}: offpath {}", kept.name()), logger: offpath });
        }
        let name = format!("{load}: offpath all logs compressed");
        all.push(Variant { name, logger: Logger::Compressed(mode) });
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn baselines_come_first_and_no_two_names_are_the_same() {
        let all = all();
        assert!(all.iter().take(BASELINES).all(|variant| variant.logger == Logger::Nobody));
        assert_eq!(all.iter().filter(|variant| variant.logger == Logger::Nobody).count(), BASELINES);
        assert_eq!(all.iter().map(|variant| &variant.name).collect::<HashSet<_>>().len(), all.len());
        assert!(all.iter().any(|variant| variant.name == REFERENCE));
        assert!(all.iter().all(|variant| !variant.name.contains(',')));
    }
}
