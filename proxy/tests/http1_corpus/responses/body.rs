//! Bodies of responses: malformed, cut off, and followed by more than there should be. What is wrong before the head is passed on is
//! a 502; later the client sees that the body is not whole.

use crate::cases::{Response, Step, bad, broken, seen, send};

const CHUNKED: &str = "RFC 9112 7.1";
const EXTENSION: &str = "RFC 9112 7.1.1";
const INCOMPLETE: &str = "RFC 9112 8";
const EXTRA: &str = "RFC 9112 6.3";
const CLOSED: &str = "RFC 9112 6.3";
const EARLY: &str = "RFC 9112 9.5";

/// A chunked response with that body.
macro_rules! chunked {
    ($body:literal) => {
        concat!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            $body
        )
        .as_bytes()
    };
}

/// A response of a length, with that much of its body, or more.
macro_rules! length {
    ($length:literal, $body:literal) => {
        concat!(
            "HTTP/1.1 200 OK\r\nContent-Length: ",
            $length,
            "\r\n\r\n",
            $body
        )
        .as_bytes()
    };
}

const PART: &[u8] = chunked!("2\r\nhi\r\n");
const OPEN: &[u8] = b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\nhi";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\npart";

#[rustfmt::skip]
pub(crate) const CASES: &[Response] = &[
    seen("chunked", CHUNKED, &[send(chunked!("2\r\nhi\r\n3\r\nyou\r\n0\r\n\r\n"))], chunked!("2\r\nhi\r\n3\r\nyou\r\n0\r\n\r\n")),
    seen("chunked-in-pieces", CHUNKED, &[send(PART), Step::Read, send(b"3\r"), send(b"\nyou\r\n0\r\n\r"), send(b"\n")], chunked!("2\r\nhi\r\n3\r\nyou\r\n0\r\n\r\n")),
    seen("chunk-extensions", EXTENSION, &[send(chunked!("2;a=\"b\"\r\nhi\r\n0 ; c\r\n\r\n"))], chunked!("2\r\nhi\r\n0\r\n\r\n")),
    bad("size-plus", CHUNKED, &[send(chunked!("+2\r\nhi\r\n0\r\n\r\n"))]),
    bad("size-0x", CHUNKED, &[send(chunked!("0x2\r\nhi\r\n0\r\n\r\n"))]),
    bad("size-before-a-space", CHUNKED, &[send(chunked!("2 \r\nhi\r\n0\r\n\r\n"))]),
    bad("size-of-64-bits", CHUNKED, &[send(chunked!("ffffffffffffffff\r\nhi\r\n0\r\n\r\n"))]),
    bad("size-of-more-than-64-bits", CHUNKED, &[send(chunked!("10000000000000002\r\nhi\r\n0\r\n\r\n"))]),
    bad("size-line-ends-in-lf", CHUNKED, &[send(chunked!("2\nhi\r\n0\r\n\r\n"))]),
    bad("size-that-is-a-word", CHUNKED, &[send(chunked!("hi\r\n"))]),
    bad("chunk-longer-than-its-size", CHUNKED, &[send(chunked!("1\r\nhi\r\n0\r\n\r\n"))]),
    bad("chunk-ends-in-lf", CHUNKED, &[send(chunked!("2\r\nhi\n0\r\n\r\n"))]),
    bad("extension-with-lf-inside", EXTENSION, &[send(chunked!("2;a\nhi\r\n0\r\n\r\n"))]),
    bad("extension-with-cr-inside", EXTENSION, &[send(chunked!("2;a\rb\r\nhi\r\n0\r\n\r\n"))]),
    bad("extension-with-nul", EXTENSION, &[send(chunked!("2;a=\0\r\nhi\r\n0\r\n\r\n"))]),
    broken("size-malformed-after-the-head", CHUNKED, &[send(PART), Step::Read, send(b"x\r\n")], PART, "UPE"),
    broken("chunk-longer-than-its-size-after-the-head", CHUNKED, &[send(PART), Step::Read, send(b"1\r\nyou\r\n")], chunked!("2\r\nhi\r\n1\r\ny\r\n"), "UPE"),
    bad("length-cut-off-at-once", INCOMPLETE, &[Step::Last(length!("10", "half"))]),
    bad("length-cut-off-before-the-body", INCOMPLETE, &[Step::Last(length!("10", ""))]),
    bad("chunked-cut-off-at-once", INCOMPLETE, &[Step::Last(PART)]),
    bad("chunked-cut-off-within-a-chunk", INCOMPLETE, &[Step::Last(chunked!("5\r\nhal"))]),
    bad("chunked-cut-off-before-its-empty-line", INCOMPLETE, &[Step::Last(chunked!("2\r\nhi\r\n0\r\n"))]),
    broken("length-cut-off-after-the-head", INCOMPLETE, &[send(length!("10", "half")), Step::Read, Step::Close], length!("10", "half"), "UC"),
    broken("length-reset-after-the-head", INCOMPLETE, &[send(length!("10", "half")), Step::Read, Step::Reset], length!("10", "half"), "UC"),
    broken("chunked-cut-off-after-the-head", INCOMPLETE, &[send(PART), Step::Read, Step::Close], PART, "UC"),
    broken("chunked-reset-after-the-head", INCOMPLETE, &[send(PART), Step::Read, Step::Reset], PART, "UC"),
    broken("reset-instead-of-closed", CLOSED, &[send(OPEN), Step::Read, Step::Reset], b"HTTP/1.1 200 OK\r\nX: 1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n", "UC"),
    seen("closed-at-its-end", CLOSED, &[Step::Last(OPEN)], b"HTTP/1.1 200 OK\r\nX: 1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").not_reused(),
    seen("closed-at-its-end-though-it-says-keep-alive", CLOSED,
        &[Step::Last(b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\nhi")],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").not_reused(),
    seen("closed-without-a-byte", CLOSED, &[Step::Last(b"HTTP/1.1 200 OK\r\n\r\n")], b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").not_reused(),
    seen("closed-at-its-end-to-http-1-0", CLOSED, &[Step::Last(OPEN)], OPEN).to(b"GET / HTTP/1.0\r\n\r\n").not_reused().closes(),
    seen("chunked-to-http-1-0", "RFC 9112 6.1", &[send(chunked!("2\r\nhi\r\n0\r\nX: 1\r\n\r\n"))], b"HTTP/1.1 200 OK\r\n\r\nhi").to(b"GET / HTTP/1.0\r\n\r\n").closes(),
    seen("length-to-http-1-0-keep-alive", "RFC 9112 9.3", &[send(length!("2", "hi"))],
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: keep-alive\r\n\r\nhi").to(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    bad("bytes-after-a-length", EXTRA, &[send(length!("2", "hi!"))]),
    bad("bytes-after-length-0", EXTRA, &[send(length!("0", "hi"))]),
    bad("a-line-end-after-a-length", EXTRA, &[send(length!("2", "hi\r\n"))]),
    bad("a-second-response-after-a-length", EXTRA, &[send(length!("2", "hiHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"))]),
    bad("a-second-response-after-chunks", EXTRA, &[send(chunked!("2\r\nhi\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"))]),
    bad("bytes-after-trailers", EXTRA, &[send(chunked!("2\r\nhi\r\n0\r\nX: 1\r\n\r\n\r\n"))]),
    seen("bytes-after-a-length-later", EXTRA, &[send(length!("4", "ha")), Step::Read, send(b"ha, and more")], length!("4", "haha")).flagged("UPE"),
    seen("bytes-after-chunks-later", EXTRA, &[send(PART), Step::Read, send(b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")], chunked!("2\r\nhi\r\n0\r\n\r\n")).flagged("UPE"),
    seen("a-second-response-while-idle", EXTRA, &[send(length!("2", "hi")), Step::Read, send(length!("6", "poison"))], length!("2", "hi")).not_reused(),
    seen("closed-while-idle", "RFC 9112 9.5", &[send(length!("2", "hi")), Step::Read, Step::Close], length!("2", "hi")).not_reused(),
    seen("before-the-request-is-whole", EARLY, &[send(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nhi")],
        b"HTTP/1.1 413 No\r\nContent-Length: 2\r\nconnection: close\r\n\r\nhi").to(POST).early().not_reused().closes(),
    seen("before-the-request-is-whole-and-closed", EARLY, &[Step::Last(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nhi")],
        b"HTTP/1.1 413 No\r\nContent-Length: 2\r\nconnection: close\r\n\r\nhi").to(POST).early().not_reused().closes(),
    bad("malformed-before-the-request-is-whole", EARLY, &[send(b"HTTP/1.1 413 No\r\nX : 1\r\n\r\n")]).to(POST).early().then_closes(),
];
