//! The `hop` tables of the static file: the same that the control server pushes (`proxy/HOP.md`), for benches and bug reports.

use outrigger_xds::hop::{Identity, Token, Tokens, target};
use outrigger_xds::model::ServiceRef;

use super::ConfigError;
use crate::config::fields::Fields;

/// `hop = { namespace, service, instance, request, verdict }`.
pub(super) struct Hop {
    pub(super) service: ServiceRef,
    pub(super) instance: String,
    pub(super) tokens: Tokens,
}

impl Hop {
    /// The table of an endpoint or a listener; `None` where there is none, or a wrong one.
    pub(super) fn read(fields: &mut Fields, errors: &mut Vec<ConfigError>) -> Option<Self> {
        let mut table = fields.object("hop", errors)?;
        let namespace = name(&mut table, "namespace", errors);
        let service = name(&mut table, "service", errors);
        let instance = name(&mut table, "instance", errors);
        let request = token(&mut table, "request", errors);
        let verdict = token(&mut table, "verdict", errors);
        table.finish(errors);
        Some(Self {
            service: ServiceRef {
                namespace: namespace?,
                name: service?,
            },
            instance: instance?,
            tokens: Tokens {
                request: request?,
                verdict: verdict?,
            },
        })
    }

    /// For the listener of which it is.
    pub(super) fn identity(&self) -> Identity {
        let ServiceRef { namespace, name } = &self.service;
        Identity {
            targets: vec![target(namespace, name, &self.instance)],
            tokens: self.tokens,
        }
    }
}

/// What the endpoints' tables say of the service behind the cluster; it is one.
pub(super) fn service<'a>(
    mut hops: impl Iterator<Item = &'a Hop>,
    field: &str,
    errors: &mut Vec<ConfigError>,
) -> Option<ServiceRef> {
    let first = hops.next()?.service.clone();
    if let Some(other) = hops.find(|hop| hop.service != first) {
        let ServiceRef { namespace, name } = &other.service;
        let reason = format!(
            "is not the service of the cluster's first hop, {}/{}",
            first.namespace, first.name
        );
        errors.push(ConfigError::new(
            field,
            format!("{namespace}/{name}"),
            reason,
        ));
    }
    Some(first)
}

/// A part of a target; it stands in a line of HTTP.
fn name(fields: &mut Fields, field: &str, errors: &mut Vec<ConfigError>) -> Option<String> {
    let text = fields.required_text(field, errors);
    if text.is_empty() {
        return None;
    }
    let fits = text.len() <= 256
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if !fits {
        let reason = "must be 1 to 256 characters without spaces or slashes";
        errors.push(ConfigError::new(fields.at(field), &text, reason));
    }
    fits.then_some(text)
}

fn token(fields: &mut Fields, field: &str, errors: &mut Vec<ConfigError>) -> Option<Token> {
    let text = fields.required_text(field, errors);
    if text.is_empty() {
        return None;
    }
    let read = text.parse::<Token>();
    // Said without the value: a token with one letter wrong is a secret still.
    read.map_err(|reason| errors.push(ConfigError::new(fields.at(field), "(hidden)", reason)))
        .ok()
}
