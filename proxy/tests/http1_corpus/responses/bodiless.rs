//! Responses that have no body, whatever they say: to HEAD, 204, 304, and what stands beside them.

use crate::cases::{HEAD, Response, bad, seen, send};

const BODY: &str = "RFC 9112 6.3";
const LENGTH: &str = "RFC 9110 8.6";
const CODING: &str = "RFC 9112 6.1";

#[rustfmt::skip]
pub(crate) const CASES: &[Response] = &[
    seen("head-with-length", LENGTH, &[send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")], b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").to(HEAD),
    seen("head-with-coding", CODING, &[send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").to(HEAD),
    seen("head-with-neither", BODY, &[send(b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n")], b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n").to(HEAD),
    seen("head-with-body", BODY, &[send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")], b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").to(HEAD).not_reused(),
    seen("head-with-chunks", BODY, &[send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").to(HEAD).not_reused(),
    seen("head-with-coding-to-http-1-0", CODING, &[send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")], b"HTTP/1.1 200 OK\r\n\r\n").to(b"HEAD / HTTP/1.0\r\n\r\n").closes(),
    bad("head-with-length-and-coding", BODY, &[send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n")]).to(HEAD),
    bad("head-with-lengths-that-differ", BODY, &[send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n")]).to(HEAD),
    seen("no-content", BODY, &[send(b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n")], b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n"),
    seen("no-content-with-length-0", LENGTH, &[send(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")], b"HTTP/1.1 204 No Content\r\n\r\n"),
    seen("no-content-with-length", LENGTH, &[send(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nX: 1\r\n\r\n")], b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n"),
    seen("no-content-with-coding", CODING, &[send(b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n")], b"HTTP/1.1 204 No Content\r\n\r\n"),
    seen("no-content-with-body", BODY, &[send(b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi")], b"HTTP/1.1 204 No Content\r\n\r\n").not_reused(),
    seen("no-content-and-a-second-response", BODY, &[send(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")], b"HTTP/1.1 204 No Content\r\n\r\n").not_reused(),
    seen("not-modified", BODY, &[send(b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n")], b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n"),
    seen("not-modified-with-length", LENGTH, &[send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n")], b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
    seen("not-modified-with-coding", CODING, &[send(b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n")], b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
    seen("not-modified-with-body", BODY, &[send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nhi")], b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n").not_reused(),
    seen("reset-content-with-length-0", "RFC 9110 15.3.6", &[send(b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n")], b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
    seen("reset-content-in-chunks", "RFC 9110 15.3.6", &[send(b"HTTP/1.1 205 Reset Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")], b"HTTP/1.1 205 Reset Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    bad("reset-content-and-bytes", BODY, &[send(b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\nhi")]),
];
