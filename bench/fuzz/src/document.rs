//! The service-connect document and the static file: every error names its field, and what is accepted is accepted again.

use outrigger_proxy::config::{ConfigErrors, static_file};
use outrigger_proxy::mesh::document;
use serde_json::Value;

/// The same text as either.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match document::parse(text) {
        Ok(read) => {
            let value: Value = serde_json::from_str(text).expect("it was read as JSON");
            assert_eq!(
                document::parse(&value.to_string()),
                Ok(read),
                "written in another order"
            );
        }
        Err(errors) => named(&errors),
    }
    match static_file::parse(text) {
        Ok(read) => {
            let value: toml::Table = toml::from_str(text).expect("it was read as TOML");
            let again = toml::to_string(&value).expect("a table can be written");
            assert_eq!(
                static_file::parse(&again),
                Ok(read),
                "written in another way"
            );
        }
        Err(errors) => named(&errors),
    }
}

fn named(errors: &ConfigErrors) {
    assert!(!errors.0.is_empty(), "refused for no reason");
    for error in &errors.0 {
        assert!(
            !error.field.is_empty() && !error.reason.is_empty(),
            "{error:?}"
        );
    }
}
