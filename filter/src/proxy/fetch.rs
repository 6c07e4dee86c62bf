//! Fetches a stage of the plan in as few host calls as it takes: headers together, the rest by a list, by a list that
//! expects less and lacks what users want evaluated, or one by one.

use super::host::{self, Expression};
use crate::capture::{Captured, NamedExpression, Stage};
use crate::config::ConfigError;
use crate::request::is_grpc;

/// A stage's lists, compiled by the host.
pub(super) struct Lists {
    /// In the order in which they are tried, each with the number of its values.
    expressions: Vec<(Expression, usize)>,
    /// What users want evaluated, each by itself.
    named: Vec<Expression>,
    is_wanted: bool,
}

impl Lists {
    /// Compiles what the host can; a stage without values has none.
    ///
    /// # Errors
    /// When the host refuses what a user wants evaluated.
    pub(super) fn compile(stage: &Stage) -> Result<Self, ConfigError> {
        let named = stage.named().iter().map(compile_named).collect::<Result<Vec<_>, _>>()?;
        let slots = stage.list_slots();
        let mut texts = vec![(stage.expression(), slots + named.len()), (stage.guarded_expression(), slots)];
        texts.dedup();
        texts.retain(|(text, _)| !text.is_empty());
        let compile = |(text, slots)| Some((Expression::create(text)?, slots));
        Ok(Self {
            is_wanted: !texts.is_empty(),
            expressions: texts.into_iter().filter_map(compile).collect(),
            named,
        })
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
        let paths = if has_headers { paths.get(headers.len()..).unwrap_or_default() } else { paths };
        let listed = if has_headers { self.fetch_list(captured) } else { 0 };
        let paths = paths.get(listed.min(stage.list_slots())..).unwrap_or_default();
        let named = if listed > stage.list_slots() { &[] } else { self.named.as_slice() };
        fetch_singly(stage, paths, named, captured);
        has_headers && (listed >= stage.list_slots() || !self.is_wanted)
    }

    /// How many values came by a list.
    fn fetch_list(&self, captured: &mut Captured) -> usize {
        let fetched = self.expressions.iter().find(|(expression, slots)| {
            expression.evaluate().is_some_and(|answer| captured.take_list(answer, *slots).is_ok())
        });
        fetched.map_or(0, |(_, slots)| *slots)
    }

    /// Frees them.
    pub(super) fn delete(&mut self) {
        let lists = self.expressions.drain(..).map(|(expression, _)| expression);
        lists.chain(self.named.drain(..)).for_each(Expression::delete);
    }
}

/// First as the user wrote it, so that the host's own log, should it refuse, speaks of what the user knows.
fn compile_named(named: &NamedExpression) -> Result<Expression, ConfigError> {
    let compile = |text| {
        Expression::create(text).ok_or_else(|| {
            ConfigError::new(format!(
                "configuration: `logs.attributes.{}`: is refused by the proxy, whose own log says why and where (level info)",
                named.name
            ))
        })
    };
    compile(&named.text)?.delete();
    compile(&named.term)
}

/// Asks for the last values of a stage one by one: those behind `paths`, and what users want evaluated.
fn fetch_singly(stage: &Stage, paths: &[Vec<u8>], named: &[Expression], captured: &mut Captured) {
    let (others, grpc_status) = match (stage.content_type_slot(), paths.split_last()) {
        (Some(content_type_slot), Some((path, others))) => (others, Some((content_type_slot, path))),
        _ => (paths, None),
    };
    for path in others {
        captured.push(host::property(path).as_deref());
    }
    for expression in named {
        match expression.evaluate() {
            Some(answer) => captured.push(Some(&answer)),
            None => captured.push_failed(),
        }
    }
    if let Some((content_type_slot, path)) = grpc_status {
        let is_grpc = is_grpc(captured.slot(content_type_slot));
        captured.push(is_grpc.then(|| host::property(path)).flatten().as_deref());
    }
}
