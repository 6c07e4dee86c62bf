//! What a receiver's answer says: accepted, accepted in part, refused for good, or not now.
//! Source: OTLP specification, sections "OTLP/HTTP response" and "OTLP/HTTP throttling".

use std::time::{Duration, UNIX_EPOCH};

use super::wire::{Field, Reader};

/// An answer as the proxy hands it over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answer<'a> {
    /// The status; `None` when there was no answer at all (a reset, a time-out).
    pub status: Option<u16>,
    /// The `retry-after` header; empty when there was none.
    pub retry_after: &'a [u8],
    /// The body, or as much of it as was read.
    pub body: &'a [u8],
}

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
    /// Not taken now: 429, 502, 503 or 504.
    Unavailable {
        /// How long the receiver wants to be left alone, in nanoseconds.
        retry_after_nano: Option<u64>,
        /// Whether the receiver itself said so. A proxy says 502, 503 and 504 too, of calls that it could not finish: those
        /// may have been taken all the same.
        is_refusal: bool,
    },
    /// Nobody answered: it may have been taken all the same.
    Unanswered,
}

impl Answer<'_> {
    /// Reads the answer, at `now_unix_nano`.
    pub fn verdict(&self, now_unix_nano: u64) -> Verdict {
        match self.status {
            Some(200..=299) => Verdict::Accepted { rejected: rejected_items(self.body) },
            Some(429 | 502 | 503 | 504) => {
                let retry_after_nano = retry_after_nano(self.retry_after, now_unix_nano);
                // No proxy throttles, and none asks for a pause.
                let is_refusal = self.status == Some(429) || retry_after_nano.is_some();
                Verdict::Unavailable { retry_after_nano, is_refusal }
            }
            Some(_) => Verdict::Rejected,
            None => Verdict::Unanswered,
        }
    }
}

/// Seconds or an HTTP date (RFC 9110, section 10.2.3); a date in the past means now.
fn retry_after_nano(header: &[u8], now_unix_nano: u64) -> Option<u64> {
    let text = str::from_utf8(header).ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More seconds than fit are more than any retry waits for.
        return Some(text.parse().unwrap_or(u64::MAX).saturating_mul(1_000_000_000));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    let pause = date.saturating_sub(Duration::from_nanos(now_unix_nano));
    Some(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX))
}

/// `Export*ServiceResponse { partial_success: 1 { rejected_*: 1 } }`; a body that is something else refuses nothing.
fn rejected_items(body: &[u8]) -> u64 {
    let mut rejected = 0;
    for (number, field) in Reader::new(body) {
        let (1, Field::Bytes(partial)) = (number, field) else { continue };
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
    use proptest::prelude::*;
    use prost::Message;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW: u64 = 784_111_777_000_000_000;

    fn verdict(status: Option<u16>, body: &[u8]) -> Verdict {
        Answer { status, retry_after: b"", body }.verdict(NOW)
    }

    #[test]
    fn only_four_statuses_mean_not_now() {
        for status in 100..600u16 {
            let expected = match status {
                200..=299 => Verdict::Accepted { rejected: 0 },
                429 => Verdict::Unavailable { retry_after_nano: None, is_refusal: true },
                502..=504 => Verdict::Unavailable { retry_after_nano: None, is_refusal: false },
                _ => Verdict::Rejected,
            };
            assert_eq!(verdict(Some(status), b""), expected, "{status}");
        }
        assert_eq!(verdict(None, b""), Verdict::Unanswered);
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

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        const SECOND: u64 = 1_000_000_000;
        for (header, pause) in [
            ("0", Some(0)),
            ("120", Some(120 * SECOND)),
            (" 7 ", Some(7 * SECOND)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10 * SECOND)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some(10 * SECOND)),
            ("Sun Nov  6 08:49:47 1994", Some(10 * SECOND)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after_nano(header.as_bytes(), NOW), pause, "{header:?}");
        }
        assert_eq!(retry_after_nano(b"\xff", NOW), None);
    }

    proptest! {
        #[test]
        fn any_header_and_any_body_are_read(header in proptest::collection::vec(any::<u8>(), 0..60), body in proptest::collection::vec(any::<u8>(), 0..60)) {
            for status in [200, 503] {
                Answer { status: Some(status), retry_after: &header, body: &body }.verdict(NOW);
            }
        }
    }
}
