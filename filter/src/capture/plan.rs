//! Compiles the configuration into what is asked of the host for each request.

use super::attribute::{self, AttributeValue, Form, NotAnAttribute};
use super::field::{FIELDS, Field, Use};
use super::stage::{Value, are_headers_worth_it};
use super::{Captured, Stage};
use crate::config::{ClientAddress, Config, Route, SampleBy};
use crate::policy;

/// Which values are asked for, in which slot each arrives, and how to ask.
#[derive(Debug, Clone)]
pub struct Plan {
    first: Stage,
    rest: Stage,
    /// By [`Field`]: the slot, or `None` when the field is not asked for.
    field_slots: [Option<u8>; FIELDS.len()],
    request_header_slots: Vec<u8>,
    response_header_slots: Vec<u8>,
    attributes: Vec<(u8, Form)>,
}

/// More request headers that users have named as attributes than this are not looked for in the header map, which has
/// places for 64: the plugin's own fields and `logs.request_headers` take up to 41.
const MAX_HEADER_ATTRIBUTES: usize = 23;

/// Something that is wanted of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Field(Field),
    /// By their place in the configuration's list.
    RequestHeader(usize),
    ResponseHeader(usize),
    Attribute(usize, Form),
}

impl Plan {
    /// Asks for all that the configuration has a use for, and nothing else. Where every request becomes a record, all is
    /// asked for at once: a second call would cost more than it spares.
    pub fn new(config: &Config) -> Self {
        let chooses = config.logs.enabled && policy::lets_any_go(&config.logs, &config.routes);
        let (mut first, mut rest): (Vec<_>, Vec<_>) = wanted(config).partition(|(wanted, _)| match wanted {
            _ if !chooses => true,
            Wanted::Field(field) => is_for_series(*field, config) || is_for_decision(*field, config),
            Wanted::RequestHeader(_) | Wanted::ResponseHeader(_) | Wanted::Attribute(..) => false,
        });
        let in_headers =
            |part: &[(Wanted, Value)]| part.iter().filter(|(_, value)| value.is_in_headers()).count();
        let (mut first_headers, mut rest_headers) = (0, 0);
        if are_headers_worth_it(first.iter().map(|(_, value)| value)) {
            // Then they are all at hand, those of kept requests too.
            first.extend(rest.extract_if(.., |(_, value)| value.is_in_headers()));
            first_headers = in_headers(&first);
        } else if are_headers_worth_it(rest.iter().map(|(_, value)| value)) {
            rest_headers = in_headers(&rest);
        }
        put_in_order(&mut first);
        put_in_order(&mut rest);
        let slot_of =
            |field| first.iter().chain(&rest).position(|(wanted, _)| *wanted == Wanted::Field(field));
        let content_type_slot = |part: &[(Wanted, Value)]| {
            let has_grpc_status = part.last().is_some_and(|(wanted, _)| *wanted == GRPC_STATUS);
            slot_of(Field::ContentType).filter(|_| has_grpc_status)
        };
        let mut plan = Self {
            first: stage(&first, first_headers, content_type_slot(&first)),
            rest: stage(&rest, rest_headers, content_type_slot(&rest)),
            field_slots: [None; FIELDS.len()],
            request_header_slots: vec![0; config.logs.request_headers.len()],
            response_header_slots: vec![0; config.logs.response_headers.len()],
            attributes: vec![(0, Form::Text); config.logs.attributes.len()],
        };
        for (slot, (wanted, _)) in (0..).zip(first.iter().chain(&rest)) {
            plan.set_slot(*wanted, slot);
        }
        plan
    }

    /// What is asked of every request.
    pub fn first(&self) -> &Stage {
        &self.first
    }

    /// What is asked besides of a request whose record is kept; empty where the first stage is everything.
    pub fn rest(&self) -> &Stage {
        &self.rest
    }

    /// The property paths of both stages, in the order of the slots.
    pub fn property_paths(&self) -> impl Iterator<Item = &[u8]> {
        self.first.property_paths().iter().chain(self.rest.property_paths()).map(Vec::as_slice)
    }

    /// The bytes of a field; empty when the host has none or nobody asked.
    pub fn bytes<'c>(&self, captured: &'c Captured, field: Field) -> &'c [u8] {
        let slot = self.field_slots.get(field as usize).copied().flatten();
        slot.map(|slot| captured.slot(usize::from(slot))).unwrap_or_default()
    }

    /// A field that the host answers as an 8-byte little-endian integer.
    pub fn int(&self, captured: &Captured, field: Field) -> Option<i64> {
        Some(i64::from_le_bytes(self.bytes(captured, field).try_into().ok()?))
    }

    /// The value of the `index`th configured request header.
    pub fn request_header<'c>(&self, captured: &'c Captured, index: usize) -> &'c [u8] {
        self.request_header_slots.get(index).map(|&slot| captured.slot(slot.into())).unwrap_or_default()
    }

    /// The value of the `index`th configured response header.
    pub fn response_header<'c>(&self, captured: &'c Captured, index: usize) -> &'c [u8] {
        self.response_header_slots.get(index).map(|&slot| captured.slot(slot.into())).unwrap_or_default()
    }

    /// The value of the `index`th attribute that the user has named; `None` when the request lacks it.
    ///
    /// # Errors
    /// When it is no value that an attribute can have.
    pub fn attribute<'c>(
        &self,
        captured: &'c Captured,
        index: usize,
    ) -> Result<Option<AttributeValue<'c>>, NotAnAttribute> {
        let Some((slot, form)) = self.attributes.get(index) else { return Ok(None) };
        attribute::read(captured.slot(usize::from(*slot)), *form)
    }

    /// How many attributes the user has named.
    pub fn attributes(&self) -> usize {
        self.attributes.len()
    }

    fn set_slot(&mut self, wanted: Wanted, slot: u8) {
        let place = match wanted {
            Wanted::Field(field) => {
                if let Some(place) = self.field_slots.get_mut(field as usize) {
                    *place = Some(slot);
                }
                return;
            }
            Wanted::Attribute(index, form) => {
                if let Some(place) = self.attributes.get_mut(index) {
                    *place = (slot, form);
                }
                return;
            }
            Wanted::RequestHeader(index) => self.request_header_slots.get_mut(index),
            Wanted::ResponseHeader(index) => self.response_header_slots.get_mut(index),
        };
        if let Some(place) = place {
            *place = slot;
        }
    }
}

const GRPC_STATUS: Wanted = Wanted::Field(Field::GrpcStatus);

/// Headers, then others in the order in which they are, then what users want evaluated, and behind all that tells whether
/// there is one the gRPC status.
fn put_in_order(part: &mut Vec<(Wanted, Value)>) {
    let grpc_status: Vec<_> = part.extract_if(.., |(wanted, _)| *wanted == GRPC_STATUS).collect();
    let others: Vec<_> = part.extract_if(.., |(_, value)| !value.is_in_headers()).collect();
    let (named, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|(_, value)| value.named().is_some());
    part.extend(others);
    part.extend(named);
    part.extend(grpc_status);
}

/// All that the configuration has a use for.
fn wanted(config: &Config) -> impl Iterator<Item = (Wanted, Value)> {
    let chooses = config.logs.enabled && policy::lets_any_go(&config.logs, &config.routes);
    let fields = FIELDS.into_iter().filter(move |(field, _, used_by, _)| {
        is_for_series(*field, config)
            || is_for_record(*field, *used_by, config)
            || (chooses && is_for_decision(*field, config))
    });
    let fields =
        fields.map(|(field, name, _, presence)| (Wanted::Field(field), Value::attribute(name, presence)));
    let logs = Some(&config.logs).filter(|logs| logs.enabled);
    let request = logs.into_iter().flat_map(|logs| logs.request_headers.iter().enumerate());
    let response = logs.into_iter().flat_map(|logs| logs.response_headers.iter().enumerate());
    let attributes = logs.into_iter().flat_map(|logs| logs.attributes.iter().enumerate());
    fields
        .chain(request.map(|(index, name)| (Wanted::RequestHeader(index), Value::request_header(name))))
        .chain(response.map(|(index, name)| (Wanted::ResponseHeader(index), Value::response_header(name))))
        .chain(attributes.map(|(index, named)| {
            let (value, form) = attribute::wanted(named, index >= MAX_HEADER_ATTRIBUTES);
            (Wanted::Attribute(index, form), value)
        }))
}

fn stage(part: &[(Wanted, Value)], in_headers: usize, content_type_slot: Option<usize>) -> Stage {
    let values: Vec<Value> = part.iter().map(|(_, value)| value.clone()).collect();
    Stage::new(&values, in_headers, content_type_slot)
}

/// Whether the histograms need the field.
fn is_for_series(field: Field, config: &Config) -> bool {
    let metrics = &config.metrics;
    let histograms = metrics.histograms;
    let is_used = match field {
        Field::Path => !config.routes.is_empty(),
        Field::UpstreamDuration => histograms.upstream || histograms.proxy,
        Field::Cluster => metrics.attributes.upstream_cluster,
        Field::RouteName => metrics.attributes.route_name,
        Field::VirtualHostName => metrics.attributes.virtual_host_name,
        Field::Traceparent => metrics.exemplars,
        _ => FIELDS.get(field as usize).is_some_and(|(.., used_by, _)| *used_by == Use::Both),
    };
    is_used && metrics.enabled && (histograms.duration || histograms.upstream || histograms.proxy)
}

/// Whether a record needs the field, where there are records.
fn is_for_record(field: Field, used_by: Use, config: &Config) -> bool {
    config.logs.enabled
        && match field {
            Field::ClientAddress => config.logs.client_address != ClientAddress::None,
            Field::VirtualHostName => false,
            _ => used_by != Use::Decision,
        }
}

/// Whether the field has a say in which records are kept.
fn is_for_decision(field: Field, config: &Config) -> bool {
    let logs = &config.logs;
    match field {
        Field::Duration => {
            logs.keep_slower_than.is_some()
                || config.routes.iter().any(|route| route.keep_slower_than.is_some())
        }
        Field::Path => config.routes.iter().any(Route::has_own_rule),
        Field::Status | Field::Flags | Field::GrpcStatus | Field::ContentType => logs.keep_errors,
        Field::Traceparent | Field::Tracestate => logs.sample_by == SampleBy::Trace,
        Field::RequestId => logs.sample_by != SampleBy::Random,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
