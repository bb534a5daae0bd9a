//! The filters of the List operations.

use super::input::Input;
use crate::registry::{Error, id_of, invalid};

/// One condition; all of a list must hold.
pub(super) struct Filter {
    pub(super) name: &'static str,
    condition: &'static str,
    values: Vec<String>,
}

impl Filter {
    /// Reads `Filters`; `allowed` are the names that this operation documents.
    pub(super) fn read(input: &Input, allowed: &[&'static str]) -> Result<Vec<Self>, Error> {
        input
            .objects("Filters")?
            .iter()
            .map(|filter| Self::one(filter, allowed))
            .collect()
    }

    fn one(filter: &Input, allowed: &[&'static str]) -> Result<Self, Error> {
        let name = filter
            .one_of("Name", allowed)?
            .ok_or_else(|| invalid(filter.field("Name"), "is required"))?;
        let condition = filter
            .one_of("Condition", &["EQ", "IN", "BETWEEN", "BEGINS_WITH"])?
            .unwrap_or("EQ");
        let values = filter.texts("Values", 255)?;
        let fits = match condition {
            "IN" => !values.is_empty(),
            "BETWEEN" => {
                values.len() == 2
                    && name == "UPDATE_DATE"
                    && values.iter().all(|value| value.parse::<f64>().is_ok())
            }
            "BEGINS_WITH" => values.len() == 1 && ["NAME", "HTTP_NAME"].contains(&name),
            _ => values.len() == 1,
        };
        if !fits {
            return Err(invalid(
                filter.field("Values"),
                format!("{values:?} do not fit {name} {condition}"),
            ));
        }
        Ok(Self {
            name,
            condition,
            values,
        })
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match self.condition {
            "BEGINS_WITH" => self
                .values
                .iter()
                .any(|value| text.starts_with(value.as_str())),
            _ => self.values.iter().any(|value| value == text),
        }
    }

    /// For ids, which may be given as ARNs.
    pub(super) fn matches_id(&self, id: &str) -> bool {
        self.values.iter().any(|value| id_of(value) == id)
    }

    /// For dates: seconds since the epoch.
    pub(super) fn matches_time(&self, seconds: f64) -> bool {
        let numbers: Vec<f64> = self
            .values
            .iter()
            .filter_map(|value| value.parse().ok())
            .collect();
        match numbers.as_slice() {
            [from, to] if self.condition == "BETWEEN" => (*from..=*to).contains(&seconds),
            numbers => numbers.contains(&seconds),
        }
    }

    /// RESOURCE_OWNER: there is one account, so everything is our own.
    pub(super) fn matches_owner(&self) -> bool {
        self.matches("SELF") || self.matches(super::ACCOUNT)
    }
}
