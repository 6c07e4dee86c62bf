//! The 56 bits that decide on a request, and what share of them is within a ratio.
//!
//! Where they come from the trace, they are those of OpenTelemetry's consistent probability sampling, so that all who
//! sample the same trace by any ratio decide alike: whatever a small ratio keeps, a greater one keeps too.

use siphasher::sip::SipHasher13;

use crate::request::TraceContext;

/// How many bits of randomness there are.
const BITS: u32 = 56;

/// One more than the greatest randomness.
const END: u64 = 1 << BITS;

/// Whether a request with that randomness is among the share `ratio`: whether the randomness reaches the rejection
/// threshold, (1 - ratio) × 2^56. It is asked for only where it matters.
pub(super) fn is_within(ratio: f64, randomness: impl FnOnce() -> u64) -> bool {
    if ratio >= 1.0 {
        return true;
    }
    let accepted = (ratio * END as f64).round() as u64;
    accepted > 0 && randomness() >= END.saturating_sub(accepted)
}

/// The trace's own: `rv` of `tracestate` where somebody has stated it, else the last seven bytes of the trace id.
pub(super) fn of_trace(context: TraceContext, tracestate: &[u8]) -> Option<u64> {
    stated(tracestate).or_else(|| last_bytes(&context.trace_id))
}

/// The same for the same request id, in whatever proxy. The version in a UUID is left out, for Envoy notes there why it
/// traces a request; the last seven bytes are random in all versions that are in use. Any other id is hashed.
pub(super) fn of_request_id(id: &[u8]) -> Option<u64> {
    if id.is_empty() {
        return None;
    }
    let uuid = uuid::Uuid::try_parse_ascii(id).ok().filter(|_| id.len() == uuid::fmt::Hyphenated::LENGTH);
    match uuid {
        Some(uuid) => last_bytes(uuid.as_bytes()),
        // The key is zero: every proxy must come to the same.
        None => Some(SipHasher13::new().hash(id) >> (u64::BITS - BITS)),
    }
}

/// Nobody's but ours.
pub(super) fn of_chance(chance: &mut fastrand::Rng) -> u64 {
    chance.u64(..END)
}

fn last_bytes(id: &[u8; 16]) -> Option<u64> {
    let last = id.last_chunk::<8>()?;
    Some(u64::from_be_bytes(*last) & (END - 1))
}

/// `rv` of the member `ot`: 14 hexadecimal digits, in lower case. Source: OpenTelemetry's specification, "TraceState
/// Handling", and W3C Trace Context, section 3.3, for the list around it.
fn stated(tracestate: &[u8]) -> Option<u64> {
    let mut members = tracestate.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let member = members.find_map(|member| member.strip_prefix(b"ot="))?;
    let digits = member.split(|&byte| byte == b';').find_map(|pair| pair.strip_prefix(b"rv:"))?;
    let is_stated = digits.len() == 14 && digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    u64::from_str_radix(str::from_utf8(digits).ok().filter(|_| is_stated)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: TraceContext = TraceContext {
        trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes(),
        span_id: [1; 8],
        flags: 1,
    };
    const OF_TRACE_ID: u64 = 0xce_929d_0e0e_4736;

    #[test]
    fn randomness_is_the_traces_end_unless_it_is_stated() {
        for (tracestate, expected) in [
            (&b""[..], OF_TRACE_ID),
            (b"ot=rv:0123456789abcd", 0x01_2345_6789_abcd),
            (b"ot=th:8;rv:0123456789abcd;p:1", 0x01_2345_6789_abcd),
            (b"congo=t61rcWkgMzE , ot=rv:0123456789abcd,x=y", 0x01_2345_6789_abcd),
            (b"ot=rv:0123456789ABCD", OF_TRACE_ID),
            (b"ot=rv:0123456789abc", OF_TRACE_ID),
            (b"ot=rv:0123456789abcde", OF_TRACE_ID),
            (b"ot=rv:+123456789abcd", OF_TRACE_ID),
            (b"ot=th:8", OF_TRACE_ID),
            (b"rv:0123456789abcd", OF_TRACE_ID),
            (b"xot=rv:0123456789abcd", OF_TRACE_ID),
            (b"ot=\xff\xfe;rv:\xff", OF_TRACE_ID),
        ] {
            assert_eq!(
                of_trace(TRACE, tracestate),
                Some(expected),
                "{}",
                String::from_utf8_lossy(tracestate)
            );
        }
    }

    #[test]
    fn a_request_id_decides_alike_everywhere() {
        let id = b"8786c783-4b8d-4c8a-a3ee-2ed2e1b0eebd";
        assert_eq!(of_request_id(id), Some(0xee_2ed2_e1b0_eebd));
        // Envoy marks traced requests in the place of the version, and ids come in either case.
        assert_eq!(of_request_id(b"8786C783-4B8D-9C8A-A3EE-2ED2E1B0EEBD"), of_request_id(id));
        assert_eq!(of_request_id(b""), None);
        // SipHash-1-3 of the bytes under the key zero, its upper 56 bits: a change of these would split a fleet.
        assert_eq!(of_request_id(b"r-1"), Some(0xfa50_7525_d8ee_ef82 >> 8));
        assert_ne!(of_request_id(b"r-2"), of_request_id(b"r-1"));
    }

    #[test]
    fn the_threshold_is_the_specifications() {
        // (1 - 0.25) × 2^56.
        let threshold = 0xc0_0000_0000_0000;
        assert!(is_within(0.25, || threshold));
        assert!(!is_within(0.25, || threshold - 1));
        assert!(is_within(1.0, || unreachable!("all are kept, whatever they are like")));
        assert!(!is_within(0.0, || unreachable!("none is kept, whatever it is like")));
        assert!(!is_within(f64::MIN_POSITIVE, || END - 1));
        assert!(is_within(1.0 / END as f64, || END - 1));
    }

    proptest! {
        #[test]
        fn what_a_ratio_keeps_a_greater_one_keeps(randomness in 0..END, some in 0.0..=1.0, other in 0.0..=1.0) {
            let (less, more) = if some < other { (some, other) } else { (other, some) };
            prop_assert!(is_within(more, || randomness) || !is_within(less, || randomness));
        }

        #[test]
        fn any_ids_have_randomness_below_the_end(
            id in proptest::collection::vec(any::<u8>(), 1..60),
            tracestate in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            prop_assert!(of_request_id(&id).unwrap() < END);
            prop_assert!(of_trace(TRACE, &tracestate).unwrap() < END);
        }
    }
}
