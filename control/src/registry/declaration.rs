//! What a service declares of itself in its `OUTRIGGER_` attributes.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_xds::identity::SpiffeId;
use outrigger_xds::model::{LbPolicy, MAX_RETRIES, PolicyError, Protocol, ServicePolicy};

use super::{Error, Service, invalid};

pub(super) const PREFIX: &str = "OUTRIGGER_";
pub(super) const REVISION: &str = "OUTRIGGER_REVISION";
pub(super) const ALIAS: &str = "OUTRIGGER_ALIAS";
const APP_PROTOCOL: &str = "OUTRIGGER_APP_PROTOCOL";
const PER_REQUEST_TIMEOUT: &str = "OUTRIGGER_PER_REQUEST_TIMEOUT";
const IDLE_TIMEOUT: &str = "OUTRIGGER_IDLE_TIMEOUT";
const LB: &str = "OUTRIGGER_LB";
const RETRIES: &str = "OUTRIGGER_RETRIES";
const POLICY: &str = "OUTRIGGER_POLICY";
const IDENTITY: &str = "OUTRIGGER_IDENTITY";

/// The longest timeout a declaration may ask for (ECS: 2147483647 seconds).
const MAX_TIMEOUT_SECONDS: u64 = i32::MAX as u64;
const MAX_DNS_NAME: usize = 127;

/// A service's checked declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Declaration<'a> {
    alias: Option<(&'a str, &'a str, u16)>,
    pub(crate) protocol: Protocol,
    pub(crate) per_request_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) policy: ServicePolicy,
    /// What its tasks may prove to be.
    pub(crate) identities: Vec<SpiffeId>,
    /// Otherwise all of this is defaults.
    pub(crate) is_read: bool,
}

impl<'a> Declaration<'a> {
    /// "dnsName:port".
    pub(crate) fn alias(&self) -> Option<&'a str> {
        self.alias.map(|(alias, _, _)| alias)
    }

    pub(crate) fn dns_name(&self) -> Option<&'a str> {
        self.alias.map(|(_, name, _)| name)
    }

    pub(crate) fn port(&self) -> Option<u16> {
        self.alias.map(|(_, _, port)| port)
    }
}

/// The declaration of a service in the registry, whose attributes were checked when they were written.
pub(crate) fn declaration(service: &Service) -> Declaration<'_> {
    read(&service.attributes).unwrap_or(Declaration {
        alias: None,
        protocol: Protocol::Tcp,
        per_request_timeout: None,
        idle_timeout: None,
        policy: ServicePolicy::default(),
        identities: Vec::new(),
        is_read: false,
    })
}

/// Refuses attributes that make no declaration.
pub(super) fn check(attributes: &BTreeMap<String, String>) -> Result<(), Error> {
    read(attributes).map(|_| ())
}

fn read(attributes: &BTreeMap<String, String>) -> Result<Declaration<'_>, Error> {
    let get = |key: &str| attributes.get(key).map(String::as_str);
    if get(REVISION) == Some("") {
        return Err(invalid(REVISION, "is empty"));
    }
    let protocol = match get(APP_PROTOCOL) {
        None => Protocol::Tcp,
        Some(text) => match text.parse() {
            Ok(Protocol::Auto) | Err(_) => {
                return Err(invalid(
                    APP_PROTOCOL,
                    format!("{text:?} is not one of http, http2, grpc, tcp"),
                ));
            }
            Ok(protocol) => protocol,
        },
    };
    let per_request_timeout = seconds(PER_REQUEST_TIMEOUT, get(PER_REQUEST_TIMEOUT))?;
    if per_request_timeout.is_some() && !protocol.is_http() {
        return Err(invalid(
            PER_REQUEST_TIMEOUT,
            "cannot be set when the protocol is tcp",
        ));
    }
    Ok(Declaration {
        alias: get(ALIAS).map(alias).transpose()?,
        protocol,
        per_request_timeout,
        idle_timeout: seconds(IDLE_TIMEOUT, get(IDLE_TIMEOUT))?,
        policy: policy(attributes, protocol)?,
        identities: get(IDENTITY).map_or_else(|| Ok(Vec::new()), identities)?,
        is_read: true,
    })
}

/// SPIFFE ids with spaces between them.
fn identities(text: &str) -> Result<Vec<SpiffeId>, Error> {
    let ids: Result<Vec<SpiffeId>, String> = text.split_whitespace().map(str::parse).collect();
    let ids = ids.map_err(|reason| invalid(IDENTITY, reason))?;
    if ids.is_empty() {
        return Err(invalid(IDENTITY, "is empty"));
    }
    Ok(ids)
}

/// `OUTRIGGER_POLICY`, or what the two attributes that are older than it say.
fn policy(
    attributes: &BTreeMap<String, String>,
    protocol: Protocol,
) -> Result<ServicePolicy, Error> {
    let get = |key: &str| attributes.get(key).map(String::as_str);
    let Some(text) = get(POLICY) else {
        let mut policy = ServicePolicy::default();
        policy.lb = get(LB).map(lb).transpose()?.unwrap_or(policy.lb);
        let retries = get(RETRIES).map(retries).transpose()?;
        policy.retry.num_retries = retries.unwrap_or(policy.retry.num_retries);
        return Ok(policy);
    };
    // Which of the two was meant to win is nothing to guess at.
    for (key, setting) in [(LB, "lb"), (RETRIES, "retry.num_retries")] {
        if get(key).is_some() {
            let reason = format!("cannot stand beside {POLICY}: say it there, as {setting}");
            return Err(invalid(key, reason));
        }
    }
    let json = serde_json::from_str(text)
        .map_err(|error| invalid(POLICY, format!("is not JSON: {error}")))?;
    ServicePolicy::from_json(json, protocol).map_err(|errors| {
        let all: Vec<String> = errors.iter().map(PolicyError::to_string).collect();
        invalid(POLICY, all.join("; "))
    })
}

fn lb(text: &str) -> Result<LbPolicy, Error> {
    match text {
        "least_request" => Ok(LbPolicy::LeastRequest),
        "round_robin" => Ok(LbPolicy::RoundRobin),
        "ring_hash" => Ok(LbPolicy::RingHash),
        other => {
            let reason = format!("{other:?} is not one of least_request, round_robin, ring_hash");
            Err(invalid(LB, reason))
        }
    }
}

fn retries(text: &str) -> Result<u32, Error> {
    let number = text.parse().ok().filter(|number| *number <= MAX_RETRIES);
    number.ok_or_else(|| {
        let reason = format!("{text:?} is not a number from 0 to {MAX_RETRIES}");
        invalid(RETRIES, reason)
    })
}

fn seconds(field: &str, text: Option<&str>) -> Result<Option<Duration>, Error> {
    let Some(text) = text else { return Ok(None) };
    match text.parse() {
        Ok(seconds) if seconds <= MAX_TIMEOUT_SECONDS => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(invalid(
            field,
            format!("{text:?} is not a number of whole seconds from 0 to {MAX_TIMEOUT_SECONDS}"),
        )),
    }
}

fn alias(text: &str) -> Result<(&str, &str, u16), Error> {
    let refuse = |reason: &str| invalid(ALIAS, format!("{text:?} {reason}"));
    let (name, port) = text
        .rsplit_once(':')
        .ok_or_else(|| refuse("is not dnsName:port"))?;
    // One spelling per port ("080" would be a second name for the same listener).
    let port = match port.parse::<u16>() {
        Ok(number) if number > 0 && number.to_string() == port => number,
        _ => return Err(refuse("has no port from 1 to 65535 after the last colon")),
    };
    if name.is_empty() || name.len() > MAX_DNS_NAME {
        return Err(refuse("has a dnsName that is not 1 to 127 characters long"));
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte))
    {
        return Err(refuse(
            "has a dnsName with characters other than a-z, 0-9, _, . and -",
        ));
    }
    if name == "localhost" || name.parse::<std::net::IpAddr>().is_ok() {
        return Err(refuse("has a dnsName that cannot be given to a service"));
    }
    Ok((text, name, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_one_or_more_ids_and_nothing_else() {
        let read = |text: &str| {
            let attributes = BTreeMap::from([(IDENTITY.to_owned(), text.to_owned())]);
            read(&attributes).map(|declared| declared.identities)
        };
        let ids = read("spiffe://a/ns/shop/svc/orders spiffe://b/orders").expect("two ids");
        let shown: Vec<&str> = ids.iter().map(SpiffeId::as_str).collect();
        assert_eq!(
            shown,
            ["spiffe://a/ns/shop/svc/orders", "spiffe://b/orders"]
        );
        for wrong in [
            "",
            " ",
            "orders",
            "spiffe://A/x",
            "spiffe://a/x,spiffe://b/x",
        ] {
            let Err(Error::InvalidInput { field, .. }) = read(wrong) else {
                panic!("{wrong:?} is taken")
            };
            assert_eq!(field, IDENTITY, "{wrong}");
        }
    }
}
