//! Wall-clock time, as the store and OTLP write it: nanoseconds since 1970 in UTC.

use jiff::Timestamp;

/// Now.
#[must_use]
pub fn now_unix_nano() -> i64 {
    nanos(Timestamp::now())
}

/// A timestamp in nanoseconds; beyond the years 1677 to 2262, the nearest that fits.
#[must_use]
pub fn nanos(timestamp: Timestamp) -> i64 {
    let nanos = timestamp.as_nanosecond();
    i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}

/// RFC 3339 in UTC with nanoseconds.
#[must_use]
pub fn rfc3339(unix_nano: i64) -> String {
    match Timestamp::from_nanosecond(i128::from(unix_nano)) {
        Ok(timestamp) => format!("{timestamp:.9}"),
        // Not reachable: the range of jiff's timestamps is wider than that of 64-bit nanoseconds.
        Err(_) => unix_nano.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nanoseconds_over_the_whole_range() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(1_700_000_000_123_456_789), "2023-11-14T22:13:20.123456789Z");
        assert_eq!(rfc3339(i64::MAX), "2262-04-11T23:47:16.854775807Z");
        assert_eq!(rfc3339(i64::MIN), "1677-09-21T00:12:43.145224192Z");
    }
}
