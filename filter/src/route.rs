//! Which of the configured path templates a request's path matches.
//!
//! The configuration's list comes in; a [`Match`] goes to [`crate::policy`], [`crate::measure`] and [`crate::record`].
//! A path that no template matches has no route: nothing that a client sends is ever told as one.
//!
//! The most specific template wins. One without a catch-all (`{*rest}`) goes before all that have one, and of those the
//! one whose catch-all begins later. Else, where two differ first, text goes before a parameter, and a parameter with
//! text around it before one without.
//! Paths are compared as they are on the wire: nothing is percent-decoded, and a slash at the end counts.

use std::ops::Range;

use matchit::{InsertError, Router};

use crate::config::{self, ConfigError};

/// More of them the router does not take.
const MAX_PARAMETERS: usize = 25;

/// The templates, ready to be matched.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    templates: Vec<String>,
    /// Indices into the templates, by how many segments there are before the catch-all: the most first, and none at all
    /// before that. In one router, a catch-all and a parameter in the same place would be taken for a contradiction.
    routers: Vec<(usize, Router<u16>)>,
}

/// Where the catch-all begins in a template that has none.
const NO_CATCH_ALL: usize = usize::MAX;

/// The template that a path matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match<'r> {
    /// Its place in the configuration's list.
    pub index: u16,
    /// The template, as it is configured: the value of `http.route`.
    pub template: &'r str,
}

impl Routes {
    /// Compiles the list.
    ///
    /// # Errors
    /// When a template is malformed, or when it is not clear which of two templates is the more specific one.
    pub fn new(routes: &[config::Route]) -> Result<Self, ConfigError> {
        let mut compiled = Self::default();
        for (index, config::Route { template, .. }) in routes.iter().enumerate() {
            compiled.insert(template).map_err(|reason| {
                ConfigError::new(format!("configuration: `routes[{index}]`: is `{template}`, {reason}"))
            })?;
        }
        Ok(compiled)
    }

    /// The most specific template that `path` matches; `path` has no query.
    pub fn find(&self, path: &[u8]) -> Option<Match<'_>> {
        if self.templates.is_empty() {
            return None;
        }
        // Templates are ASCII: what is not UTF-8 can only be in a parameter's place.
        let path = String::from_utf8_lossy(path);
        let index = self.routers.iter().find_map(|(_, router)| Some(*router.at(&path).ok()?.value))?;
        self.get(index)
    }

    /// The parameters of the template that `path` matches, each with the part of the path that it stands for, in their order.
    pub fn parameters<'r>(&'r self, path: &str) -> Vec<(&'r str, Range<usize>)> {
        let found = self.routers.iter().find_map(|(_, router)| router.at(path).ok());
        let Some(found) = found else { return Vec::new() };
        let place = |(name, value): (&'r str, &str)| {
            // The values are parts of `path`: how far they are from its begin is where they are.
            let begin = value.as_ptr().addr().saturating_sub(path.as_ptr().addr());
            (name, begin..begin + value.len())
        };
        found.params.iter().map(place).collect()
    }

    /// Whether a template has a parameter of that name.
    pub fn have_parameter(&self, name: &str) -> bool {
        self.templates.iter().any(|template| {
            let text = template.replace("{{", "").replace("}}", "");
            let mut parameters = text.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
            parameters.any(|(known, _)| known.strip_prefix('*').unwrap_or(known) == name)
        })
    }

    /// The template in that place of the list.
    pub fn get(&self, index: u16) -> Option<Match<'_>> {
        self.templates.get(usize::from(index)).map(|template| Match { index, template })
    }

    fn insert(&mut self, template: &str) -> Result<(), String> {
        // Two stand for a brace that is text.
        let parameters = template.replace("{{", "");
        if parameters.matches('{').count() > MAX_PARAMETERS {
            return Err(format!("allowed are at most {MAX_PARAMETERS} parameters"));
        }
        let index =
            u16::try_from(self.templates.len()).map_err(|_| "allowed are fewer templates".to_owned())?;
        let before_catch_all = parameters.split_once("{*").map(|(before, _)| before.matches('/').count());
        let begin = before_catch_all.unwrap_or(NO_CATCH_ALL);
        let place = self.routers.partition_point(|(known, _)| *known > begin);
        if self.routers.get(place).is_none_or(|(known, _)| *known != begin) {
            self.routers.insert(place, (begin, Router::new()));
        }
        if let Some((_, router)) = self.routers.get_mut(place) {
            router.insert(template, index).map_err(|error| self.reason(error))?;
        }
        self.templates.push(template.to_owned());
        Ok(())
    }

    fn reason(&self, error: InsertError) -> String {
        match error {
            InsertError::Conflict { with } => {
                let place = self.templates.iter().position(|known| *known == with);
                let place = place.map_or_else(String::new, |place| format!(" of `routes[{place}]`"));
                format!("allowed is one that does not contradict `{with}`{place}")
            }
            InsertError::InvalidParamSegment => "allowed is one parameter between two slashes".to_owned(),
            InsertError::InvalidCatchAll => {
                "allowed is a catch-all at the end only, as in `/files/{*path}`".to_owned()
            }
            _ => "allowed are parameters such as `{id}`; `{{` and `}}` stand for braces".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
