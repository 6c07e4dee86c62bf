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

/// The upper half of a UUID's seventh byte.
const UUID_VERSION: u128 = 0xf << 76;

/// A share of all requests: how many of the 2^56 values their randomness may have, the greatest ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share(u64);

impl Share {
    /// The share that is nearest to `ratio`, and none only for 0.
    pub(super) fn of(ratio: f64) -> Self {
        let nearest = (ratio * END as f64).round() as u64;
        Self(nearest.clamp(u64::from(ratio > 0.0), END))
    }

    /// Whether it has a request with that randomness: whether the randomness reaches the rejection threshold, (1 - ratio) ×
    /// 2^56. It is asked for only where it matters.
    pub(super) fn has(self, randomness: impl FnOnce() -> u64) -> bool {
        self.0 >= END || (self.0 > 0 && randomness() >= END - self.0)
    }

    /// How many requests one of it stands for.
    pub(super) fn weight(self) -> f64 {
        END as f64 / self.0 as f64
    }
}

/// The trace's own: `rv` of `tracestate` where somebody has stated it, else the last seven bytes of the trace id.
pub(super) fn of_trace(context: TraceContext, tracestate: &[u8]) -> Option<u64> {
    stated(tracestate).or_else(|| last_bytes(&context.trace_id))
}

/// The same for the same request id, in whatever proxy: a hash, since no part of an id is random in all ids that there are.
/// The version in a UUID is left out, for Envoy notes there why it traces a request.
pub(super) fn of_request_id(id: &[u8]) -> Option<u64> {
    if id.is_empty() {
        return None;
    }
    let uuid = uuid::Uuid::try_parse_ascii(id).ok().filter(|_| id.len() == uuid::fmt::Hyphenated::LENGTH);
    // The key is zero: every proxy must come to the same.
    let hash = SipHasher13::new();
    let hash = match uuid {
        Some(uuid) => hash.hash(&(uuid.as_u128() & !UUID_VERSION).to_be_bytes()),
        None => hash.hash(id),
    };
    Some(hash >> (u64::BITS - BITS))
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
        // SipHash-1-3 under the key zero, its upper 56 bits, of the UUID's bytes without the version: a change of these would
        // split a fleet.
        assert_eq!(of_request_id(id), Some(67_005_324_252_753_866));
        // Envoy marks traced requests in the place of the version, and ids come in either case.
        assert_eq!(of_request_id(b"8786C783-4B8D-9C8A-A3EE-2ED2E1B0EEBD"), of_request_id(id));
        assert_eq!(of_request_id(b""), None);
        // Of any other id's bytes as they are.
        assert_eq!(of_request_id(b"r-1"), Some(0xfa50_7525_d8ee_ef82 >> 8));
        assert_ne!(of_request_id(b"r-2"), of_request_id(b"r-1"));
    }

    #[test]
    fn the_threshold_is_the_specifications() {
        // (1 - 0.25) × 2^56.
        let threshold = 0xc0_0000_0000_0000;
        assert!(Share::of(0.25).has(|| threshold));
        assert!(!Share::of(0.25).has(|| threshold - 1));
        assert!(Share::of(1.0).has(|| unreachable!("all are kept, whatever they are like")));
        assert!(!Share::of(0.0).has(|| unreachable!("none is kept, whatever it is like")));
    }

    #[test]
    fn a_weight_is_that_of_the_share_which_is_really_kept() {
        for (ratio, accepted) in [(1.0, END), (0.25, END / 4), (1.4 / END as f64, 1), (f64::MIN_POSITIVE, 1)]
        {
            let share = Share::of(ratio);
            assert_eq!(share.weight(), END as f64 / accepted as f64, "{ratio}");
            assert!(share.has(|| END - accepted), "{ratio}");
            assert!(accepted == END || !share.has(|| END - accepted - 1), "{ratio}");
        }
    }

    #[test]
    fn ids_that_count_or_name_their_maker_are_spread_like_others() {
        // Versions 1 and 6 end in what is the same for all ids of a process, counters begin with zeros.
        let makers: [fn(u128) -> u128; 3] =
            [|n| 0x1ec9_414c << 96 | n << 80 | 0x9f6b_dece_d846, |n| n << 64 | 0x8000_0000_0000_0001, |n| n];
        for id in makers {
            let ids = (0..10_000).map(|n| uuid::Uuid::from_u128(id(n)).to_string());
            let kept = ids.filter(|id| Share::of(0.1).has(|| of_request_id(id.as_bytes()).unwrap())).count();
            // Four standard deviations of 30.
            assert!((880..=1120).contains(&kept), "{kept} of 10000, {}", uuid::Uuid::from_u128(id(1)));
        }
    }

    proptest! {
        #[test]
        fn what_a_ratio_keeps_a_greater_one_keeps(randomness in 0..END, some in 0.0..=1.0, other in 0.0..=1.0) {
            let (less, more) = if some < other { (some, other) } else { (other, some) };
            prop_assert!(Share::of(more).has(|| randomness) || !Share::of(less).has(|| randomness));
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
