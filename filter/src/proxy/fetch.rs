//! Fetches a stage of the plan in as few host calls as it takes: headers together, the rest by a list, by a list that
//! expects less, or one by one.

use super::host::{self, Expression};
use crate::capture::{Captured, Stage};

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

    /// Asks for the current stream's values. Whether they came together; otherwise some of them were asked for one by one.
    pub(super) fn fetch(&self, stage: &Stage, captured: &mut Captured) -> bool {
        let headers = stage.headers();
        let has_headers = headers.is_empty()
            || host::request_headers().is_some_and(|map| captured.take_headers(map, headers).is_ok());
        if !has_headers {
            push_properties(stage.property_paths(), captured);
            return false;
        }
        for expression in &self.expressions {
            if expression
                .evaluate()
                .is_some_and(|answer| captured.take_list(answer, stage.list_slots()).is_ok())
            {
                return true;
            }
        }
        push_properties(stage.property_paths().get(headers.len()..).unwrap_or_default(), captured);
        !self.is_wanted
    }

    /// Frees them.
    pub(super) fn delete(&mut self) {
        self.expressions.drain(..).for_each(Expression::delete);
    }
}

fn push_properties(paths: &[Vec<u8>], captured: &mut Captured) {
    for path in paths {
        captured.push(host::property(path).as_deref());
    }
}
