//! How a request ended: status, failure, severity.

use super::{GrpcStatus, ResponseFlags};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The response's status, when there was one.
    pub status: Option<u16>,
    /// The call's status, for gRPC.
    pub grpc_status: Option<GrpcStatus>,
    /// What Envoy says went wrong.
    pub flags: ResponseFlags,
    /// Why it counts as failed, if it does.
    pub error_type: Option<ErrorType>,
}

/// The value of `error.type`, of a bounded set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// A status of 500 or more.
    Status(u16),
    /// A response flag or a gRPC status, by its name.
    Name(&'static str),
    /// No response, and nobody says why.
    Unknown,
}

/// The severity of a log record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Nothing wrong.
    Info,
    /// The client's fault.
    Warn,
    /// A failure.
    Error,
}

impl ErrorType {
    /// Calls `tell` with the attribute's value.
    pub fn with_str<T>(self, tell: impl FnOnce(&str) -> T) -> T {
        match self {
            Self::Status(status) => {
                let digits = [100, 10, 1].map(|unit| b'0' + (status / unit % 10) as u8);
                tell(str::from_utf8(&digits).unwrap_or_default())
            }
            Self::Name(name) => tell(name),
            Self::Unknown => tell("_OTHER"),
        }
    }
}

impl Outcome {
    /// Judges what Envoy knows: a failed request is one with a status of 500 or more, with a gRPC status other than
    /// OK, or without a whole response.
    pub fn new(status: Option<i64>, grpc_status: Option<i64>, flags: ResponseFlags) -> Self {
        // Envoy says 0 when no response was sent; a status has three digits.
        let status = status
            .and_then(|status| u16::try_from(status).ok())
            .filter(|status| (100..1000).contains(status));
        let grpc_status = grpc_status.map(GrpcStatus::from_code);
        let error_type = match (status, grpc_status) {
            (Some(status @ 500..), _) => Some(ErrorType::Status(status)),
            // A 4xx that Envoy itself answered carries a flag too, and is the client's fault all the same.
            (Some(400..), None) => None,
            (_, Some(grpc_status)) if !grpc_status.is_ok() => Some(ErrorType::Name(grpc_status.as_str())),
            (Some(_), _) => flags.broken().map(ErrorType::Name),
            (None, _) => {
                Some(flags.broken().or(flags.names().next()).map_or(ErrorType::Unknown, ErrorType::Name))
            }
        };
        Self { status, grpc_status, flags, error_type }
    }

    /// ERROR for failures, WARN for the client's mistakes, INFO for the rest.
    pub fn severity(&self) -> Severity {
        match (self.error_type, self.status) {
            (Some(_), _) => Severity::Error,
            (None, Some(400..)) => Severity::Warn,
            (None, _) => Severity::Info,
        }
    }
}

impl Severity {
    /// OTLP's `SeverityNumber`.
    pub fn number(self) -> u64 {
        match self {
            Self::Info => 9,
            Self::Warn => 13,
            Self::Error => 17,
        }
    }

    /// OTLP's severity text.
    pub fn text(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_from_clients_mistakes() {
        const DC: u64 = 1 << 14;
        const NR: u64 = 1 << 8;
        const UC: u64 = 1 << 6;
        const DPE: u64 = 1 << 18;
        let name = |name| Some(ErrorType::Name(name));
        let cases = [
            (Some(200), None, 0, Severity::Info, None),
            (Some(304), None, 0, Severity::Info, None),
            (Some(404), None, NR, Severity::Warn, None),
            (Some(400), None, DPE, Severity::Warn, None),
            (Some(500), None, 0, Severity::Error, Some(ErrorType::Status(500))),
            (Some(503), None, UC, Severity::Error, Some(ErrorType::Status(503))),
            (Some(200), None, UC, Severity::Error, name("UC")),
            (Some(200), None, DC, Severity::Info, None),
            (Some(0), None, DC, Severity::Error, name("DC")),
            (None, None, 0, Severity::Error, Some(ErrorType::Unknown)),
            (Some(200), Some(0), 0, Severity::Info, None),
            (Some(200), Some(14), 0, Severity::Error, name("UNAVAILABLE")),
            (Some(200), Some(99), 0, Severity::Error, name("UNKNOWN")),
            (Some(99_999), None, 0, Severity::Error, Some(ErrorType::Unknown)),
        ];
        for (status, grpc, flags, severity, error_type) in cases {
            let outcome = Outcome::new(status, grpc, ResponseFlags::from_bits(flags));
            assert_eq!(
                (outcome.severity(), outcome.error_type),
                (severity, error_type),
                "{status:?} {grpc:?} {flags:x}"
            );
        }
    }
}
