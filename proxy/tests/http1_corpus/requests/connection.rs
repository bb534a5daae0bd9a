//! Connections of clients: which stay, which close, and that requests on them are answered in order.

use crate::cases::{After, Raw, Request, passed, refused, same};

const PERSISTENCE: &str = "RFC 9112 9.3";
const PIPELINING: &str = "RFC 9112 9.3.2";
const TEAR_DOWN: &str = "RFC 9112 9.6";
const INCOMPLETE: &str = "RFC 9112 8";

const ONE: &[u8] = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";

#[rustfmt::skip]
pub(crate) const CASES: &[Request] = &[
    passed("keep-alive", PERSISTENCE, b"GET /1 HTTP/1.1\r\nConnection: keep-alive\r\nHost: a\r\n\r\n", ONE),
    passed("close", PERSISTENCE, b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", ONE).closes(),
    passed("close-in-capitals-among-others", PERSISTENCE, b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x,CLOSE\r\n\r\n", ONE).closes(),
    passed("close-in-a-second-field", PERSISTENCE, b"GET /1 HTTP/1.1\r\nConnection: keep-alive\r\nHost: a\r\nConnection: close\r\n\r\n", ONE).closes(),
    passed("closed-is-not-close", PERSISTENCE, b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", ONE),
    passed("http-1-0", PERSISTENCE, b"GET /1 HTTP/1.0\r\nHost: a\r\n\r\n", ONE).closes(),
    passed("http-1-0-keep-alive", PERSISTENCE, b"GET /1 HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n", ONE),
    passed("http-1-0-keep-alive-and-close", PERSISTENCE, b"GET /1 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n", ONE).closes(),
    passed("http-1-0-with-body", PERSISTENCE,
        b"POST /1 HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").closes(),
    passed("a-request-after-close", TEAR_DOWN,
        b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", ONE).closes(),
    passed("a-request-after-http-1-0", TEAR_DOWN,
        b"GET /1 HTTP/1.0\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", ONE).closes(),
    same("pipelined", PIPELINING,
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: b\r\n\r\nGET /3 HTTP/1.1\r\nHost: c\r\n\r\n").answers(&[200, 200, 200]),
    same("pipelined-with-bodies", PIPELINING,
        b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 18\r\n\r\nGET /x HTTP/1.1\r\n\nPOST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n").answers(&[200, 200, 200]),
    passed("pipelined-and-the-second-is-malformed", PIPELINING,
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost : a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n", ONE).answers(&[200, 400]).closes(),
    passed("pipelined-and-the-second-is-connect", PIPELINING,
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nCONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n", ONE).answers(&[200, 405]).closes(),
    refused("expect-continue-and-a-malformed-chunk", "RFC 9110 10.1.1", &[400], b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"),
    refused("expect-continue-and-two-lengths", "RFC 9110 10.1.1", &[400], b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n"),
    passed("an-unknown-expectation", "RFC 9110 10.1.1",
        b"GET /1 HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", b"GET /1 HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n"),
    refused("nothing-after-a-refusal", TEAR_DOWN, &[400], b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"),
    passed("half-closed-after-the-request", TEAR_DOWN, ONE, ONE).half_closed().closes(),
    passed("half-closed-after-three-requests", TEAR_DOWN,
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n").answers(&[200, 200, 200]).half_closed().closes(),
    refused("half-closed-within-the-request-line", INCOMPLETE, &[400], b"GET / HT").half_closed(),
    refused("half-closed-within-the-fields", INCOMPLETE, &[400], b"GET / HTTP/1.1\r\nHost: a\r\n").half_closed(),
    broken("half-closed-within-the-body", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabcdefghij"),
    broken("half-closed-within-a-chunk", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    broken("half-closed-before-the-last-chunk", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    broken("half-closed-before-the-empty-line-of-the-last-chunk", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
];

/// A body that breaks off: at most a part of the message is seen.
const fn broken(name: &'static str, sends: &'static [u8], whole: &'static [u8]) -> Request {
    Request {
        name,
        source: INCOMPLETE,
        sends: Raw::Bytes(sends),
        half_closed: true,
        answers: &[400],
        task_sees: Raw::Bytes(whole),
        cut: true,
        after: After::Closed,
    }
}
