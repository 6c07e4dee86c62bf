//! What a receiver's answer says: accepted, accepted in part, refused for good, or not now.
//! Source: OTLP specification, section "OTLP/HTTP response".

use super::wire::{Field, Reader};

/// What became of an export call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Taken, all but `rejected` items (records or data points), which must not be sent again.
    Accepted {
        /// How many items the receiver refused.
        rejected: u64,
    },
    /// Refused for good.
    Rejected,
    /// Not taken now: no answer, or one of 429, 502, 503 and 504.
    Unavailable,
}

/// Reads an answer: `status` is `None` when there was none (a reset, a time-out, an answer without headers).
pub fn verdict(status: Option<u16>, body: &[u8]) -> Verdict {
    match status {
        Some(200..=299) => Verdict::Accepted { rejected: rejected_items(body) },
        None | Some(429 | 502 | 503 | 504) => Verdict::Unavailable,
        Some(_) => Verdict::Rejected,
    }
}

/// `Export*ServiceResponse { partial_success: 1 { rejected_*: 1 } }`; a body that is something else refuses nothing.
fn rejected_items(body: &[u8]) -> u64 {
    let mut rejected = 0;
    for (number, field) in Reader::new(body) {
        let (1, Field::Bytes(partial)) = (number, field) else {
            continue;
        };
        for (number, field) in Reader::new(partial) {
            if let (1, Field::Varint(count)) = (number, field) {
                // An int64 on the wire: a negative count is nonsense, and refuses nothing.
                rejected = u64::try_from(count as i64).unwrap_or(0);
            }
        }
    }
    rejected
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::logs::v1::{
        ExportLogsPartialSuccess, ExportLogsServiceResponse,
    };
    use prost::Message;

    #[test]
    fn only_four_statuses_and_silence_mean_not_now() {
        for status in 100..600u16 {
            let expected = match status {
                200..=299 => Verdict::Accepted { rejected: 0 },
                429 | 502 | 503 | 504 => Verdict::Unavailable,
                _ => Verdict::Rejected,
            };
            assert_eq!(verdict(Some(status), b""), expected, "{status}");
        }
        assert_eq!(verdict(None, b""), Verdict::Unavailable);
    }

    #[test]
    fn a_partial_success_says_how_many_were_refused() {
        let answer = |rejected_log_records| ExportLogsServiceResponse {
            partial_success: Some(ExportLogsPartialSuccess {
                rejected_log_records,
                error_message: "full".into(),
            }),
        };
        assert_eq!(verdict(Some(200), &answer(3).encode_to_vec()), Verdict::Accepted { rejected: 3 });
        assert_eq!(verdict(Some(200), &answer(-1).encode_to_vec()), Verdict::Accepted { rejected: 0 });
        assert_eq!(verdict(Some(200), b"<html>"), Verdict::Accepted { rejected: 0 });
    }
}
