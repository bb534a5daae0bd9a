//! Informational responses before the one that counts, and upgrades nobody asked for.

use crate::cases::{Raw, Response, Step, bad, seen, send};

const INFORMATIONAL: &str = "RFC 9110 15.2";
const SWITCHING: &str = "RFC 9110 15.2.2";
const LENGTH: &str = "RFC 9110 8.6";

/// What was informed of, and then a response.
macro_rules! then {
    ($informed:literal) => {
        concat!($informed, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").as_bytes()
    };
}

const UPGRADE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

#[rustfmt::skip]
pub(crate) const CASES: &[Response] = &[
    seen("continue-unasked", INFORMATIONAL, &[send(then!("HTTP/1.1 100 Continue\r\n\r\n"))], then!("HTTP/1.1 100 Continue\r\n\r\n")),
    seen("early-hints", "RFC 8297 2", &[send(then!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nlink: </b>\r\n\r\n"))], then!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nlink: </b>\r\n\r\n")),
    seen("three-of-them", INFORMATIONAL,
        &[send(then!("HTTP/1.1 103 A\r\n\r\nHTTP/1.1 102 B\r\n\r\nHTTP/1.1 199 C\r\n\r\n"))],
        then!("HTTP/1.1 103 A\r\n\r\nHTTP/1.1 102 B\r\n\r\nHTTP/1.1 199 C\r\n\r\n")),
    seen("one-by-one", INFORMATIONAL, &[send(b"HTTP/1.1 103 A\r\n\r\n"), Step::Read, send(then!("HTTP/1.1 103 B\r\n\r\n"))], then!("HTTP/1.1 103 A\r\n\r\nHTTP/1.1 103 B\r\n\r\n")),
    seen("32-of-them", INFORMATIONAL, &[Step::Send(Raw::Made(many)), send(then!(""))], b"").made_same(many_then),
    seen("with-length", LENGTH, &[send(then!("HTTP/1.1 103 A\r\nContent-Length: 2\r\n\r\n"))], then!("HTTP/1.1 103 A\r\n\r\n")),
    seen("with-coding", "RFC 9112 6.1", &[send(then!("HTTP/1.1 103 A\r\nTransfer-Encoding: chunked\r\n\r\n"))], then!("HTTP/1.1 103 A\r\n\r\n")),
    seen("with-fields-of-one-hop", "RFC 9110 7.6.1", &[send(then!("HTTP/1.1 103 A\r\nConnection: X\r\nX: 1\r\nY: 2\r\n\r\n"))], then!("HTTP/1.1 103 A\r\nY: 2\r\n\r\n")),
    seen("to-http-1-0", INFORMATIONAL, &[send(then!("HTTP/1.1 103 A\r\n\r\n"))], then!("")).to(b"GET / HTTP/1.0\r\n\r\n").closes(),
    bad("a-flood", INFORMATIONAL, &[Step::Send(Raw::Made(flood)), send(then!(""))]),
    bad("a-flood-of-continue", INFORMATIONAL, &[Step::Send(Raw::Made(flood_of_continue))]),
    bad("with-body", INFORMATIONAL, &[send(then!("HTTP/1.1 103 A\r\nContent-Length: 2\r\n\r\nhi"))]),
    bad("malformed", INFORMATIONAL, &[send(then!("HTTP/1.1 103 A\r\nX : 1\r\n\r\n"))]),
    bad("with-length-and-coding", "RFC 9112 6.3", &[send(then!("HTTP/1.1 103 A\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"))]),
    bad("and-garbage", INFORMATIONAL, &[send(b"HTTP/1.1 100 Continue\r\n\r\ngarbage and no status line\r\n\r\n")]),
    bad("and-nothing", "RFC 9112 8", &[send(b"HTTP/1.1 100 Continue\r\n\r\n"), Step::Close]),
    bad("and-half-a-head", "RFC 9112 8", &[send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), Step::Close]),
    bad("switching-unasked", SWITCHING, &[send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")]),
    bad("switching-and-a-response", SWITCHING, &[send(then!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"))]),
    seen("an-upgrade-that-is-declined", "RFC 9110 7.8", &[send(b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nhi")], b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nhi").to(UPGRADE),
];

fn many() -> Vec<u8> {
    b"HTTP/1.1 103 A\r\n\r\n".repeat(32)
}

fn many_then() -> Vec<u8> {
    [many(), then!("").to_vec()].concat()
}

fn flood() -> Vec<u8> {
    b"HTTP/1.1 103 A\r\n\r\n".repeat(33)
}

fn flood_of_continue() -> Vec<u8> {
    b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000)
}
