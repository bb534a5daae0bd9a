//! Field lines of responses, and trailers.

use crate::cases::{Raw, Response, Step, bad, broken, seen, send};

const SYNTAX: &str = "RFC 9112 5";
const FOLDED: &str = "RFC 9112 5.2";
const VALUE: &str = "RFC 9110 5.5";
const LINES: &str = "RFC 9112 2.2";
const HOP: &str = "RFC 9110 7.6.1";
const TRAILERS: &str = "RFC 9112 7.1.2";

/// A response with that field.
macro_rules! field {
    ($field:literal) => {
        concat!(
            "HTTP/1.1 200 OK\r\n",
            $field,
            "\r\nContent-Length: 2\r\n\r\nhi"
        )
        .as_bytes()
    };
}

/// A chunked response with that end of its body.
macro_rules! chunked {
    ($end:literal) => {
        concat!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
            $end
        )
        .as_bytes()
    };
}

#[rustfmt::skip]
pub(crate) const CASES: &[Response] = &[
    seen("order-case-and-repetition", "RFC 9110 5.3",
        &[send(b"HTTP/1.1 200 OK\r\nX-B: 1\r\nSet-Cookie: a\r\nx-a: 2\r\nSet-Cookie: b\r\nX-b: 3\r\nCONTENT-length: 2\r\n\r\nhi")],
        b"HTTP/1.1 200 OK\r\nX-B: 1\r\nSet-Cookie: a\r\nx-a: 2\r\nSet-Cookie: b\r\nX-b: 3\r\nCONTENT-length: 2\r\n\r\nhi"),
    seen("high-bytes-in-value", VALUE,
        &[send(b"HTTP/1.1 200 OK\r\nX: caf\xe9 \xff\r\nContent-Length: 2\r\n\r\nhi")],
        b"HTTP/1.1 200 OK\r\nX: caf\xe9 \xff\r\nContent-Length: 2\r\n\r\nhi"),
    seen("empty-value", VALUE, &[send(field!("X:"))], field!("X: ")),
    seen("100-fields", SYNTAX, &[Step::Send(Raw::Made(many))], b"").made_same(many),
    seen("a-large-field", SYNTAX, &[Step::Send(Raw::Made(large))], b"").made_same(large),
    seen("what-connection-names", HOP, &[send(field!("Connection: X-Secret\r\nX-Secret: 1\r\nX-Kept: 2"))], field!("X-Kept: 2")),
    seen("connection-names-the-length", HOP, &[send(field!("Connection: Content-Length\r\nX: 1"))], field!("X: 1")),
    seen("fields-of-one-hop", HOP, &[send(field!("Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nX: 1\r\nUpgrade: h2c"))], field!("X: 1")),
    bad("space-before-colon", "RFC 9112 5.1", &[send(field!("X : 1"))]),
    bad("no-colon", SYNTAX, &[send(field!("X"))]),
    bad("no-name", SYNTAX, &[send(field!(": 1"))]),
    bad("space-in-name", SYNTAX, &[send(field!("X Y: 1"))]),
    bad("control-character-in-name", "RFC 9110 5.1", &[send(field!("X\x01: 1"))]),
    bad("folded", FOLDED, &[send(field!("X: a\r\n b"))]),
    bad("folded-before-the-first-field", FOLDED, &[send(field!(" X: a"))]),
    bad("nul-in-value", VALUE, &[send(field!("X: a\0b"))]),
    bad("vertical-tab-in-value", VALUE, &[send(field!("X: a\x0bb"))]),
    bad("del-in-value", VALUE, &[send(field!("X: a\x7fb"))]),
    bad("bare-cr-in-value", LINES, &[send(field!("X: a\rSet-Cookie: b"))]),
    bad("bare-lf-after-value", LINES, &[send(field!("X: a\nSet-Cookie: b"))]),
    bad("bare-lf-at-the-end-of-the-head", LINES, &[send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nhi")]),
    bad("cr-cr-lf-at-the-end-of-the-head", LINES, &[send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\r\nhi")]),
    bad("129-fields", "RFC 6585 5", &[Step::Send(Raw::Made(too_many))]),
    bad("connection-names-thousands", "RFC 6585 5", &[Step::Send(Raw::Made(many_options))]),
    bad("head-over-the-limit", "RFC 6585 5", &[Step::Send(Raw::Made(too_large))]),
    bad("head-without-end", "RFC 6585 5", &[Step::Send(Raw::Made(endless))]),
    bad("reason-without-end", "RFC 6585 5", &[Step::Send(Raw::Made(endless_reason))]),
    seen("trailers", TRAILERS, &[send(chunked!("0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n"))], chunked!("0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n")),
    seen("trailers-of-framing", "RFC 9110 6.5.1",
        &[send(chunked!("0\r\nContent-Length: 1\r\nX-Sum: 1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nTrailer: x\r\n\r\n"))],
        chunked!("0\r\nX-Sum: 1\r\n\r\n")),
    seen("trailers-that-may-not-be-there-alone", "RFC 9110 6.5.1", &[send(chunked!("0\r\nContent-Length: 1\r\n\r\n"))], chunked!("0\r\n\r\n")),
    bad("trailer-folded", TRAILERS, &[send(chunked!("0\r\nX: 1\r\n 2\r\n\r\n"))]),
    bad("trailer-with-a-space-before-its-colon", TRAILERS, &[send(chunked!("0\r\nX : 1\r\n\r\n"))]),
    bad("trailer-with-a-bare-lf", TRAILERS, &[send(chunked!("0\r\nX: 1\nY: 2\r\n\r\n"))]),
    bad("trailer-with-nul", TRAILERS, &[send(chunked!("0\r\nX: \0\r\n\r\n"))]),
    bad("trailers-too-many", TRAILERS, &[Step::Send(Raw::Made(many_trailers))]),
    broken("trailers-too-large", TRAILERS, &[send(chunked!("")), Step::Read, Step::Send(Raw::Made(long_trailers))], chunked!(""), "UPE"),
    broken("trailer-malformed-after-the-head", TRAILERS, &[send(chunked!("")), Step::Read, send(b"0\r\nX : 1\r\n\r\n")], chunked!(""), "UPE"),
];

fn many_options() -> Vec<u8> {
    let options = b"a,".repeat(10_000);
    [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: "[..],
        &options,
        b"\r\n\r\nhi",
    ]
    .concat()
}

fn lines(count: usize) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n".to_vec();
    for at in 1..count {
        bytes.extend(format!("X-{at}: {at}\r\n").as_bytes());
    }
    bytes.extend(b"\r\nhi");
    bytes
}

fn many() -> Vec<u8> {
    lines(100)
}

fn too_many() -> Vec<u8> {
    lines(129)
}

fn with_value(length: usize, end: &[u8]) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: ".to_vec();
    bytes.resize(bytes.len() + length, b'x');
    bytes.extend(end);
    bytes
}

fn large() -> Vec<u8> {
    with_value(60_000, b"\r\n\r\nhi")
}

fn too_large() -> Vec<u8> {
    with_value(66_000, b"\r\n\r\nhi")
}

fn endless() -> Vec<u8> {
    with_value(70_000, b"")
}

fn endless_reason() -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 ".to_vec();
    bytes.resize(70_000, b'x');
    bytes
}

fn many_trailers() -> Vec<u8> {
    let mut bytes = chunked!("0\r\n").to_vec();
    bytes.extend(b"X: 1\r\n".repeat(129));
    bytes.extend(b"\r\n");
    bytes
}

fn long_trailers() -> Vec<u8> {
    let mut bytes = b"0\r\nX: ".to_vec();
    bytes.resize(40_000, b'x');
    bytes
}
