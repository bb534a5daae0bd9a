//! The members of a request, taken by name and checked; every refusal names the member.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::invalid;
use crate::registry::{Error, Tag};

const MAX_ID: usize = 255;
const MAX_TAGS: usize = 50;
const MAX_KEY: usize = 255;
const MAX_VALUE: usize = 1024;

/// A JSON object and where it stands in the request.
pub(super) struct Input {
    members: Map<String, Value>,
    path: String,
}

impl Input {
    pub(super) fn new(members: Map<String, Value>) -> Self {
        Self {
            members,
            path: String::new(),
        }
    }

    pub(super) fn field(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    fn refuse(&self, name: &str, reason: impl Into<String>) -> Error {
        invalid(self.field(name), reason)
    }

    /// JSON null is the same as absent.
    fn member(&self, name: &str) -> Option<&Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.member(name).is_some()
    }

    pub(super) fn text(&self, name: &str, max: usize) -> Result<Option<&str>, Error> {
        match self.member(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.chars().count() <= max => Ok(Some(text)),
            Some(Value::String(_)) => {
                Err(self.refuse(name, format!("is longer than {max} characters")))
            }
            Some(_) => Err(self.refuse(name, "is not a string")),
        }
    }

    pub(super) fn owned(&self, name: &str, max: usize) -> Result<Option<String>, Error> {
        Ok(self.text(name, max)?.map(str::to_owned))
    }

    pub(super) fn required(&self, name: &str, max: usize) -> Result<&str, Error> {
        match self.text(name, max)? {
            None => Err(self.refuse(name, "is required")),
            Some("") => Err(self.refuse(name, "is empty")),
            Some(text) => Ok(text),
        }
    }

    /// A required id or ARN.
    pub(super) fn id(&self, name: &str) -> Result<&str, Error> {
        self.required(name, MAX_ID)
    }

    pub(super) fn one_of<'a>(
        &self,
        name: &str,
        choices: &[&'a str],
    ) -> Result<Option<&'a str>, Error> {
        let Some(text) = self.text(name, usize::MAX)? else {
            return Ok(None);
        };
        let chosen = choices.iter().find(|choice| **choice == text);
        chosen.map(|choice| Some(*choice)).ok_or_else(|| {
            self.refuse(
                name,
                format!("{text:?} is not one of {}", choices.join(", ")),
            )
        })
    }

    pub(super) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Error> {
        let Some(value) = self.member(name) else {
            return Ok(None);
        };
        let refuse = || {
            self.refuse(
                name,
                format!("{value} is not a whole number from {min} to {max}"),
            )
        };
        value
            .as_u64()
            .filter(|number| (min..=max).contains(number))
            .map(Some)
            .ok_or_else(refuse)
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<Input>, Error> {
        match self.member(name) {
            None => Ok(None),
            Some(Value::Object(members)) => Ok(Some(Input {
                members: members.clone(),
                path: format!("{}.", self.field(name)),
            })),
            Some(_) => Err(self.refuse(name, "is not an object")),
        }
    }

    fn array(&self, name: &str) -> Result<&[Value], Error> {
        match self.member(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.refuse(name, "is not a list")),
        }
    }

    pub(super) fn objects(&self, name: &str) -> Result<Vec<Input>, Error> {
        let item = |(at, value): (usize, &Value)| match value {
            Value::Object(members) => Ok(Input {
                members: members.clone(),
                path: format!("{}[{at}].", self.field(name)),
            }),
            _ => Err(self.refuse(&format!("{name}[{at}]"), "is not an object")),
        };
        self.array(name)?.iter().enumerate().map(item).collect()
    }

    pub(super) fn texts(&self, name: &str, max: usize) -> Result<Vec<String>, Error> {
        let item = |(at, value): (usize, &Value)| match value {
            Value::String(text) if (1..=max).contains(&text.chars().count()) => Ok(text.clone()),
            _ => Err(self.refuse(
                &format!("{name}[{at}]"),
                format!("is not a string of 1 to {max} characters"),
            )),
        };
        self.array(name)?.iter().enumerate().map(item).collect()
    }

    /// A map of attributes; absent is empty.
    pub(super) fn attributes(&self, name: &str) -> Result<BTreeMap<String, String>, Error> {
        let members = match self.member(name) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(members)) => members,
            Some(_) => return Err(self.refuse(name, "is not an object")),
        };
        let attribute = |(key, value): (&String, &Value)| {
            let field = format!("{name}.{key}");
            if key.is_empty()
                || key.len() > MAX_KEY
                || !key.bytes().all(|byte| byte.is_ascii_graphic())
            {
                return Err(self.refuse(
                    &field,
                    format!(
                        "the key is not 1 to {MAX_KEY} printable ASCII characters without spaces"
                    ),
                ));
            }
            let Value::String(text) = value else {
                return Err(self.refuse(&field, "is not a string"));
            };
            if text.len() > MAX_VALUE {
                return Err(self.refuse(&field, format!("is longer than {MAX_VALUE} characters")));
            }
            if text.starts_with([' ', '\t'])
                || !text
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() || b" \t".contains(&byte))
            {
                return Err(self.refuse(
                    &field,
                    "has characters other than printable ASCII, or begins with a space",
                ));
            }
            Ok((key.clone(), text.clone()))
        };
        members.iter().map(attribute).collect()
    }

    pub(super) fn tags(&self) -> Result<Vec<Tag>, Error> {
        let tags = self.objects("Tags")?;
        if tags.len() > MAX_TAGS {
            return Err(Error::TooManyTags {
                count: tags.len(),
                limit: MAX_TAGS,
            });
        }
        let tag = |tag: Input| {
            let value = tag
                .owned("Value", 256)?
                .ok_or_else(|| tag.refuse("Value", "is required"))?;
            Ok(Tag {
                key: tag.required("Key", 128)?.to_owned(),
                value,
            })
        };
        tags.into_iter().map(tag).collect()
    }

    pub(super) fn creator_request_id(&self) -> Result<Option<String>, Error> {
        self.owned("CreatorRequestId", 64)
    }

    pub(super) fn description(&self) -> Result<Option<String>, Error> {
        self.owned("Description", 1024)
    }

    /// An instance id as it may be registered.
    pub(super) fn instance_id(&self) -> Result<&str, Error> {
        let id = self.required("InstanceId", 64)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_/:.@-".contains(&byte);
        if !id.bytes().all(allowed) {
            return Err(self.refuse(
                "InstanceId",
                format!("{id:?} has characters other than a-z, A-Z, 0-9 and _/:.@-"),
            ));
        }
        Ok(id)
    }

    /// A namespace name (an HTTP namespace's, or as DiscoverInstances takes it).
    pub(super) fn namespace_name(&self, field: &str) -> Result<&str, Error> {
        let name = self.required(field, 1024)?;
        if name.starts_with("arn:") || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(self.refuse(
                field,
                format!("{name:?} is not 1 to 1024 printable ASCII characters without spaces"),
            ));
        }
        Ok(name)
    }

    /// A service name: dot-separated labels of letters, digits, hyphens and underscores.
    pub(super) fn service_name(&self, field: &str) -> Result<&str, Error> {
        let name = self.required(field, 127)?;
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let outer = |label: &str| match label.as_bytes() {
            [only] => only.is_ascii_alphanumeric(),
            [first, .., last] => [first, last]
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || **byte == b'_'),
            [] => false,
        };
        if !name
            .split('.')
            .all(|label| label.len() <= 63 && label.bytes().all(inner) && outer(label))
        {
            return Err(self.refuse(field, format!("{name:?} is not a service name: labels of letters, digits, - and _, joined by dots")));
        }
        Ok(name)
    }
}
