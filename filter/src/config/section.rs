//! One JSON object of the configuration: typed reads that check a range, name the key's path, and remember which keys
//! exist, so that [`Section::finish`] can refuse all others.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use super::ConfigError;

/// A JSON object under a path; an absent one reads as empty.
pub(super) struct Section<'a> {
    path: String,
    object: Option<&'a Map<String, Value>>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The whole configuration.
    pub(super) fn root(value: &'a Value) -> Result<Self, ConfigError> {
        match value {
            Value::Object(object) => {
                Ok(Self { path: String::new(), object: Some(object), known: Vec::new() })
            }
            // Not even a scalar is quoted: the text may be anything, a token pasted into the wrong place too.
            other => {
                Err(ConfigError::new(format!("configuration: is {}, allowed is an object", kind(other))))
            }
        }
    }

    /// The object under `key`.
    pub(super) fn section(&mut self, key: &'static str) -> Result<Section<'a>, ConfigError> {
        let object = match self.get(key) {
            None => None,
            Some(Value::Object(object)) => Some(object),
            Some(_) => return Err(self.wrong(key, "an object")),
        };
        Ok(Section { path: self.path_of(key), object, known: Vec::new() })
    }

    /// Refuses keys that nobody asked for.
    pub(super) fn finish(self) -> Result<(), ConfigError> {
        let unknown =
            self.object.and_then(|object| object.keys().find(|key| !self.known.contains(&key.as_str())));
        match unknown {
            None => Ok(()),
            Some(key) => Err(ConfigError::new(format!(
                "configuration: {}: unknown key, allowed are {}",
                shown_key(&self.path_of(key)),
                self.known.join(", ")
            ))),
        }
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A whole number; `512.0` is one too, for Envoy's `Struct` knows doubles only.
    pub(super) fn size(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Result<usize, ConfigError> {
        // A default that another key's value puts out of range is an error like any other value would be.
        let number = match self.get(key) {
            None => Some(default),
            Some(value) => whole(value),
        };
        self.size_in(key, number, &range)
    }

    /// As [`Section::size`], without a default.
    pub(super) fn optional_size(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<usize>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => self.size_in(key, whole(value), &range).map(Some),
        }
    }

    fn size_in(
        &self,
        key: &str,
        number: Option<u64>,
        range: &RangeInclusive<u64>,
    ) -> Result<usize, ConfigError> {
        number
            .filter(|number| range.contains(number))
            .and_then(|number| usize::try_from(number).ok())
            .ok_or_else(|| {
                self.wrong(key, &format!("a whole number from {} to {}", range.start(), range.end()))
            })
    }

    /// A share, from 0 to 1.
    pub(super) fn ratio(&mut self, key: &'static str) -> Result<Option<f64>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|ratio| (0.0..=1.0).contains(ratio))
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a number from 0 to 1")),
        }
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Result<Duration, ConfigError> {
        Ok(self.optional_duration(key, range)?.unwrap_or(default))
    }

    pub(super) fn optional_duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_str()
            .and_then(|text| humantime::parse_duration(text).ok())
            .filter(|duration| range.contains(duration))
            .map(Some)
            .ok_or_else(|| {
                let (from, to) =
                    (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
                self.wrong(
                    key,
                    &format!("a duration such as \"250ms\", \"5s\" or \"5m\", from {from} to {to}"),
                )
            })
    }

    pub(super) fn text(
        &mut self,
        key: &'static str,
        allowed: &str,
        check: impl Fn(&str) -> bool,
    ) -> Result<Option<String>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if check(text) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(key, allowed)),
        }
    }

    pub(super) fn required_text(
        &mut self,
        key: &'static str,
        allowed: &str,
        check: impl Fn(&str) -> bool,
    ) -> Result<String, ConfigError> {
        self.text(key, allowed, check)?.ok_or_else(|| {
            ConfigError::new(format!(
                "configuration: `{}`: is missing, required is {allowed}",
                self.path_of(key)
            ))
        })
    }

    pub(super) fn texts(
        &mut self,
        key: &'static str,
        max_len: usize,
        item: &str,
        check: impl Fn(&str) -> bool,
    ) -> Result<Vec<&'a str>, ConfigError> {
        let items: &[Value] = match self.get(key) {
            None => &[],
            Some(Value::Array(items)) if items.len() <= max_len => items,
            Some(_) => {
                return Err(self.wrong(key, &format!("an array of at most {max_len} strings, each {item}")));
            }
        };
        items
            .iter()
            .enumerate()
            .map(|(index, value)| {
                value.as_str().filter(|text| check(text)).ok_or_else(|| {
                    let path = format!("{}[{index}]", self.path_of(key));
                    wrong_value(&path, Some(value), item)
                })
            })
            .collect()
    }

    /// The items of a list, of whatever kind.
    pub(super) fn items(
        &mut self,
        key: &'static str,
        max_len: usize,
        item: &str,
    ) -> Result<Vec<Item<'a>>, ConfigError> {
        let items: &[Value] = match self.get(key) {
            None => &[],
            Some(Value::Array(items)) if items.len() <= max_len => items,
            Some(_) => {
                return Err(self.wrong(key, &format!("an array of at most {max_len}, each {item}")));
            }
        };
        let path = self.path_of(key);
        let item = |(index, value)| Item { path: format!("{path}[{index}]"), value };
        Ok(items.iter().enumerate().map(item).collect())
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
        default: T,
    ) -> Result<T, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        choices
            .iter()
            .find(|(name, _)| value.as_str() == Some(*name))
            .map(|(_, choice)| *choice)
            .ok_or_else(|| self.wrong(key, &quoted(choices.iter().map(|(name, _)| *name))))
    }

    /// A list that names some of `members`; answers which.
    pub(super) fn subset<const N: usize>(
        &mut self,
        key: &'static str,
        members: [&str; N],
        default: [bool; N],
    ) -> Result<[bool; N], ConfigError> {
        if self.get(key).is_none() {
            return Ok(default);
        }
        let names = self.texts(key, N, &quoted(members.iter().copied()), |name| members.contains(&name))?;
        Ok(members.map(|member| names.contains(&member)))
    }

    /// All entries of this section, which must be strings.
    pub(super) fn all_texts(&mut self, max_len: usize) -> Result<BTreeMap<String, String>, ConfigError> {
        let Some(object) = self.object.take() else {
            return Ok(BTreeMap::new());
        };
        if object.len() > max_len {
            return Err(ConfigError::new(format!(
                "configuration: `{}`: has {} entries, allowed are at most {max_len}",
                self.path,
                object.len()
            )));
        }
        // Not collected: a map is collected by sorting, which would be 10 KB of the module.
        let mut texts = BTreeMap::new();
        for (key, value) in object {
            match value {
                Value::String(text) if !key.is_empty() => texts.insert(key.clone(), text.clone()),
                _ => {
                    let path = self.path_of(&clip(key));
                    return Err(wrong_value(&path, Some(value), "a string under a key that is not empty"));
                }
            };
        }
        Ok(texts)
    }

    /// The entries of an object whose values must never be shown; a value that is no string is `None`.
    pub(super) fn secret_entries(
        &mut self,
        key: &'static str,
        max_len: usize,
    ) -> Result<Vec<(&'a str, Option<&'a str>)>, ConfigError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Object(object)) if object.len() <= max_len => {
                Ok(object.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect())
            }
            Some(_) => Err(ConfigError::new(format!(
                "configuration: `{}`: the value (not shown) is not an object of at most {max_len} strings",
                self.path_of(key)
            ))),
        }
    }

    fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.object?.get(key)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn wrong(&self, key: &str, allowed: &str) -> ConfigError {
        wrong_value(&self.path_of(key), self.object.and_then(|object| object.get(key)), allowed)
    }
}

/// One item of a list.
pub(super) struct Item<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Item<'a> {
    /// The item, where it is a string.
    pub(super) fn whole_text(
        &self,
        allowed: &str,
        check: impl Fn(&str) -> bool,
    ) -> Result<Option<String>, ConfigError> {
        match self.value {
            Value::String(text) if check(text) => Ok(Some(text.clone())),
            Value::String(_) => Err(wrong_value(&self.path, Some(self.value), allowed)),
            _ => Ok(None),
        }
    }

    /// The item, which is an object then.
    pub(super) fn object(self, allowed: &str) -> Result<Section<'a>, ConfigError> {
        match self.value {
            Value::Object(object) => Ok(Section { path: self.path, object: Some(object), known: Vec::new() }),
            other => Err(wrong_value(&self.path, Some(other), allowed)),
        }
    }
}

fn wrong_value(path: &str, value: Option<&Value>, allowed: &str) -> ConfigError {
    let is = match value {
        None => "the default is out of range".to_owned(),
        // What is in an array or an object stays unsaid: nobody knows what was put there by mistake.
        Some(value @ (Value::Array(_) | Value::Object(_))) => format!("is {}", kind(value)),
        Some(scalar) => format!("is `{}`", clip(&scalar.to_string())),
    };
    ConfigError::new(format!("configuration: `{path}`: {is}, allowed is {allowed}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A whole number, which a double can be too.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        // 2^53: above it a double cannot tell one whole number from the next.
        let exact = number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number);
        exact.then_some(number as u64)
    })
}

fn quoted<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut text = String::from("one of");
    for (index, name) in names.enumerate() {
        let _ = write!(text, "{} \"{name}\"", if index == 0 { "" } else { "," });
    }
    text
}

/// A key as it is quoted in an error. One that does not look like a key may be anything, a pasted token too.
pub(super) fn shown_key(key: &str) -> String {
    let is_plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-[]".contains(&byte));
    if is_plain && key.len() <= 128 { format!("`{key}`") } else { "a key (not shown)".to_owned() }
}

/// Cuts what is quoted in an error, so that one line stays one line.
pub(super) fn clip(text: &str) -> String {
    let shown: String = text.chars().filter(|char| !char.is_control()).take(64).collect();
    if shown.len() < text.len() { format!("{shown}…") } else { shown }
}
