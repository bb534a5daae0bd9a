//! Chunked bodies of requests: sizes, extensions, ends and trailers. They leave in chunks of our own, without extensions.

use crate::cases::{Request, passed, refused, same};

const CHUNKED: &str = "RFC 9112 7.1";
const EXTENSION: &str = "RFC 9112 7.1.1";
const TRAILERS: &str = "RFC 9112 7.1.2";

/// A POST with that body.
macro_rules! post {
    ($body:literal) => {
        concat!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            $body
        )
        .as_bytes()
    };
}

#[rustfmt::skip]
pub(crate) const CASES: &[Request] = &[
    same("one-chunk", CHUNKED, post!("3\r\nabc\r\n0\r\n\r\n")),
    same("two-chunks", CHUNKED, post!("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")),
    same("no-chunk", CHUNKED, post!("0\r\n\r\n")),
    passed("upper-case-size", CHUNKED, post!("A\r\n0123456789\r\n0\r\n\r\n"), post!("a\r\n0123456789\r\n0\r\n\r\n")),
    passed("size-with-leading-zeros", CHUNKED, post!("0003\r\nabc\r\n00\r\n\r\n"), post!("3\r\nabc\r\n0\r\n\r\n")),
    refused("size-plus", CHUNKED, &[400], post!("+3\r\nabc\r\n0\r\n\r\n")),
    refused("size-minus", CHUNKED, &[400], post!("-3\r\nabc\r\n0\r\n\r\n")),
    refused("size-0x", CHUNKED, &[400], post!("0x3\r\nabc\r\n0\r\n\r\n")),
    refused("size-with-an-underscore", CHUNKED, &[400], post!("0_3\r\nabc\r\n0\r\n\r\n")),
    refused("size-with-an-h", CHUNKED, &[400], post!("3h\r\nabc\r\n0\r\n\r\n")),
    refused("size-quoted", CHUNKED, &[400], post!("\"3\"\r\nabc\r\n0\r\n\r\n")),
    refused("size-empty", CHUNKED, &[400], post!("\r\nabc\r\n0\r\n\r\n")),
    refused("size-empty-before-an-extension", CHUNKED, &[400], post!(";a=b\r\nabc\r\n0\r\n\r\n")),
    refused("size-after-a-space", CHUNKED, &[400], post!(" 3\r\nabc\r\n0\r\n\r\n")),
    refused("size-before-a-space", CHUNKED, &[400], post!("3 \r\nabc\r\n0\r\n\r\n")),
    refused("size-before-a-tab", CHUNKED, &[400], post!("3\t\r\nabc\r\n0\r\n\r\n")),
    refused("size-before-a-vertical-tab", CHUNKED, &[400], post!("3\x0b\r\nabc\r\n0\r\n\r\n")),
    refused("size-before-nul", CHUNKED, &[400], post!("3\0\r\nabc\r\n0\r\n\r\n")),
    refused("size-and-another", CHUNKED, &[400], post!("3 3\r\nabc\r\n0\r\n\r\n")),
    refused("size-of-more-than-64-bits", CHUNKED, &[400], post!("10000000000000003\r\nabc\r\n0\r\n\r\n")),
    refused("size-of-64-bits", CHUNKED, &[400], post!("ffffffffffffffff\r\nabc\r\n0\r\n\r\n")),
    refused("size-that-is-negative-in-64-bits", CHUNKED, &[400], post!("8000000000000003\r\nabc\r\n0\r\n\r\n")),
    refused("size-of-many-zeros", CHUNKED, &[400], post!("00000000000000000000000000000003\r\nabc\r\n0\r\n\r\n")),
    refused("size-line-ends-in-lf", "RFC 9112 2.2", &[400], post!("3\nabc\r\n0\r\n\r\n")),
    refused("size-line-ends-in-cr", "RFC 9112 2.2", &[400], post!("3\rabc\r\n0\r\n\r\n")),
    refused("size-line-ends-in-cr-cr-lf", "RFC 9112 2.2", &[400], post!("3\r\r\nabc\r\n0\r\n\r\n")),
    refused("chunk-shorter-than-its-size", CHUNKED, &[400], post!("5\r\nabc\r\n0\r\n\r\n")),
    refused("chunk-longer-than-its-size", CHUNKED, &[400], post!("2\r\nabc\r\n0\r\n\r\n")),
    refused("chunk-ends-in-lf", CHUNKED, &[400], post!("3\r\nabc\n0\r\n\r\n")),
    refused("chunk-ends-in-cr", CHUNKED, &[400], post!("3\r\nabc\r0\r\n\r\n")),
    refused("chunk-ends-in-two-spaces", CHUNKED, &[400], post!("3\r\nabc  0\r\n\r\n")),
    refused("second-chunk-is-bad", CHUNKED, &[400], post!("3\r\nabc\r\nx\r\n\r\n")),
    passed("extension-name", EXTENSION, post!("3;a\r\nabc\r\n0\r\n\r\n"), post!("3\r\nabc\r\n0\r\n\r\n")),
    passed("extension-value", EXTENSION, post!("3;a=b;c=d\r\nabc\r\n0;e=f\r\n\r\n"), post!("3\r\nabc\r\n0\r\n\r\n")),
    passed("extension-quoted", EXTENSION, post!("3;a=\"b; \\\"c\\\\\"\r\nabc\r\n0\r\n\r\n"), post!("3\r\nabc\r\n0\r\n\r\n")),
    passed("extension-between-white-space", EXTENSION, post!("3 ;\ta = \"b\"\r\nabc\r\n0\r\n\r\n"), post!("3\r\nabc\r\n0\r\n\r\n")),
    refused("extension-empty", EXTENSION, &[400], post!("3;\r\nabc\r\n0\r\n\r\n")),
    refused("extension-without-name", EXTENSION, &[400], post!("3;=b\r\nabc\r\n0\r\n\r\n")),
    refused("extension-without-value", EXTENSION, &[400], post!("3;a=\r\nabc\r\n0\r\n\r\n")),
    refused("extension-quote-not-closed", EXTENSION, &[400], post!("3;a=\"b\r\nabc\r\n0\r\n\r\n")),
    refused("extension-with-lf-inside", EXTENSION, &[400], post!("3;a=b\nabc\r\n0\r\n\r\n")),
    refused("extension-with-cr-inside", EXTENSION, &[400], post!("3;a=b\rc\r\nabc\r\n0\r\n\r\n")),
    refused("extension-with-lf-in-quotes", EXTENSION, &[400], post!("3;a=\"\n\"\r\nabc\r\n0\r\n\r\n")),
    refused("extension-with-nul", EXTENSION, &[400], post!("3;a=\0\r\nabc\r\n0\r\n\r\n")),
    refused("extension-with-a-control-character", EXTENSION, &[400], post!("3;a=\"\x01\"\r\nabc\r\n0\r\n\r\n")),
    refused("extension-with-del", EXTENSION, &[400], post!("3;a\x7f\r\nabc\r\n0\r\n\r\n")),
    refused("extension-too-long", EXTENSION, &[400], b"").made(long_extension),
    refused("last-chunk-without-its-empty-line", CHUNKED, &[400], post!("3\r\nabc\r\n0\r\nGET /secret HTTP/1.1\r\nHost: a\r\n\r\n")),
    refused("last-chunk-ends-in-lf", CHUNKED, &[400], post!("0\n\r\n")),
    refused("last-chunk-followed-by-lf", CHUNKED, &[400], post!("0\r\n\n")),
    refused("last-chunk-followed-by-cr", CHUNKED, &[400], post!("0\r\n\rX\r\n\r\n")),
    passed("bytes-after-the-last-chunk", CHUNKED,
        post!("3\r\nabc\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"),
        post!("3\r\nabc\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")).answers(&[200, 200]),
    same("trailers", TRAILERS, post!("3\r\nabc\r\n0\r\nX-Sum: 1\r\nx-Sum: 2\r\n\r\n")),
    passed("trailers-of-framing", "RFC 9110 6.5.1",
        post!("3\r\nabc\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n"),
        post!("3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")),
    passed("trailers-of-routing", "RFC 9110 6.5.1",
        post!("0\r\nHost: b\r\nX-Sum: 1\r\nConnection: close\r\nTE: trailers\r\nUpgrade: x\r\nKeep-Alive: 1\r\n\r\n"),
        post!("0\r\nX-Sum: 1\r\n\r\n")),
    passed("trailers-that-may-not-be-there-alone", "RFC 9110 6.5.1", post!("0\r\nHost: b\r\n\r\n"), post!("0\r\n\r\n")),
    refused("trailer-with-a-space-before-its-colon", TRAILERS, &[400], post!("0\r\nX : 1\r\n\r\n")),
    refused("trailer-folded", TRAILERS, &[400], post!("0\r\nX: 1\r\n 2\r\n\r\n")),
    refused("trailer-with-nul", TRAILERS, &[400], post!("0\r\nX: 1\0\r\n\r\n")),
    refused("trailer-without-colon", TRAILERS, &[400], post!("0\r\nX\r\n\r\n")),
    refused("trailer-ends-in-lf", TRAILERS, &[400], post!("0\r\nX: 1\nY: 2\r\n\r\n")),
    refused("trailers-end-in-lf", TRAILERS, &[400], post!("0\r\nX: 1\n\n")),
    refused("trailer-with-a-bare-cr", TRAILERS, &[400], post!("0\r\nX: 1\rY: 2\r\n\r\n")),
    refused("trailers-too-large", TRAILERS, &[400], b"").made(long_trailers),
    refused("trailers-too-many", TRAILERS, &[400], b"").made(many_trailers),
];

fn long_extension() -> Vec<u8> {
    let mut sends = post!("3;a=").to_vec();
    sends.extend([b'b'; 5000]);
    sends.extend(b"\r\nabc\r\n0\r\n\r\n");
    sends
}

fn long_trailers() -> Vec<u8> {
    let mut sends = post!("0\r\nX: ").to_vec();
    sends.extend([b'b'; 40_000]);
    sends.extend(b"\r\n\r\n");
    sends
}

fn many_trailers() -> Vec<u8> {
    let mut sends = post!("0\r\n").to_vec();
    sends.extend(b"X: 1\r\n".repeat(129));
    sends.extend(b"\r\n");
    sends
}
