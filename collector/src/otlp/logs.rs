//! A logs request, record by record.
//!
//! In: the bytes of an `ExportLogsServiceRequest`. Out: calls of a [`Visitor`], which either only counts (at the door)
//! or writes rows ([`crate::store::logs`]).

use opentelemetry_proto::tonic::logs::v1::LogRecord;

use super::{
    Levels, MAX_MESSAGE_BYTES, MAX_RECORDS_PER_REQUEST, Malformed, ScopeVisitor, decode, walk_scopes,
};

/// Sees a logs request: each resource, then each of its scopes, then each of its records.
pub trait Visitor: ScopeVisitor {
    /// One `LogRecord`, still encoded: so that one which cannot be stored is kept byte for byte.
    ///
    /// # Errors
    /// Stops the walk.
    fn record(&mut self, record: &[u8]) -> Result<(), Self::Error>;
}

/// Walks through a request.
///
/// # Errors
/// What the visitor returns, and [`Malformed`] for broken framing, resources and scopes.
pub fn walk<V: Visitor>(request: &[u8], visitor: &mut V) -> Result<(), V::Error> {
    const LEVELS: Levels =
        Levels { request: "ExportLogsServiceRequest", resource: "ResourceLogs", scope: "ScopeLogs" };
    walk_scopes(&LEVELS, request, visitor, V::record)
}

/// Checks that every part of a request decodes, and counts its records. A record over [`MAX_MESSAGE_BYTES`] is counted
/// undecoded: it will be set aside alone, without its neighbours.
///
/// # Errors
/// [`Malformed`].
pub fn validate(request: &[u8]) -> Result<u64, Malformed> {
    struct Count(u64);
    impl ScopeVisitor for Count {
        type Error = Malformed;
    }
    impl Visitor for Count {
        fn record(&mut self, record: &[u8]) -> Result<(), Malformed> {
            self.0 += 1;
            if self.0 > MAX_RECORDS_PER_REQUEST {
                return Err(Malformed::TooMany);
            }
            if record.len() <= MAX_MESSAGE_BYTES {
                decode::<LogRecord>("LogRecord", record)?;
            }
            Ok(())
        }
    }
    let mut count = Count(0);
    walk(request, &mut count)?;
    Ok(count.0)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
    use prost::Message;

    use super::*;

    fn request(records: usize) -> Vec<u8> {
        let scope = ScopeLogs { log_records: vec![LogRecord::default(); records], ..ScopeLogs::default() };
        let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
        ExportLogsServiceRequest { resource_logs: vec![resource.clone(), resource] }.encode_to_vec()
    }

    #[test]
    fn records_of_all_resources_are_counted() {
        assert_eq!(validate(&request(3)), Ok(6));
        assert_eq!(validate(&[]), Ok(0));
    }

    #[test]
    fn the_number_of_records_is_bounded() {
        let half = usize::try_from(MAX_RECORDS_PER_REQUEST / 2).unwrap();
        assert_eq!(validate(&request(half)), Ok(MAX_RECORDS_PER_REQUEST));
        assert_eq!(validate(&request(half + 1)), Err(Malformed::TooMany));
    }

    #[test]
    fn every_prefix_of_a_request_is_answered_without_a_panic() {
        let whole = request(2);
        for length in 0..whole.len() {
            let _ = validate(&whole[..length]);
        }
        assert!(validate(&whole[..whole.len() - 1]).is_err());
    }
}
