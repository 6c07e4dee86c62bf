//! What was found in a text that must not be told as it is, and the text without it.
//!
//! Everybody who looks for secrets looks at the text as it came: what the one takes out may be what the other knows a secret
//! by. What they have found is put together here.

use std::cmp::Reverse;
use std::ops::Range;

use super::REDACTED;

/// A part of a text that is not told as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) place: Range<usize>,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Told as [`REDACTED`].
    Secret,
    /// Told so, too: what stood in a secret parameter's place in the request's own path.
    Segment,
    /// An encoded path, told as this. There are no [`Kind::Segment`] in it.
    Path(Vec<u8>),
    /// An address, of which no more than this is told.
    Network(String),
}

impl Finding {
    pub(super) fn secret(place: Range<usize>) -> Self {
        Self { place, kind: Kind::Secret }
    }

    /// As a part of a text that begins `by` bytes earlier, but without the first bytes, of which `added` were put before it.
    pub(super) fn moved(self, by: usize, added: usize) -> Self {
        let moved = |at: usize| (at + by).saturating_sub(added).max(by);
        Self { place: moved(self.place.start)..moved(self.place.end), kind: self.kind }
    }
}

/// `text` as far as it may be told. Findings that overlap are one secret: what each would tell of it, another one may hide.
pub(super) fn told(text: &[u8], mut findings: Vec<Finding>) -> Vec<u8> {
    // What another one may lie within comes first.
    findings.sort_unstable_by_key(|Finding { place, kind }| {
        (place.start, Reverse(place.end), *kind == Kind::Segment)
    });
    let mut out = Vec::with_capacity(text.len());
    let mut told_to = 0;
    let mut findings = findings.into_iter().peekable();
    while let Some(Finding { mut place, mut kind }) = findings.next() {
        while let Some(next) = findings.next_if(|next| next.place.start < place.end) {
            let is_gone = next.kind == Kind::Segment && next.place.end <= place.end;
            if !(is_gone && matches!(kind, Kind::Path(_))) {
                place.end = place.end.max(next.place.end);
                kind = Kind::Secret;
            }
        }
        out.extend_from_slice(text.get(told_to..place.start).unwrap_or_default());
        out.extend_from_slice(match &kind {
            Kind::Secret | Kind::Segment => REDACTED.as_bytes(),
            Kind::Path(path) => path,
            Kind::Network(network) => network.as_bytes(),
        });
        told_to = place.end;
    }
    out.extend_from_slice(text.get(told_to..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_that_overlap_are_one_secret() {
        let secret = Finding::secret;
        let path = |place| Finding { place, kind: Kind::Path(b"/p".into()) };
        let segment = |place| Finding { place, kind: Kind::Segment };
        let network = |place| Finding { place, kind: Kind::Network("10.0.0.0".to_owned()) };
        for (findings, expected) in [
            (vec![], "0123456789"),
            (vec![secret(8..9), secret(2..3)], "01REDACTED34567REDACTED9"),
            (vec![secret(2..4), secret(4..6)], "01REDACTEDREDACTED6789"),
            (vec![secret(2..5), segment(4..6)], "01REDACTED6789"),
            (vec![secret(5..5)], "01234REDACTED56789"),
            (vec![path(2..6), network(6..8)], "01/p10.0.0.089"),
            (vec![path(2..6), secret(3..4)], "01REDACTED6789"),
            (vec![network(2..6), segment(3..4)], "01REDACTED6789"),
            (vec![path(2..6), segment(2..4), segment(5..6)], "01/p6789"),
            (vec![path(2..6), segment(5..7)], "01REDACTED789"),
        ] {
            assert_eq!(
                String::from_utf8(told(b"0123456789", findings.clone())).unwrap(),
                expected,
                "{findings:?}"
            );
        }
    }
}
