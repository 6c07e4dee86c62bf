//! Envoy's response flags: what went wrong with a request, as a bit mask with short names.
//! Source: `CoreResponseFlag` in Envoy's `envoy/stream_info/stream_info.h`; the names are `%RESPONSE_FLAGS%`'s.

/// The short names, by bit, and whether the flag means that the proxy or the upstream failed to give a whole response.
/// A client that leaves (DC, DR) is no such failure: clients close connections as soon as they have what they want, often
/// before the proxy has seen the end of it.
const FLAGS: [(&str, bool); 30] = [
    ("LH", false),
    ("UH", true),
    ("UT", true),
    ("LR", true),
    ("UR", true),
    ("UF", true),
    ("UC", true),
    ("UO", true),
    ("NR", false),
    ("DI", false),
    ("FI", false),
    ("RL", false),
    ("UAEX", false),
    ("RLSE", false),
    ("DC", false),
    ("URX", false),
    ("SI", true),
    ("IH", false),
    ("DPE", true),
    ("UMSDR", true),
    ("RFCF", false),
    ("NFCF", true),
    ("DT", true),
    ("UPE", true),
    ("NC", true),
    ("OM", true),
    ("DF", true),
    ("DO", true),
    ("DR", false),
    ("UDO", true),
];

/// A set of response flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponseFlags(u32);

impl ResponseFlags {
    /// Reads Envoy's bit mask; bits that have no name yet are left out.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits as u32 & ((1 << FLAGS.len()) - 1))
    }

    /// Whether none is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The short names of the flags that are set, in the order of their bits.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.set().map(|(name, _)| name)
    }

    /// The first flag that says that there was no whole response.
    pub fn broken(self) -> Option<&'static str> {
        self.set().find(|(_, broken)| *broken).map(|(name, _)| name)
    }

    fn set(self) -> impl Iterator<Item = (&'static str, bool)> {
        FLAGS.iter().enumerate().filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, flag)| *flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named_as_envoy_prints_them() {
        let names = |bits: u64| ResponseFlags::from_bits(bits).names().collect::<Vec<_>>().join(",");
        assert_eq!(names(0), "");
        assert_eq!(names(1 << 5 | 1 << 15), "UF,URX");
        assert_eq!(names(1 << 28), "DR");
        assert_eq!(names(u64::MAX).split(',').count(), 30);
        assert!(ResponseFlags::from_bits(1 << 40).is_empty());
    }
}
