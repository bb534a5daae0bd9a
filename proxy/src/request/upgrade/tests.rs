//! Handshakes from one version's words to the other's, without a connection.

use http::{Request, Version};

use super::*;
use crate::message::fields::Span;
use crate::message::fields::tests::fields;

/// The example of RFC 6455 section 1.3.
const SAMPLE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const SAMPLE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn http1(method: Method, pairs: &[(&str, &str)]) -> RequestHead {
    let mut fields = fields(pairs);
    let target = fields.store(b"/chat");
    RequestHead::new(method, Version::HTTP_11, Span::EMPTY, target, fields)
}

fn http2(protocol: &'static str) -> RequestHead {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = http::Uri::from_static("https://orders/chat");
    request
        .extensions_mut()
        .insert(Protocol::from_static(protocol));
    RequestHead::from_h2(request.into_parts().0)
}

fn answer(status: u16, pairs: &[(&str, &str)]) -> ResponseHead {
    let mut head = ResponseHead::new(StatusCode::from_u16(status).unwrap());
    head.fields = fields(pairs);
    head
}

#[test]
fn the_key_of_the_rfc_is_answered_as_there() {
    assert_eq!(accept(SAMPLE_KEY.as_bytes()), SAMPLE_ACCEPT);
}

#[test]
fn only_a_whole_websocket_handshake_can_become_a_connect() {
    let shake = [
        ("host", "orders"),
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "WebSocket"),
        ("Sec-WebSocket-Key", SAMPLE_KEY),
    ];
    let asked = |head: &RequestHead, whole| Upgrade::asked(head, whole).unwrap();
    let head = http1(Method::GET, &shake);
    let websocket = Upgrade::Field(Some(SAMPLE_ACCEPT.to_owned()));
    assert_eq!(asked(&head, true), websocket);
    assert_eq!(asked(&head, false), Upgrade::Field(None));
    assert_eq!(
        asked(&http1(Method::POST, &shake), true),
        Upgrade::Field(None)
    );
    let keyless = http1(Method::GET, &shake[..3]);
    assert_eq!(asked(&keyless, true), Upgrade::Field(None));
    let no_option = http1(Method::GET, &shake[2..]);
    assert_eq!(asked(&no_option, true), Upgrade::Nothing);
}

#[test]
fn a_plain_connect_is_refused_and_a_protocol_must_be_a_token() {
    let refused = Upgrade::asked(&http1(Method::CONNECT, &[]), true);
    assert_eq!(refused.unwrap_err().kind, Kind::MethodRefused);
    let refused = Upgrade::asked(&http2("a\r\nb: c"), true);
    assert_eq!(refused.unwrap_err().kind, Kind::DownstreamProtocol);
}

#[test]
fn a_connect_becomes_an_upgrade_and_its_101_a_200() {
    let head = http2("websocket");
    let upgrade = Upgrade::asked(&head, true).unwrap();
    assert!(upgrade.translate(&head, true).is_none());
    let shake = upgrade.translate(&head, false).unwrap();
    assert_eq!(shake.head.method, Method::GET);
    assert_eq!(shake.head.fields.value(Known::Upgrade), Some(WEBSOCKET));
    let key = shake.head.fields.named(KEY.as_bytes()).next().unwrap();
    let accept = accept(key);
    let granted = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept.as_str()),
        ("Sec-WebSocket-Protocol", "chat"),
    ];
    let mut head = answer(101, &granted);
    shake.conclude(&mut head).unwrap();
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.fields.iter().count(), 1);
    for wrong in [
        answer(101, &granted[..2]),
        answer(101, &granted[2..]),
        answer(101, &[granted[0], (ACCEPT, SAMPLE_ACCEPT)]),
        answer(200, &[]),
    ] {
        let failed = shake.conclude(&mut wrong.clone());
        assert_eq!(failed.unwrap_err().kind, Kind::UpgradeFailed, "{wrong:?}");
    }
    let mut refused = answer(403, &[]);
    shake.conclude(&mut refused).unwrap();
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}

#[test]
fn an_upgrade_becomes_a_connect_and_its_200_a_101() {
    let head = http1(
        Method::GET,
        &[
            ("host", "orders"),
            ("Sec-WebSocket-Key", SAMPLE_KEY),
            ("Upgrade", "websocket"),
            ("Connection", "upgrade"),
            ("Sec-WebSocket-Version", "13"),
        ],
    );
    let upgrade = Upgrade::asked(&head, true).unwrap();
    assert!(upgrade.translate(&head, false).is_none());
    let mut shake = upgrade.translate(&head, true).unwrap();
    let request = shake.head.h2_request(()).unwrap();
    assert_eq!(request.method(), Method::CONNECT);
    assert_eq!(request.uri(), "http://orders/chat");
    assert_eq!(request.headers().len(), 1, "{request:?}");
    let protocol = request.extensions().get::<Protocol>();
    assert_eq!(protocol.map(Protocol::as_str), Some("websocket"));
    let mut head = answer(200, &[]);
    shake.conclude(&mut head).unwrap();
    assert_eq!(head.status, StatusCode::SWITCHING_PROTOCOLS);
    let accepted = head.fields.named(ACCEPT.as_bytes()).next();
    assert_eq!(accepted, Some(SAMPLE_ACCEPT.as_bytes()));
}
