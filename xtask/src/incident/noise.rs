//! The noise: several copies of *no logging* run beside each other, and what they differ by is what no form can be told
//! apart by. A form is within it when it is as near to the copies as they are to each other.

use serde::Serialize;

use crate::incident::figures::Figures;

/// One quantile of the copies, and of the form that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Noise {
    /// `P95`, or `mean`.
    pub name: &'static str,
    /// The fastest copy.
    pub least_ms: f64,
    /// The slowest copy.
    pub most_ms: f64,
    /// The form.
    pub form_ms: f64,
}

impl Noise {
    /// For mean and all quantiles.
    #[must_use]
    pub fn all(copies: &[&Figures], form: &Figures) -> Vec<Self> {
        form.latency
            .named()
            .into_iter()
            .enumerate()
            .map(|(index, (name, form_ms))| {
                let values =
                    copies.iter().filter_map(|copy| copy.latency.named().get(index).map(|(_, ms)| *ms));
                Self {
                    name,
                    least_ms: values.clone().fold(f64::INFINITY, f64::min),
                    most_ms: values.fold(0.0, f64::max),
                    form_ms,
                }
            })
            .collect()
    }

    /// What the copies differ by.
    #[must_use]
    pub fn spread_ms(&self) -> f64 {
        self.most_ms - self.least_ms
    }

    /// How much slower the form is than the middle between the copies.
    #[must_use]
    pub fn difference_ms(&self) -> f64 {
        self.form_ms - (self.least_ms + self.most_ms) / 2.0
    }

    /// Whether it is at most the copies' own difference away from one of them.
    #[must_use]
    pub fn is_within(&self) -> bool {
        self.form_ms <= self.most_ms + self.spread_ms() && self.form_ms >= self.least_ms - self.spread_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_is_as_near_as_the_copies_are_to_each_other() {
        let noise = |form_ms| Noise { name: "P95", least_ms: 100.0, most_ms: 102.0, form_ms };
        for (form_ms, within) in [(97.9, false), (98.0, true), (101.0, true), (104.0, true), (104.1, false)] {
            assert_eq!(noise(form_ms).is_within(), within, "{form_ms}");
        }
    }
}
