//! Status lines, and answers that are none.

use crate::cases::{Response, Step, bad, seen, send};

const LINE: &str = "RFC 9112 4";
const VERSION: &str = "RFC 9112 2.3";
const CODE: &str = "RFC 9110 15";
const INCOMPLETE: &str = "RFC 9112 8";

/// A response that passes as it came.
const fn same(
    name: &'static str,
    source: &'static str,
    bytes: &'static [u8],
    task: &'static [Step],
) -> Response {
    seen(name, source, task, bytes)
}

/// Bytes that are sent and seen.
macro_rules! both {
    ($name:literal, $source:expr, $bytes:literal) => {
        same($name, $source, $bytes, &[send($bytes)])
    };
}

#[rustfmt::skip]
pub(crate) const CASES: &[Response] = &[
    both!("ok", LINE, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
    both!("a-reason-of-its-own", LINE, b"HTTP/1.1 404 Nothing here, sorry\r\nContent-Length: 2\r\n\r\nhi"),
    both!("an-empty-reason", LINE, b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi"),
    seen("no-reason", LINE, &[send(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi")], b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi"),
    both!("a-reason-with-high-bytes", LINE, b"HTTP/1.1 200 Tr\xe8s bien \xc3\xa9\r\nContent-Length: 2\r\n\r\nhi"),
    both!("a-reason-with-a-tab", LINE, b"HTTP/1.1 200 very\tOK\r\nContent-Length: 2\r\n\r\nhi"),
    both!("an-unknown-status", CODE, b"HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nhi"),
    both!("a-status-of-no-class", CODE, b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nhi"),
    seen("http-1-0", VERSION, &[send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")], b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").not_reused(),
    seen("http-1-0-keep-alive", VERSION, &[send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi")], b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
    seen("connection-close", "RFC 9112 9.3", &[send(b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nhi")], b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").not_reused(),
    bad("http-2-0", VERSION, &[send(b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("http-1-2", VERSION, &[send(b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("http-0-9", VERSION, &[send(b"<html><body>hi</body></html>"), Step::Close]),
    bad("a-version-in-small-letters", VERSION, &[send(b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("another-protocol", VERSION, &[send(b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("a-status-of-two-digits", LINE, &[send(b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("a-status-of-four-digits", LINE, &[send(b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("status-099", CODE, &[send(b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("status-000", CODE, &[send(b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("a-negative-status", LINE, &[send(b"HTTP/1.1 -20 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("a-status-with-a-letter", LINE, &[send(b"HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("no-status", LINE, &[send(b"HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("two-spaces-before-the-status", LINE, &[send(b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("a-tab-before-the-status", LINE, &[send(b"HTTP/1.1\t200 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("a-tab-after-the-status", LINE, &[send(b"HTTP/1.1 200\tOK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("a-space-before-the-line", LINE, &[send(b" HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("an-empty-line-before-the-line", "RFC 9112 2.2", &[send(b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("a-bare-lf-before-the-line", "RFC 9112 2.2", &[send(b"\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("a-line-that-ends-in-lf", "RFC 9112 2.2", &[send(b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nhi")]),
    bad("a-line-that-ends-in-cr-cr-lf", "RFC 9112 2.2", &[send(b"HTTP/1.1 200 OK\r\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("a-bare-cr-in-the-reason", "RFC 9112 2.2", &[send(b"HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("nul-in-the-reason", LINE, &[send(b"HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("del-in-the-reason", LINE, &[send(b"HTTP/1.1 200 O\x7fK\r\nContent-Length: 2\r\n\r\nhi")]),
    bad("a-request", LINE, &[send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")]),
    bad("an-alert-of-tls", LINE, &[send(b"\x15\x03\x03\x00\x02\x02\x32")]),
    bad("closed-within-the-line", INCOMPLETE, &[send(b"HTTP/1.1 20"), Step::Close]),
    bad("closed-within-the-fields", INCOMPLETE, &[send(b"HTTP/1.1 200 OK\r\nContent-Len"), Step::Close]),
    bad("closed-before-the-empty-line", INCOMPLETE, &[send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"), Step::Close]),
    bad("closed-without-an-answer", INCOMPLETE, &[Step::Close]).unavailable(),
    bad("reset-without-an-answer", INCOMPLETE, &[Step::Reset]).unavailable(),
];
