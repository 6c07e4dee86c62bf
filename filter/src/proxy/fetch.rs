//! Fetches a stage of the plan in as few host calls as it takes: by a list, by a list that expects less, or one by one.

use super::host::{self, Expression};
use crate::capture::{Captured, Malformed, Stage};

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

    /// Asks for the current stream's values. Whether a list gave them; otherwise they are there one by one.
    pub(super) fn fetch(
        &self,
        stage: &Stage,
        captured: &mut Captured,
        take: fn(&mut Captured, Vec<u8>, usize) -> Result<(), Malformed>,
    ) -> bool {
        for expression in &self.expressions {
            if expression.evaluate().is_some_and(|answer| take(captured, answer, stage.slots()).is_ok()) {
                return true;
            }
        }
        for path in stage.property_paths() {
            captured.push(host::property(path).as_deref());
        }
        !self.is_wanted
    }

    /// Frees them.
    pub(super) fn delete(&mut self) {
        self.expressions.drain(..).for_each(Expression::delete);
    }
}
