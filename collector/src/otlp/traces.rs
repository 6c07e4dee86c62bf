//! A traces request, span by span.
//!
//! In: the bytes of an `ExportTraceServiceRequest`. Out: calls of a [`Visitor`], which either only counts (at the door)
//! or writes rows ([`crate::store::spans`]). A span whose ids OTLP calls invalid belongs to no trace: it is refused with
//! a reason, which the sender gets to read as a partial success; the spans beside it are not touched.

use opentelemetry_proto::tonic::trace::v1::Span;

use super::{Levels, MAX_MESSAGE_BYTES, Malformed, ScopeVisitor, Validated, decode, walk_scopes};

/// Why a span is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "span `{span}` is invalid: {id} has {bytes} bytes or is all zero: {length} bytes are required, not all zero"
)]
pub struct Invalid {
    /// The span's name.
    pub span: String,
    /// Which of its ids.
    pub id: &'static str,
    /// How long the id is.
    pub bytes: usize,
    /// How long it has to be.
    pub length: usize,
}

/// Sees a traces request: each resource, then each of its scopes, then each of its spans.
pub trait Visitor: ScopeVisitor {
    /// One span, checked, and as it came: so that one which cannot be stored is kept byte for byte.
    ///
    /// # Errors
    /// Stops the walk.
    fn span(&mut self, span: &Span, bytes: &[u8]) -> Result<(), Self::Error>;
    /// One over [`MAX_MESSAGE_BYTES`], undecoded: it will be set aside alone, without its neighbours.
    ///
    /// # Errors
    /// Stops the walk.
    fn too_large(&mut self, bytes: &[u8], error: Malformed) -> Result<(), Self::Error>;
    /// One that is not stored.
    ///
    /// # Errors
    /// Stops the walk.
    fn refused(&mut self, reason: Invalid) -> Result<(), Self::Error>;
}

/// Walks through a request.
///
/// # Errors
/// What the visitor returns, and [`Malformed`] for broken bytes.
pub fn walk<V: Visitor>(request: &[u8], visitor: &mut V) -> Result<(), V::Error> {
    const LEVELS: Levels =
        Levels { request: "ExportTraceServiceRequest", resource: "ResourceSpans", scope: "ScopeSpans" };
    walk_scopes(&LEVELS, request, visitor, |visitor, bytes| {
        if bytes.len() > MAX_MESSAGE_BYTES {
            let error = Malformed::TooLarge { message: "Span", bytes: bytes.len() };
            return visitor.too_large(bytes, error);
        }
        let span = decode("Span", bytes)?;
        match check(&span) {
            Ok(()) => visitor.span(&span, bytes),
            Err(reason) => visitor.refused(reason),
        }
    })
}

fn check(span: &Span) -> Result<(), Invalid> {
    for (name, bytes, length) in [("trace_id", &span.trace_id, 16), ("span_id", &span.span_id, 8)] {
        if id(bytes, length).is_none() {
            let span = span.name.chars().take(100).collect();
            return Err(Invalid { span, id: name, bytes: bytes.len(), length });
        }
    }
    Ok(())
}

/// An id of the right length that is not all zero; any other is none.
#[must_use]
pub fn id(bytes: &[u8], length: usize) -> Option<&[u8]> {
    (bytes.len() == length && bytes.iter().any(|byte| *byte != 0)).then_some(bytes)
}

/// Checks that every part of a request decodes, and counts its spans.
///
/// # Errors
/// [`Malformed`].
pub fn validate(request: &[u8]) -> Result<Validated, Malformed> {
    let mut validated = Validated::default();
    walk(request, &mut validated)?;
    Ok(validated)
}

impl Visitor for Validated {
    fn span(&mut self, _: &Span, _: &[u8]) -> Result<(), Malformed> {
        self.accepted += 1;
        self.check_number()
    }
    fn too_large(&mut self, _: &[u8], _: Malformed) -> Result<(), Malformed> {
        self.accepted += 1;
        self.check_number()
    }
    fn refused(&mut self, reason: Invalid) -> Result<(), Malformed> {
        self.invalid += 1;
        self.first_reason.get_or_insert_with(|| reason.to_string());
        self.check_number()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
    use prost::Message;

    use super::super::MAX_RECORDS_PER_REQUEST;
    use super::*;

    fn span(trace_id: &[u8], span_id: &[u8]) -> Span {
        let (trace_id, span_id) = (trace_id.to_vec(), span_id.to_vec());
        Span { trace_id, span_id, name: "s".into(), ..Span::default() }
    }

    fn request(spans: Vec<Span>) -> Vec<u8> {
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    }

    #[test]
    fn spans_without_valid_ids_are_refused_one_by_one() {
        let good = span(&[1; 16], &[2; 8]);
        let bad = [
            span(&[1; 15], &[2; 8]),
            span(&[1; 17], &[2; 8]),
            span(&[0; 16], &[2; 8]),
            span(&[1; 16], &[2; 7]),
            span(&[1; 16], &[0; 8]),
            span(&[], &[]),
        ];
        let spans = [bad.as_slice(), &[good.clone(), good]].concat();
        let validated = validate(&request(spans)).unwrap();
        assert_eq!((validated.accepted, validated.invalid), (2, 6));
        assert_eq!(
            validated.first_reason.unwrap(),
            "span `s` is invalid: trace_id has 15 bytes or is all zero: 16 bytes are required, not all zero"
        );
    }

    #[test]
    fn the_number_of_spans_is_bounded_valid_or_not() {
        let most = usize::try_from(MAX_RECORDS_PER_REQUEST).unwrap();
        for (trace_id, accepted) in [(&[1; 16][..], MAX_RECORDS_PER_REQUEST), (&[], 0)] {
            let spans = vec![span(trace_id, &[2; 8]); most];
            assert_eq!(validate(&request(spans.clone())).unwrap().accepted, accepted);
            assert_eq!(validate(&request([spans, vec![Span::default()]].concat())), Err(Malformed::TooMany));
        }
    }

    #[test]
    fn every_prefix_of_a_request_is_answered_without_a_panic() {
        let whole = request(vec![span(&[1; 16], &[2; 8]); 2]);
        for length in 0..whole.len() {
            let _ = validate(&whole[..length]);
        }
        assert!(validate(&whole[..whole.len() - 1]).is_err());
    }
}
