//! An HTTP/1.1 response: its head read, written and read again, and its body read in whatever pieces it comes.

use http::Method;
use outrigger_proxy::fuzzing::{self, Body, Length};

use crate::{assert_lines, pieces};

/// Bodies below the limits on lines and trailers, which may show earlier where a body comes in pieces.
const SHORT: usize = 4000;

/// As the answer to several methods.
pub fn check(bytes: &[u8]) {
    for method in [Method::GET, Method::HEAD] {
        answer(bytes, &method);
    }
}

fn answer(bytes: &[u8], method: &Method) {
    let Ok(Some(head)) = fuzzing::response(bytes, method) else {
        return;
    };
    for end in 0..head.length.min(256) {
        let early = fuzzing::response(&bytes[..end], method);
        assert!(matches!(early, Ok(None)), "{early:?} after {end} bytes");
    }
    let wire = head.write();
    assert_lines(&wire, head.fields().len());
    let again = fuzzing::response(&wire, method)
        .unwrap_or_else(|why| panic!("{why}: {:?}", String::from_utf8_lossy(&wire)))
        .expect("what was written is a whole head");
    assert_eq!(again.status(), head.status());
    assert_eq!(again.fields(), head.fields());
    assert_eq!(again.body, head.body);
    body(head.body, &bytes[head.length..]);
}

fn body(length: Length, bytes: &[u8]) {
    let whole = fuzzing::body(length, [bytes]);
    if let Length::Bytes(length) = length {
        let there = usize::try_from(length).map_or(bytes.len(), |length| length.min(bytes.len()));
        assert_eq!(whole.data, &bytes[..there]);
    }
    for step in [0, 1, 2, 7] {
        let cut = fuzzing::body(length, pieces(bytes, step));
        let refused = |body: &Body| matches!(body.end, Some(Err(_)));
        if refused(&whole) || refused(&cut) {
            // How much was passed on before it is a matter of timing.
            let (one, other) = (&whole.data, &cut.data);
            assert!(one.starts_with(other) || other.starts_with(one));
            assert!(
                bytes.len() > SHORT || refused(&whole) == refused(&cut),
                "{whole:?} {cut:?}"
            );
        } else {
            assert_eq!(whole, cut, "in pieces of {step}");
        }
    }
}
