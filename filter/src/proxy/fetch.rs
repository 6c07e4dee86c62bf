//! Fetches a stage of the plan in as few host calls as it takes: headers together, the rest by a list, by a list that
//! expects less, or one by one.

use super::host::{self, Expression};
use crate::capture::{Captured, Stage};
use crate::request::is_grpc;

/// A stage's lists, compiled by the host.
pub(super) struct Lists {
    /// In the order in which they are tried.
    expressions: Vec<Expression>,
    is_wanted: bool,
}

impl Lists {
    /// Compiles what the host can; a stage without values has none.
    pub(super) fn compile(stage: &Stage) -> Self {
        let mut texts = vec![stage.expression(), stage.guarded_expression()];
        texts.dedup();
        texts.retain(|text| !text.is_empty());
        Self {
            is_wanted: !texts.is_empty(),
            expressions: texts.into_iter().filter_map(Expression::create).collect(),
        }
    }

    /// Whether the host has compiled none of those that there are.
    pub(super) fn is_none(&self) -> bool {
        self.is_wanted && self.expressions.is_empty()
    }

    /// Asks for the current stream's values. Whether those came together that were wanted so; otherwise they were asked for
    /// one by one.
    pub(super) fn fetch(&self, stage: &Stage, captured: &mut Captured) -> bool {
        let (headers, paths) = (stage.headers(), stage.property_paths());
        let has_headers = headers.is_empty()
            || host::request_headers().is_some_and(|map| captured.take_headers(map, headers).is_ok());
        let mut paths = if has_headers { paths.get(headers.len()..).unwrap_or_default() } else { paths };
        let is_listed = has_headers && self.fetch_list(stage, captured);
        if is_listed {
            paths = paths.get(stage.list_slots()..).unwrap_or_default();
        }
        fetch_singly(stage, paths, captured);
        has_headers && (is_listed || !self.is_wanted)
    }

    fn fetch_list(&self, stage: &Stage, captured: &mut Captured) -> bool {
        let slots = stage.list_slots();
        self.expressions.iter().any(|expression| {
            expression.evaluate().is_some_and(|answer| captured.take_list(answer, slots).is_ok())
        })
    }

    /// Frees them.
    pub(super) fn delete(&mut self) {
        self.expressions.drain(..).for_each(Expression::delete);
    }
}

/// Asks for the last values of a stage, those behind `paths`, one by one.
fn fetch_singly(stage: &Stage, paths: &[Vec<u8>], captured: &mut Captured) {
    let (others, grpc_status) = match (stage.content_type_slot(), paths.split_last()) {
        (Some(content_type_slot), Some((path, others))) => (others, Some((content_type_slot, path))),
        _ => (paths, None),
    };
    for path in others {
        captured.push(host::property(path).as_deref());
    }
    if let Some((content_type_slot, path)) = grpc_status {
        let is_grpc = is_grpc(captured.slot(content_type_slot));
        captured.push(is_grpc.then(|| host::property(path)).flatten().as_deref());
    }
}
