//! What a message's fields need on their way from one hop to the next (RFC 9110 section 7.6).

use http::{StatusCode, Version};

use crate::message::fields::{Fields, Known};
use crate::message::head::{RequestHead, ResponseHead};
use crate::message::trailers::FORBIDDEN;

/// Fields that are for one hop alone, or may be (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [Known; 5] = [
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::Te,
    Known::Upgrade,
];

/// Those that a message by HTTP/2 never has (RFC 9113 section 8.2.2).
const NOT_IN_HTTP2: [Known; 4] = [
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::Upgrade,
];

/// Whether the request asks for an upgrade (RFC 9110 section 7.8) that is passed on.
pub(crate) fn wants_upgrade(head: &RequestHead) -> bool {
    head.fields.has(Known::Upgrade)
        && head.version == Version::HTTP_11
        && options(&head.fields, Known::Upgrade).all(may_become)
        && connection_options(&head.fields).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

/// Whether a connection or stream may become that protocol, with or without a version behind a slash. Not HTTP itself, nor TLS
/// with HTTP in it: requests would run through the tunnel unseen (RFC 9113 section 3.1 has made h2c obsolete).
pub(crate) fn may_become(protocol: &[u8]) -> bool {
    let (name, version) = match memchr::memchr(b'/', protocol) {
        Some(slash) => (&protocol[..slash], Some(&protocol[slash + 1..])),
        None => (protocol, None),
    };
    let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
    let drafts = name
        .get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"h2c-"));
    let http = drafts || is(b"h2c") || is(b"h2") || is(b"http") || is(b"tls");
    // Two sidecars become a hop by a hello of their own, and nobody else (`proxy/HOP.md`).
    let hop = is(b"outrigger-hop");
    is_token(name) && version.is_none_or(is_token) && !http && !hop
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    let may = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(may)
}

/// Whether it is a gRPC message.
pub(crate) fn is_grpc(fields: &Fields) -> bool {
    fields
        .value(Known::ContentType)
        .is_some_and(|value| value.starts_with(b"application/grpc"))
}

fn connection_options(fields: &Fields) -> impl Iterator<Item = &[u8]> {
    options(fields, Known::Connection)
}

fn options(fields: &Fields, of: Known) -> impl Iterator<Item = &[u8]> {
    fields
        .values(of)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// Names of fields that a message's `Connection` keeps from passing, in its trailers as well.
#[derive(Debug, Default)]
pub(crate) struct Named(Vec<Vec<u8>>);

impl Named {
    fn has(&self, name: &[u8]) -> bool {
        self.0.iter().any(|one| one.eq_ignore_ascii_case(name))
    }

    /// Takes out of trailers what does not pass, or must not be among them (RFC 9110 section 6.5.1).
    pub(crate) fn strip(&self, trailers: &mut Fields) {
        if !self.0.is_empty() || trailers.has_any(&FORBIDDEN) {
            trailers.remove(|known, name| FORBIDDEN.contains(&known) || self.has(name));
        }
    }
}

/// Takes out what is meant for this hop alone (RFC 9110 section 7.6.1). An upgrade keeps its two fields.
pub(crate) fn strip_hop_by_hop(fields: &mut Fields, upgrade: bool) -> Named {
    if !fields.has_any(&HOP_BY_HOP) {
        return Named::default();
    }
    let trailers = fields
        .values(Known::Te)
        .any(|value| value.eq_ignore_ascii_case(b"trailers"));
    if trailers && !fields.has_any(&NOT_IN_HTTP2) && fields.values(Known::Te).count() == 1 {
        // Every gRPC request says just this.
        return Named::default();
    }
    let named = connection_options(fields).filter(|option| !is_plain(option));
    let named = Named(named.map(<[u8]>::to_vec).collect());
    fields.remove(|known, name| match known {
        Known::Connection | Known::KeepAlive | Known::ProxyConnection => true,
        Known::Te => !trailers,
        Known::Upgrade => !upgrade,
        // A message keeps what says where it goes and where it ends, whatever `Connection` names.
        Known::Host | Known::ContentLength | Known::TransferEncoding => false,
        _ => named.has(name),
    });
    if trailers {
        fields.set(Known::Te, "te", b"trailers");
    }
    if upgrade && fields.has(Known::Upgrade) {
        fields.push("connection", b"upgrade");
    }
    named
}

/// Takes out what a message that cannot have a body says of one (RFC 9110 section 8.6, RFC 9112 section 6.1).
pub(crate) fn strip_framing(head: &mut ResponseHead, upgraded: bool) {
    if upgraded || head.status.is_informational() || head.status == StatusCode::NO_CONTENT {
        head.fields.remove_known(Known::ContentLength);
        head.fields.remove_known(Known::TransferEncoding);
    }
}

/// Says by `Connection` that TE is for this hop, which HTTP/1.1 wants (RFC 9110 section 10.1.4).
pub(crate) fn mark_te(fields: &mut Fields) {
    if fields.has(Known::Te) {
        let upgrade = fields.has(Known::Upgrade);
        let options: &[u8] = if upgrade { b"upgrade, te" } else { b"te" };
        fields.set(Known::Connection, "connection", options);
    }
}

/// Options that name no field.
fn is_plain(option: &[u8]) -> bool {
    option.is_empty()
        || option.eq_ignore_ascii_case(b"keep-alive")
        || option.eq_ignore_ascii_case(b"close")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::fields::tests::fields;

    fn names(fields: &Fields) -> Vec<&str> {
        let text = |name| std::str::from_utf8(name).unwrap();
        fields.iter().map(|(_, name, _)| text(name)).collect()
    }

    #[test]
    fn what_connection_names_does_not_pass() {
        let mut given = fields(&[
            ("X-Kept", "1"),
            ("connection", "close"),
            ("connection", "keep-alive, X-Secret, Host, Content-Length"),
            ("Host", "orders"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("Content-Length", "3"),
        ]);
        strip_hop_by_hop(&mut given, false);
        assert_eq!(names(&given), ["X-Kept", "Host", "te", "Content-Length"]);
    }

    #[test]
    fn a_connection_does_not_become_http_unseen() {
        for protocol in ["websocket", "WebSocket/13", "irc/6.9", "x-own"] {
            assert!(may_become(protocol.as_bytes()), "{protocol}");
        }
        for protocol in [
            "h2c",
            "H2C",
            "h2c/1",
            "h2c-14",
            "h2",
            "HTTP/2.0",
            "TLS/1.0",
            "h2c;q=1",
            "\"h2c\"",
            "h2c foo",
            "",
            "a/",
            "/a",
            "a/b/c",
            "outrigger-hop/1",
        ] {
            assert!(!may_become(protocol.as_bytes()), "{protocol}");
        }
    }

    #[test]
    fn what_connection_names_does_not_pass_in_trailers_either() {
        let mut head = fields(&[("Connection", "X-Secret")]);
        let named = strip_hop_by_hop(&mut head, false);
        let mut trailers = fields(&[
            ("x-secret", "1"),
            ("Content-Length", "3"),
            ("X-Sum", "7"),
            ("trailer", "x"),
        ]);
        named.strip(&mut trailers);
        assert_eq!(names(&trailers), ["X-Sum"]);
    }

    #[test]
    fn an_upgrade_keeps_its_two_headers() {
        let mut given = fields(&[("Connection", "Upgrade"), ("Upgrade", "websocket")]);
        strip_hop_by_hop(&mut given, true);
        assert_eq!(names(&given), ["Upgrade", "connection"]);
        assert_eq!(given.value(Known::Connection), Some(&b"upgrade"[..]));
    }

    #[test]
    fn what_has_nothing_for_one_hop_is_left_alone() {
        let mut given = fields(&[("Host", "orders"), ("host-id", "1")]);
        strip_hop_by_hop(&mut given, false);
        assert_eq!(names(&given), ["Host", "host-id"]);
    }
}
