//! Reads a scenario's TOML table by table and collects every error, where serde would stop at the first.

use std::time::Duration;

use outrigger_proxy::config::ConfigError;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// One table: fields are taken out of it, what is left over is unknown.
pub(super) struct Section {
    path: String,
    table: Table,
}

impl Section {
    pub(super) fn new(path: impl Into<String>, table: Table) -> Self {
        Self {
            path: path.into(),
            table,
        }
    }

    /// The full path of a field, as errors name it.
    pub(super) fn at(&self, field: &str) -> String {
        if self.path.is_empty() {
            field.to_owned()
        } else {
            format!("{}.{field}", self.path)
        }
    }

    /// Notes what is wrong with a field that may have been taken already.
    pub(super) fn wrong(
        &self,
        field: &str,
        value: impl ToString,
        reason: impl Into<String>,
        errors: &mut Vec<ConfigError>,
    ) {
        errors.push(ConfigError::new(self.at(field), value.to_string(), reason));
    }

    pub(super) fn take<T: DeserializeOwned>(
        &mut self,
        field: &str,
        errors: &mut Vec<ConfigError>,
    ) -> Option<T> {
        let value = self.table.remove(field)?;
        let shown = shown(&value);
        let taken = value.try_into();
        taken
            .map_err(|error| self.wrong(field, shown, reason(&error), errors))
            .ok()
    }

    /// Takes a field that must be there.
    pub(super) fn required<T: DeserializeOwned>(
        &mut self,
        field: &str,
        errors: &mut Vec<ConfigError>,
    ) -> Option<T> {
        if !self.table.contains_key(field) {
            self.wrong(field, "", "is required", errors);
        }
        self.take(field, errors)
    }

    /// Takes a duration written like `15s`.
    pub(super) fn duration(
        &mut self,
        field: &str,
        errors: &mut Vec<ConfigError>,
    ) -> Option<Duration> {
        let text: String = self.take(field, errors)?;
        let parsed = humantime::parse_duration(&text);
        parsed
            .map_err(|error| {
                let reason = format!("must be a duration like \"15s\" or \"250ms\": {error}");
                self.wrong(field, &text, reason, errors);
            })
            .ok()
    }

    /// Takes the named table; absent is an empty one.
    pub(super) fn section(&mut self, field: &str, errors: &mut Vec<ConfigError>) -> Self {
        let table = self.take(field, errors).unwrap_or_default();
        Self::new(self.at(field), table)
    }

    /// Takes a list of tables; absent is empty.
    pub(super) fn sections(&mut self, field: &str, errors: &mut Vec<ConfigError>) -> Vec<Self> {
        let tables: Vec<Table> = self.take(field, errors).unwrap_or_default();
        let path = self.at(field);
        let each = |(index, table)| Self::new(format!("{path}[{index}]"), table);
        tables.into_iter().enumerate().map(each).collect()
    }

    /// All that nobody has taken, as JSON.
    pub(super) fn rest(&mut self) -> serde_json::Value {
        let rest = std::mem::take(&mut self.table);
        serde_json::to_value(rest).expect("TOML's tables, lists, texts and numbers are JSON's")
    }

    /// Reports every field that nobody took.
    pub(super) fn finish(self, errors: &mut Vec<ConfigError>) {
        for (field, value) in &self.table {
            self.wrong(field, shown(value), "unknown field", errors);
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// serde's reason on one line; where it was is said by the path.
fn reason(error: &toml::de::Error) -> String {
    error.message().replace('\n', " ")
}
