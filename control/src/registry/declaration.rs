//! What a service declares of itself in its `OUTRIGGER_` attributes.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_xds::model::{LbPolicy, Protocol};

use super::{Error, Service, invalid};

pub(super) const PREFIX: &str = "OUTRIGGER_";
pub(super) const REVISION: &str = "OUTRIGGER_REVISION";
pub(super) const ALIAS: &str = "OUTRIGGER_ALIAS";
const APP_PROTOCOL: &str = "OUTRIGGER_APP_PROTOCOL";
const PER_REQUEST_TIMEOUT: &str = "OUTRIGGER_PER_REQUEST_TIMEOUT";
const IDLE_TIMEOUT: &str = "OUTRIGGER_IDLE_TIMEOUT";
const LB: &str = "OUTRIGGER_LB";
const RETRIES: &str = "OUTRIGGER_RETRIES";

/// The longest timeout a declaration may ask for (ECS: 2147483647 seconds).
const MAX_TIMEOUT_SECONDS: u64 = i32::MAX as u64;
const MAX_RETRIES: u32 = 10;
const MAX_DNS_NAME: usize = 127;

/// A service's checked declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Declaration<'a> {
    alias: Option<(&'a str, &'a str, u16)>,
    pub(crate) protocol: Protocol,
    pub(crate) per_request_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) lb: LbPolicy,
    pub(crate) retries: Option<u32>,
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
        lb: LbPolicy::default(),
        retries: None,
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
    let lb = match get(LB) {
        None | Some("least_request") => LbPolicy::LeastRequest,
        Some("round_robin") => LbPolicy::RoundRobin,
        Some("ring_hash") => LbPolicy::RingHash,
        Some(other) => {
            return Err(invalid(
                LB,
                format!("{other:?} is not one of least_request, round_robin, ring_hash"),
            ));
        }
    };
    let retries = match get(RETRIES) {
        None => None,
        Some(text) => match text.parse() {
            Ok(number) if number <= MAX_RETRIES => Some(number),
            _ => {
                return Err(invalid(
                    RETRIES,
                    format!("{text:?} is not a number from 0 to {MAX_RETRIES}"),
                ));
            }
        },
    };
    Ok(Declaration {
        alias: get(ALIAS).map(alias).transpose()?,
        protocol,
        per_request_timeout,
        idle_timeout: seconds(IDLE_TIMEOUT, get(IDLE_TIMEOUT))?,
        lb,
        retries,
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
