//! Reads a parsed document field by field and collects every error, where serde would stop at the first.

use std::time::Duration;

use outrigger_xds::model::PolicyError;
use serde_json::{Map, Value};

use super::ConfigError;

/// One object of a document: fields are taken out of it, what is left over is unknown.
pub(crate) struct Fields {
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    /// `value` as an object at `path`; anything else is an error and reads as an empty object.
    pub(crate) fn new(path: &str, value: Value, errors: &mut Vec<ConfigError>) -> Self {
        let map = match value {
            Value::Object(map) => map,
            other => {
                errors.push(ConfigError::new(
                    path,
                    shown(&other),
                    "must be an object (a table)",
                ));
                Map::new()
            }
        };
        Self {
            path: path.to_owned(),
            map,
        }
    }

    /// Takes several fields, as an object of those that are there.
    pub(crate) fn take(&mut self, fields: &[&str]) -> Value {
        let taken = fields
            .iter()
            .filter_map(|field| Some(((*field).to_owned(), self.any(field)?)));
        Value::Object(taken.collect())
    }

    /// Where the object stands in the document.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The full path of a field, as errors name it.
    pub(crate) fn at(&self, field: &str) -> String {
        // JSON and TOML allow a name without letters; a reader of the error could not tell which it is.
        let field = if field.is_empty() { "\"\"" } else { field };
        if self.path.is_empty() {
            field.to_owned()
        } else {
            format!("{}.{field}", self.path)
        }
    }

    /// Whether the field is there and not taken yet; null counts as absent.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(|value| !value.is_null())
    }

    /// Takes a field of any type; null counts as absent.
    pub(crate) fn any(&mut self, field: &str) -> Option<Value> {
        self.map.remove(field).filter(|value| !value.is_null())
    }

    /// Takes a text field.
    pub(crate) fn text(&mut self, field: &str, errors: &mut Vec<ConfigError>) -> Option<String> {
        match self.any(field)? {
            Value::String(text) => Some(text),
            other => {
                errors.push(ConfigError::new(
                    self.at(field),
                    shown(&other),
                    "must be a text",
                ));
                None
            }
        }
    }

    /// Takes a text field that must be there.
    pub(crate) fn required_text(&mut self, field: &str, errors: &mut Vec<ConfigError>) -> String {
        if self.map.get(field).is_none_or(Value::is_null) {
            errors.push(ConfigError::new(self.at(field), "", "is required"));
        }
        self.text(field, errors).unwrap_or_default()
    }

    /// Takes a text field and parses it.
    pub(crate) fn parsed<T>(
        &mut self,
        field: &str,
        errors: &mut Vec<ConfigError>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(field, errors)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(reason) => {
                errors.push(ConfigError::new(self.at(field), text, reason));
                None
            }
        }
    }

    /// Takes a duration written like `15s`, `1m 30s`, `0s`.
    pub(crate) fn duration(
        &mut self,
        field: &str,
        errors: &mut Vec<ConfigError>,
    ) -> Option<Duration> {
        self.parsed(field, errors, parse_duration)
    }

    /// Takes a whole number within bounds.
    pub(crate) fn number(
        &mut self,
        field: &str,
        bounds: std::ops::RangeInclusive<u64>,
        errors: &mut Vec<ConfigError>,
    ) -> Option<u64> {
        let value = self.any(field)?;
        let number = value.as_u64().filter(|number| bounds.contains(number));
        if number.is_none() {
            let reason = format!(
                "must be a whole number from {} to {}",
                bounds.start(),
                bounds.end()
            );
            errors.push(ConfigError::new(self.at(field), shown(&value), reason));
        }
        number
    }

    /// Takes a TCP port (1–65535).
    pub(crate) fn port(&mut self, field: &str, errors: &mut Vec<ConfigError>) -> Option<u16> {
        self.number(field, 1..=65535, errors)
            .and_then(|port| u16::try_from(port).ok())
    }

    /// Takes a number of 32 bits, at least `least`.
    pub(crate) fn count(
        &mut self,
        field: &str,
        least: u32,
        errors: &mut Vec<ConfigError>,
    ) -> Option<u32> {
        let bounds = u64::from(least)..=u64::from(u32::MAX);
        self.number(field, bounds, errors)
            .and_then(|number| u32::try_from(number).ok())
    }

    /// Takes a boolean.
    pub(crate) fn boolean(&mut self, field: &str, errors: &mut Vec<ConfigError>) -> Option<bool> {
        match self.any(field)? {
            Value::Bool(value) => Some(value),
            other => {
                errors.push(ConfigError::new(
                    self.at(field),
                    shown(&other),
                    "must be true or false",
                ));
                None
            }
        }
    }

    /// Takes a list of objects; absent is empty.
    pub(crate) fn objects(&mut self, field: &str, errors: &mut Vec<ConfigError>) -> Vec<Self> {
        match self.any(field) {
            None => Vec::new(),
            Some(Value::Array(items)) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| {
                    Self::new(&format!("{}[{index}]", self.at(field)), item, errors)
                })
                .collect(),
            Some(other) => {
                errors.push(ConfigError::new(
                    self.at(field),
                    shown(&other),
                    "must be a list",
                ));
                Vec::new()
            }
        }
    }

    /// Takes an object; absent is `None`.
    pub(crate) fn object(&mut self, field: &str, errors: &mut Vec<ConfigError>) -> Option<Self> {
        let value = self.any(field)?;
        Some(Self::new(&self.at(field), value, errors))
    }

    /// Reports every field that nobody took.
    pub(crate) fn finish(self, errors: &mut Vec<ConfigError>) {
        for (field, value) in &self.map {
            errors.push(ConfigError::new(
                self.at(field),
                shown(value),
                "unknown field",
            ));
        }
    }
}

/// A value as errors show it, cut where it gets long.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() > 80 {
        text.chars().take(77).chain("...".chars()).collect()
    } else {
        text
    }
}

/// What is wrong with the settings in the table at `path`; an empty path is the document itself.
pub(crate) fn policy_errors(
    path: &str,
    errors: Vec<PolicyError>,
) -> impl Iterator<Item = ConfigError> {
    let at = move |field: String| match (path, field.as_str()) {
        ("", _) => field,
        (_, "") => path.to_owned(),
        (_, field) => format!("{path}.{field}"),
    };
    errors
        .into_iter()
        .map(move |error| ConfigError::new(at(error.field), error.value, error.reason))
}

/// A duration written like `15s`; a bare number is refused because its unit would be a guess (`0` needs none).
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime_serde::re::humantime::parse_duration(text)
        .map_err(|error| format!("must be a duration like \"15s\" or \"5m\": {error}"))
}
