//! Whom a request is for: the forms of a target, and Host (RFC 9112 section 3.2).

use http::{Method, Version};

use super::head::Refused;
use crate::message::authority;
use crate::message::fields::{Fields, Known, Span};

/// RFC 9112 section 3.2: one Host, and a valid one; HTTP/1.0 may lack it. An empty one is valid.
pub(super) fn check_host(fields: &Fields, version: Version) -> Result<(), Refused> {
    let mut hosts = fields.values(Known::Host);
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_10 => Ok(()),
        (Some(host), None) if host.is_empty() || authority::is_authority(host) => Ok(()),
        (Some(_), None) => Err(Refused::Bad("the Host field is not a host")),
        _ => Err(Refused::Bad("there must be exactly one Host field")),
    }
}

/// The other forms of a target (RFC 9112 section 3.2): absolute, `*`, and CONNECT's authority. Returns authority and path.
pub(super) fn other_form(
    fields: &mut Fields,
    whole: Span,
    method: &Method,
) -> Result<(Span, Span), Refused> {
    let malformed = Refused::Bad("the request target is malformed");
    let target = fields.bytes(whole);
    if *method == Method::CONNECT {
        return if authority::has_port(target) {
            Ok((whole, whole))
        } else {
            Err(malformed)
        };
    }
    if target == b"*" && *method == Method::OPTIONS {
        return Ok((Span::EMPTY, whole));
    }
    let is_scheme = |scheme: &&[u8]| {
        let start = target.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let schemes = [&b"http://"[..], b"https://"];
    let scheme = schemes.into_iter().find(is_scheme).ok_or(malformed)?.len();
    let rest = &target[scheme..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
    let (host, path) = rest.split_at(end.unwrap_or(rest.len()));
    if memchr::memchr(b'@', host).is_some() {
        return Err(Refused::Bad("user information in the request target"));
    }
    if !authority::is_authority(host) {
        return Err(malformed);
    }
    let start = whole.start as usize + scheme;
    let authority = Span::new(start, host.len());
    let path = match path.first() {
        Some(b'/') => Span::new(start + host.len(), path.len()),
        // A path that is empty is `/` (RFC 9110 section 4.2.3), with OPTIONS `*` (RFC 9112 section 3.2.4).
        Some(_) => {
            let path = [b"/", path].concat();
            fields.store(&path)
        }
        None if *method == Method::OPTIONS => fields.store(b"*"),
        None => Span::new(start - 1, 1),
    };
    Ok((authority, path))
}
