//! Field lines of requests: what is malformed is refused, all else passes in its order and spelling.

use crate::cases::{Request, passed, refused, same};

const SYNTAX: &str = "RFC 9112 5";
const COLON: &str = "RFC 9112 5.1";
const FOLDED: &str = "RFC 9112 5.2";
const VALUE: &str = "RFC 9110 5.5";
const NAME: &str = "RFC 9110 5.1";
const LINES: &str = "RFC 9112 2.2";
const CONNECTION: &str = "RFC 9110 7.6.1";

/// A GET with that field before its Host.
macro_rules! get {
    ($field:literal) => {
        concat!("GET / HTTP/1.1\r\n", $field, "\r\nHost: a\r\n\r\n").as_bytes()
    };
}

#[rustfmt::skip]
pub(crate) const CASES: &[Request] = &[
    refused("space-before-colon", COLON, &[400], get!("X : 1")),
    refused("tab-before-colon", COLON, &[400], get!("X\t: 1")),
    refused("no-colon", SYNTAX, &[400], get!("X")),
    refused("no-name", SYNTAX, &[400], get!(": 1")),
    refused("space-in-name", SYNTAX, &[400], get!("X Y: 1")),
    refused("nul-in-name", NAME, &[400], get!("X\0: 1")),
    refused("control-character-in-name", NAME, &[400], get!("X\x01: 1")),
    refused("del-in-name", NAME, &[400], get!("X\x7f: 1")),
    refused("brackets-in-name", NAME, &[400], get!("X(1): 1")),
    refused("quote-in-name", NAME, &[400], get!("\"X\": 1")),
    refused("slash-in-name", NAME, &[400], get!("X/Y: 1")),
    refused("high-byte-in-name", NAME, &[400], b"GET / HTTP/1.1\r\nX\xe9: 1\r\nHost: a\r\n\r\n"),
    refused("long-s-in-name", NAME, &[400], get!("Hoſt: 1")),
    refused("nul-in-value", VALUE, &[400], get!("X: a\0b")),
    refused("nul-before-value", VALUE, &[400], get!("X:\0b")),
    refused("vertical-tab-in-value", VALUE, &[400], get!("X: a\x0bb")),
    refused("form-feed-in-value", VALUE, &[400], get!("X: a\x0cb")),
    refused("escape-in-value", VALUE, &[400], get!("X: a\x1bb")),
    refused("bell-in-value", VALUE, &[400], get!("X: \x07")),
    refused("del-in-value", VALUE, &[400], get!("X: a\x7fb")),
    refused("control-character-in-a-long-value", VALUE, &[400], get!("X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x7faaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")),
    refused("bare-cr-in-value", LINES, &[400], get!("X: a\rb")),
    refused("bare-cr-at-the-end-of-a-value", LINES, &[400], get!("X: a\r")),
    refused("bare-cr-alone", LINES, &[400], get!("X:\rY: 1")),
    refused("bare-lf-at-the-end-of-a-field", LINES, &[400], b"GET / HTTP/1.1\r\nX: 1\nHost: a\r\n\r\n"),
    refused("bare-lf-at-the-end-of-the-request-line", LINES, &[400], b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    refused("bare-lf-at-the-end-of-the-head", LINES, &[400], b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    refused("bare-lf-everywhere", LINES, &[400], b"GET / HTTP/1.1\nHost: a\n\n"),
    refused("cr-cr-lf-at-the-end-of-the-request-line", LINES, &[400], b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
    refused("cr-cr-lf-at-the-end-of-the-head", LINES, &[400], b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n"),
    refused("cr-at-the-end-of-the-head", LINES, &[400], b"GET / HTTP/1.1\r\nHost: a\r\n\rGET /secret HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("folded-by-a-space", FOLDED, &[400], get!("X: a\r\n b")),
    refused("folded-by-a-tab", FOLDED, &[400], get!("X: a\r\n\tb")),
    refused("folded-empty", FOLDED, &[400], get!("X:\r\n b")),
    refused("folded-with-nothing", FOLDED, &[400], get!("X: a\r\n ")),
    refused("white-space-before-the-first-field", LINES, &[400], b"GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n"),
    refused("tab-before-the-first-field", LINES, &[400], b"GET / HTTP/1.1\r\n\tX: a\r\nHost: a\r\n\r\n"),
    refused("129-fields", "RFC 6585 5", &[431], b"").made(too_many),
    refused("block-over-the-limit", "RFC 6585 5", &[431], b"").made(too_large),
    refused("one-field-over-the-limit-without-end", "RFC 6585 5", &[431], b"").made(endless),
    same("100-fields", SYNTAX, b"").made_same(many),
    same("a-large-field", SYNTAX, b"").made_same(large),
    same("order-case-and-repetition", "RFC 9110 5.3", b"GET / HTTP/1.1\r\nX-B: 1\r\nHOST: a\r\nx-a: 2\r\nX-b: 3\r\nAccept: x\r\nX-A: 4\r\n\r\n"),
    same("high-bytes-in-value", VALUE, b"GET / HTTP/1.1\r\nHost: a\r\nX: caf\xe9 \xc3\xa9 \xff\r\n\r\n"),
    same("tab-in-value", VALUE, get!("X: a\tb")),
    same("empty-value", VALUE, get!("X: ")),
    passed("white-space-around-value", COLON, get!("X: \t a b \t "), get!("X: a b")),
    passed("no-white-space-before-value", COLON, get!("X:a"), get!("X: a")),
    same("colons-in-value", VALUE, get!("X: :a:b")),
    same("quotes-and-commas-in-value", VALUE, get!("X: \"a, b\", <c>;d={e}")),
    same("every-character-of-a-token-in-name", NAME, get!("!#$%&'*+-.^_`|~09azAZ: 1")),
    same("name-with-an-underscore", NAME, get!("X_Y: 1")),
    same("names-that-end-like-known-ones", NAME, get!("X-Content-Length: 7\r\nX-Transfer-Encoding: x\r\nX-Host: b")),
    same("cookies-in-two-fields", "RFC 6265 5.4", get!("Cookie: a=1\r\nX: 1\r\nCookie: b=2")),
    passed("what-connection-names", CONNECTION, get!("Connection: X-Secret, keep-alive, x-other\r\nX-Secret: 1\r\nX-Kept: 2\r\nX-Other: 3\r\nx-secret: 4"), get!("X-Kept: 2")),
    refused("connection-names-thousands", "RFC 6585 5", &[431], b"").made(many_options),
    passed("connection-names-host", CONNECTION, get!("Connection: Host"), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    passed("connection-names-the-length", CONNECTION,
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\nContent-Length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
    passed("connection-names-the-coding", CONNECTION,
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    passed("fields-of-one-hop", CONNECTION, get!("Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\nX: 1"), get!("X: 1")),
    same("trailer-and-expect", "RFC 9110 6.6.2", b"POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"),
];

fn many_options() -> Vec<u8> {
    let options = b"a,".repeat(10_000);
    [
        &b"GET / HTTP/1.1\r\nHost: a\r\nConnection: "[..],
        &options,
        b"\r\n\r\n",
    ]
    .concat()
}

fn lines(count: usize) -> Vec<u8> {
    let mut sends = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    for at in 1..count {
        sends.extend(format!("X-{at}: {at}\r\n").as_bytes());
    }
    sends.extend(b"\r\n");
    sends
}

fn too_many() -> Vec<u8> {
    lines(129)
}

fn many() -> Vec<u8> {
    lines(100)
}

fn with_value(length: usize) -> Vec<u8> {
    let mut sends = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    sends.resize(sends.len() + length, b'x');
    sends
}

fn too_large() -> Vec<u8> {
    [with_value(66_000), b"\r\n\r\n".to_vec()].concat()
}

fn endless() -> Vec<u8> {
    with_value(70_000)
}

fn large() -> Vec<u8> {
    [with_value(60_000), b"\r\n\r\n".to_vec()].concat()
}
