//! Content-Length and Transfer-Encoding of responses.

use crate::cases::{Response, bad, seen, send};

const LENGTH: &str = "RFC 9110 8.6";
const CODING: &str = "RFC 9112 6.1";
const BODY: &str = "RFC 9112 6.3";

/// A response with those fields and that body.
macro_rules! ok {
    ($fields:literal, $body:literal) => {
        concat!("HTTP/1.1 200 OK\r\n", $fields, "\r\n\r\n", $body).as_bytes()
    };
}

#[rustfmt::skip]
pub(crate) const CASES: &[Response] = &[
    bad("length-and-chunked", BODY, &[send(ok!("Content-Length: 2\r\nTransfer-Encoding: chunked", "2\r\nhi\r\n0\r\n\r\n"))]),
    bad("chunked-and-length", BODY, &[send(ok!("Transfer-Encoding: chunked\r\nContent-Length: 12", "2\r\nhi\r\n0\r\n\r\n"))]),
    bad("lengths-that-differ", BODY, &[send(ok!("Content-Length: 2\r\nContent-Length: 3", "hi"))]),
    bad("lengths-that-differ-in-a-list", BODY, &[send(ok!("Content-Length: 2, 3", "hi"))]),
    bad("equal-lengths-in-a-list", LENGTH, &[send(ok!("Content-Length: 2,2", "hi"))]),
    seen("equal-lengths-in-two-fields", LENGTH, &[send(ok!("Content-Length: 2\r\nX: 1\r\nContent-Length: 2", "hi"))], ok!("Content-Length: 2\r\nX: 1", "hi")),
    bad("length-plus", LENGTH, &[send(ok!("Content-Length: +2", "hi"))]),
    bad("length-minus", LENGTH, &[send(ok!("Content-Length: -1", "hi"))]),
    bad("length-hex", LENGTH, &[send(ok!("Content-Length: 0x2", "hi"))]),
    bad("length-empty", LENGTH, &[send(ok!("Content-Length:", "hi"))]),
    bad("length-of-words", LENGTH, &[send(ok!("Content-Length: two", "hi"))]),
    bad("length-of-64-bits", LENGTH, &[send(ok!("Content-Length: 18446744073709551616", "hi"))]),
    bad("length-that-is-negative-in-64-bits", LENGTH, &[send(ok!("Content-Length: 9223372036854775808", "hi"))]),
    seen("length-0", LENGTH, &[send(ok!("Content-Length: 0", ""))], ok!("Content-Length: 0", "")),
    seen("length-with-leading-zeros", LENGTH, &[send(ok!("Content-Length: 002", "hi"))], ok!("Content-Length: 002", "hi")),
    bad("coding-identity", CODING, &[send(ok!("Transfer-Encoding: identity", "hi"))]),
    bad("coding-gzip", CODING, &[send(ok!("Transfer-Encoding: gzip", "hi"))]),
    bad("coding-gzip-chunked", CODING, &[send(ok!("Transfer-Encoding: gzip, chunked", "2\r\nhi\r\n0\r\n\r\n"))]),
    bad("coding-chunked-identity", CODING, &[send(ok!("Transfer-Encoding: chunked, identity", "2\r\nhi\r\n0\r\n\r\n"))]),
    bad("coding-xchunked", CODING, &[send(ok!("Transfer-Encoding: xchunked", "2\r\nhi\r\n0\r\n\r\n"))]),
    bad("coding-chunked-twice", CODING, &[send(ok!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "2\r\nhi\r\n0\r\n\r\n"))]),
    bad("coding-after-vertical-tab", CODING, &[send(ok!("Transfer-Encoding: \x0bchunked", "2\r\nhi\r\n0\r\n\r\n"))]),
    bad("coding-empty", CODING, &[send(ok!("Transfer-Encoding: ", "2\r\nhi\r\n0\r\n\r\n"))]),
    bad("coding-of-http-1-0", CODING, &[send(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")]),
    seen("coding-in-mixed-case", "RFC 9112 7", &[send(ok!("TRANSFER-encoding: ChUnKeD", "2\r\nhi\r\n0\r\n\r\n"))], ok!("TRANSFER-encoding: ChUnKeD", "2\r\nhi\r\n0\r\n\r\n")),
];
