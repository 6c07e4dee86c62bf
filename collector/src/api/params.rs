//! The API's query parameters.
//!
//! In: a query string. Out: checked values, or an error that names the parameter, its value and what is allowed.
//! Parameters that do not exist, or come twice, are errors too: a filter with a typo would answer with everything.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::clock;

/// Why a parameter is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} `{value}`: {allowed}")]
pub struct InvalidParameter {
    /// The parameter.
    pub name: String,
    /// What was given.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

/// Parameters that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Reads a query string, in which only `names` may come.
    ///
    /// # Errors
    /// [`InvalidParameter`].
    pub fn read(query: Option<&str>, names: &[&str]) -> Result<Self, InvalidParameter> {
        let mut parameters = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let (name, value) = (name.into_owned(), value.into_owned());
            if !names.contains(&name.as_str()) {
                let allowed = format!("no such parameter, there are {}", names.join(", "));
                return Err(InvalidParameter { name, value, allowed });
            }
            if parameters.insert(name.clone(), value.clone()).is_some() {
                return Err(InvalidParameter { name, value, allowed: "may be given once only".to_owned() });
            }
        }
        Ok(Self(parameters))
    }

    /// Takes a parameter that is text.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Takes a parameter that `parse` understands; `allowed` says what that is.
    ///
    /// # Errors
    /// [`InvalidParameter`].
    pub fn parsed<T>(
        &mut self,
        name: &str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, InvalidParameter> {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        match parse(&value) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(InvalidParameter { name: name.to_owned(), value, allowed: allowed.to_owned() }),
        }
    }

    /// Takes a time, in nanoseconds since 1970.
    ///
    /// # Errors
    /// [`InvalidParameter`].
    pub fn time(&mut self, name: &str) -> Result<Option<i64>, InvalidParameter> {
        self.parsed(name, "an RFC 3339 time such as 2026-01-31T12:00:00Z is allowed", |text| {
            text.parse::<Timestamp>().ok().map(clock::nanos)
        })
    }
}

/// Checks that a time range is one.
///
/// # Errors
/// [`InvalidParameter`], which names `from`.
pub fn ordered(from_unix_nano: i64, to_unix_nano: i64) -> Result<(), InvalidParameter> {
    if from_unix_nano < to_unix_nano {
        return Ok(());
    }
    Err(InvalidParameter {
        name: "from".to_owned(),
        value: clock::rfc3339(from_unix_nano),
        allowed: format!("a time before `to`, `{}`, is allowed", clock::rfc3339(to_unix_nano)),
    })
}
