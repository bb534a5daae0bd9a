use super::*;

fn refused(bytes: &str) -> Refused {
    request(bytes.as_bytes()).expect_err(bytes)
}

fn taken(bytes: &str) -> Parsed<RequestHead> {
    let parsed = request(bytes.as_bytes()).expect(bytes);
    parsed.expect("the head is complete")
}

#[test]
fn a_request_is_written_as_it_came() {
    let text = "GET /a?b=c HTTP/1.1\r\nHOST: orders\r\nX-B: 1\r\naccept: x\r\nx-b: 2\r\n\r\n";
    let parsed = taken(&format!("{text}more"));
    assert_eq!(parsed.length, text.len());
    assert_eq!(parsed.framing, Framing::Length(0));
    assert!(parsed.keep_alive);
    assert_eq!(parsed.head.path(), b"/a");
    let mut written = Vec::new();
    write_request(&parsed.head, &mut written);
    assert_eq!(String::from_utf8_lossy(&written), text);
}

#[test]
fn a_response_is_written_as_it_came() {
    let text = "HTTP/1.1 404 Nothing Here\r\nX: 1\r\nSet-Cookie: a\r\nY: 2\r\nSet-Cookie: b\r\n\
                Content-Length: 3\r\n\r\n";
    let parsed = response(text.as_bytes(), &Method::GET).unwrap().unwrap();
    assert_eq!(parsed.framing, Framing::Length(3));
    let mut written = Vec::new();
    write_response(&parsed.head, &mut written);
    assert_eq!(String::from_utf8_lossy(&written), text);
}

#[test]
fn every_prefix_of_a_head_is_incomplete() {
    let text = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for end in 0..text.len() {
        let parsed = request(&text.as_bytes()[..end]);
        assert!(matches!(parsed, Ok(None)), "{end}: {parsed:?}");
    }
    assert_eq!(taken(text).framing, Framing::Chunked);
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    for head in [
        "Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        "Host: a\r\nContent-Length: 1\r\nContent-Length: 2",
        "Host: a\r\nContent-Length: 1, 1",
        "Host: a\r\nContent-Length: +1",
        "Host: a\r\nContent-Length: 0x1",
        "Host: a\r\nContent-Length: ",
        "Host: a\r\nContent-Length: 18446744073709551616",
        "Host: a\r\nTransfer-Encoding: chunked, identity",
        "Host: a\r\nTransfer-Encoding: xchunked",
        "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Host: a\r\nTransfer-Encoding: \u{b}chunked",
        "Host: a\r\nX: a\r\n b",
        "Host: a\r\nX : a",
        "Host: a\r\nX: a\0b",
        "Host: a\nX: b",
        "Host: a\r\nX: a\rb",
        "Host: a\r\nHost: a",
        "X: without host",
    ] {
        refused(&format!("POST / HTTP/1.1\r\n{head}\r\n\r\n"));
    }
    for line in [
        "GET  / HTTP/1.1",
        "GET http://a@b/ HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET ?x HTTP/1.1",
        "GET * HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET / HTTP/2.0",
    ] {
        refused(&format!("{line}\r\nHost: a\r\n\r\n"));
    }
    refused("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(
        taken("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n")
            .framing,
        Framing::Length(1)
    );
}

#[test]
fn an_absolute_target_says_the_host() {
    for (target, path) in [
        ("http://orders:80/a?b", "/a?b"),
        ("http://orders:80", "/"),
        ("HTTP://orders:80/", "/"),
    ] {
        let mut head = taken(&format!("GET {target} HTTP/1.1\r\nHost: other\r\n\r\n")).head;
        assert_eq!(head.target(), path.as_bytes(), "{target}");
        head.ensure_host(|| unreachable!("the target has one"));
        assert_eq!(head.fields.value(Known::Host), Some(&b"orders:80"[..]));
    }
}

#[test]
fn the_version_and_connection_say_whether_it_stays() {
    for (version, connection, stays) in [
        ("1.1", "x", true),
        ("1.1", "keep-alive, Close", false),
        ("1.0", "x", false),
        ("1.0", "Keep-Alive", true),
    ] {
        let head = format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n");
        assert_eq!(taken(&head).keep_alive, stays, "{version} {connection}");
    }
}

#[test]
fn a_response_that_has_no_body_has_none_whatever_it_promises() {
    let promises = "Content-Length: 5\r\n\r\n";
    for (status, method, framing) in [
        (200, Method::GET, Framing::Length(5)),
        (200, Method::HEAD, Framing::Length(0)),
        (204, Method::GET, Framing::Length(0)),
        (304, Method::GET, Framing::Length(0)),
        (103, Method::GET, Framing::Length(0)),
    ] {
        let text = format!("HTTP/1.1 {status} X\r\n{promises}");
        let parsed = response(text.as_bytes(), &method).unwrap().unwrap();
        assert_eq!(parsed.framing, framing, "{status} {method}");
    }
    let open = response(b"HTTP/1.1 200 OK\r\n\r\n", &Method::GET).unwrap();
    let open = open.unwrap();
    assert_eq!(
        (open.framing, open.keep_alive),
        (Framing::UntilClose, false)
    );
}
