//! What the text of a flag says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use ipnet::Ipv4Net;

use super::{ConfigError, EgressMode};

/// An empty variable counts as unset: compose files and task definitions cannot leave one out conditionally.
pub(super) fn text(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|value| !value.is_empty())
}

pub(super) fn flag<T>(
    field: &str,
    value: Option<&str>,
    errors: &mut Vec<ConfigError>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let value = text(value)?;
    match parse(value) {
        Ok(parsed) => Some(parsed),
        Err(reason) => {
            errors.push(ConfigError::new(field, value, reason));
            None
        }
    }
}

pub(super) fn auto_or_off(text: &str) -> Result<bool, String> {
    match text {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err("must be auto or off".to_owned()),
    }
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    SocketAddr::from_str(text)
        .map_err(|_| "must be an address with port like 127.0.0.1:9901".to_owned())
}

pub(super) fn ip_address(text: &str) -> Result<IpAddr, String> {
    IpAddr::from_str(text).map_err(|_| "must be an IP address".to_owned())
}

pub(super) fn vip_cidr_default() -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::new(127, 255, 0, 0), 16).expect("16 is a valid prefix length")
}

pub(super) fn vip_cidr(text: &str) -> Result<Ipv4Net, String> {
    let net = Ipv4Net::from_str(text)
        .map_err(|_| "must be a network like 127.255.0.0/16".to_owned())?
        .trunc();
    if !net.network().is_loopback() || net.prefix_len() < 16 || net.prefix_len() > 30 {
        return Err("must be a /16 to /30 inside 127.0.0.0/8, all of which is local".to_owned());
    }
    Ok(net)
}

pub(super) fn egress_mode(text: &str) -> Result<EgressMode, String> {
    match text {
        "bind" => Ok(EgressMode::Bind),
        "capture" => Err("capture is not built yet, use bind".to_owned()),
        _ => Err("must be bind or capture".to_owned()),
    }
}

pub(super) fn workers(text: &str) -> Result<usize, String> {
    text.parse::<usize>()
        .ok()
        .filter(|count| (1..=256).contains(count))
        .ok_or_else(|| "must be a number from 1 to 256".to_owned())
}

pub(super) fn uris(text: &str) -> Result<Vec<http::Uri>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|one| !one.is_empty())
        .map(uri)
        .collect()
}

fn uri(text: &str) -> Result<http::Uri, String> {
    let wrong = || format!("{text:?} must be http://host:port or https://host:port");
    let uri = http::Uri::from_str(text).map_err(|_| wrong())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(format!("{text:?} must be a host and a port without a path"));
    }
    Ok(uri)
}
