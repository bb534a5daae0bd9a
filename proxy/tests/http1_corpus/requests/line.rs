//! Request lines: methods, versions, and what is no request at all.

use crate::cases::{Request, passed, refused, same};

const METHOD: &str = "RFC 9110 9.1";
const VERSION: &str = "RFC 9112 2.3";
const LINE: &str = "RFC 9112 3";
const BEFORE: &str = "RFC 9112 2.2";

/// A request without body.
macro_rules! line {
    ($line:literal) => {
        concat!($line, "\r\nHost: a\r\n\r\n").as_bytes()
    };
}

#[rustfmt::skip]
pub(crate) const CASES: &[Request] = &[
    same("an-unknown-method", METHOD, line!("BREW /pot HTTP/1.1")),
    same("a-method-in-small-letters", METHOD, line!("get / HTTP/1.1")),
    same("a-method-with-every-character-of-a-token", METHOD, line!("!#$%&'*+-.^_`|~0aZ / HTTP/1.1")),
    same("a-long-method", METHOD, line!("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZ / HTTP/1.1")),
    same("head", METHOD, line!("HEAD / HTTP/1.1")),
    same("trace", METHOD, line!("TRACE / HTTP/1.1")),
    same("get-with-body", "RFC 9110 9.3.1", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
    same("delete-with-chunked-body", "RFC 9110 9.3.5", b"DELETE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    same("trace-with-body", "RFC 9110 9.3.8", b"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
    same("options-with-body", "RFC 9110 9.3.7", b"OPTIONS / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
    refused("a-method-with-a-bracket", METHOD, &[400], line!("G(T / HTTP/1.1")),
    refused("a-method-with-a-colon", METHOD, &[400], line!("GET: / HTTP/1.1")),
    refused("a-method-with-nul", METHOD, &[400], line!("G\0T / HTTP/1.1")),
    refused("a-method-with-a-high-byte", METHOD, &[400], line!("GÉT / HTTP/1.1")),
    refused("a-method-with-a-control-character", METHOD, &[400], line!("G\x01T / HTTP/1.1")),
    refused("a-quoted-method", METHOD, &[400], line!("\"GET\" / HTTP/1.1")),
    refused("no-method", LINE, &[400], line!(" / HTTP/1.1")),
    refused("a-space-before-the-method", LINE, &[400], line!(" GET / HTTP/1.1")),
    refused("two-spaces-after-the-method", LINE, &[400], line!("GET  / HTTP/1.1")),
    refused("two-spaces-before-the-version", LINE, &[400], line!("GET /  HTTP/1.1")),
    refused("a-space-after-the-version", LINE, &[400], line!("GET / HTTP/1.1 ")),
    refused("a-tab-after-the-method", LINE, &[400], line!("GET\t/ HTTP/1.1")),
    refused("a-tab-before-the-version", LINE, &[400], line!("GET /\tHTTP/1.1")),
    refused("a-vertical-tab-after-the-method", LINE, &[400], line!("GET\x0b/ HTTP/1.1")),
    refused("a-cr-after-the-method", LINE, &[400], line!("GET\r/ HTTP/1.1")),
    refused("no-version", LINE, &[400], line!("GET /")),
    refused("an-empty-version", LINE, &[400], line!("GET / ")),
    refused("a-version-in-small-letters", VERSION, &[400], line!("GET / http/1.1")),
    refused("a-version-without-minor", VERSION, &[400], line!("GET / HTTP/1")),
    refused("a-version-of-two-digits", VERSION, &[400], line!("GET / HTTP/1.10")),
    refused("a-version-with-leading-zero", VERSION, &[400], line!("GET / HTTP/01.1")),
    refused("a-version-with-a-comma", VERSION, &[400], line!("GET / HTTP/1,1")),
    refused("another-protocol", VERSION, &[400], line!("GET / HTTPS/1.1")),
    refused("another-protocol-of-four-letters", VERSION, &[400], line!("GET / ICAP/1.0")),
    refused("http-0-9", "RFC 9110 15.6.6", &[505], line!("GET / HTTP/0.9")),
    refused("http-1-2", "RFC 9110 15.6.6", &[505], line!("GET / HTTP/1.2")),
    refused("http-2-0", "RFC 9110 15.6.6", &[505], line!("GET / HTTP/2.0")),
    refused("http-3-0", "RFC 9110 15.6.6", &[505], line!("GET / HTTP/3.0")),
    refused("half-a-preface-of-http-2", "RFC 9113 3.4", &[505], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"),
    passed("an-empty-line-before-the-request", BEFORE, b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    passed("two-empty-lines-before-the-request", BEFORE, b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    passed("an-empty-line-after-a-body", BEFORE,
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").answers(&[200, 200]),
    refused("many-empty-lines-before-the-request", BEFORE, &[400], b"\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("nothing-but-a-bare-lf", BEFORE, &[400], b"\n"),
    refused("a-bare-lf-before-the-request", BEFORE, &[400], b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("a-bare-cr-before-the-request", BEFORE, &[400], b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("nul-before-the-request", LINE, &[400], b"\0GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("a-byte-order-mark-before-the-request", LINE, &[400], b"\xef\xbb\xbfGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    refused("a-field-first", LINE, &[400], b"Host: a\r\nGET / HTTP/1.1\r\n\r\n"),
    refused("tls", LINE, &[400], b"\x16\x03\x01\x00\x50\x01\x00\x00\x4c\x03\x03\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c"),
    refused("a-response", LINE, &[400], b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    refused("another-language", LINE, &[400], b"EHLO client.example\r\n"),
];
