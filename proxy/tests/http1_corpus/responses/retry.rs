//! What is tried again when an answer is none: idempotent requests, before anything of an answer was passed on.

use crate::cases::{ANSWER, Response, Step, bad, broken, seen, send};

const IDEMPOTENT: &str = "RFC 9110 9.2.2";
const SAFE: &str = "RFC 9112 9.3.1";

const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
const PUT: &[u8] = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
const TWO_LENGTHS: &[Step] = &[send(
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
)];
const TOO_MUCH: &[Step] = &[send(
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and more",
)];
const TOO_LITTLE: &[Step] = &[Step::Last(
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi",
)];
const HALF_A_HEAD: &[Step] = &[send(b"HTTP/1.1 200 OK\r\nContent-Le"), Step::Close];

#[rustfmt::skip]
pub(crate) const CASES: &[Response] = &[
    seen("get-after-a-malformed-answer", IDEMPOTENT, TWO_LENGTHS, ANSWER).retried(),
    seen("get-after-too-much", IDEMPOTENT, TOO_MUCH, ANSWER).retried(),
    seen("get-after-too-little", IDEMPOTENT, TOO_LITTLE, ANSWER).retried(),
    seen("get-after-half-a-head", IDEMPOTENT, HALF_A_HEAD, ANSWER).retried(),
    seen("get-after-nothing", SAFE, &[Step::Close], ANSWER).retried(),
    seen("get-after-a-reset", SAFE, &[Step::Reset], ANSWER).retried(),
    seen("put-after-a-malformed-answer", IDEMPOTENT, TWO_LENGTHS, ANSWER).to(PUT).retried(),
    seen("put-after-nothing", IDEMPOTENT, &[Step::Close], ANSWER).to(PUT).retried(),
    bad("post-after-a-malformed-answer", IDEMPOTENT, TWO_LENGTHS).to(POST).retried(),
    bad("post-after-too-much", IDEMPOTENT, TOO_MUCH).to(POST).retried(),
    bad("post-after-half-a-head", IDEMPOTENT, HALF_A_HEAD).to(POST).retried(),
    bad("post-after-nothing", SAFE, &[Step::Close]).to(POST).unavailable().retried(),
    broken("get-after-its-head-was-passed-on", IDEMPOTENT,
        &[send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi"), Step::Read, Step::Close],
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", "UC").retried(),
];
