use super::*;
use crate::message::authority;

const MAX_TARGET: usize = 16 * 1024;

fn refused(bytes: &str) -> Refused {
    request(bytes.as_bytes(), MAX_TARGET).expect_err(bytes)
}

fn taken(bytes: &str) -> Parsed<RequestHead> {
    let parsed = request(bytes.as_bytes(), MAX_TARGET).expect(bytes);
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
fn a_reason_stays_as_it_is() {
    for (came, left) in [
        (
            &b"HTTP/1.1 200 Tr\xe8s bien\r\n\r\n"[..],
            &b"HTTP/1.1 200 Tr\xe8s bien\r\n\r\n"[..],
        ),
        (b"HTTP/1.1 200 \r\n\r\n", b"HTTP/1.1 200 \r\n\r\n"),
        (
            b"HTTP/1.0 200\r\nX: 1\r\n\r\n",
            b"HTTP/1.1 200 \r\nX: 1\r\n\r\n",
        ),
    ] {
        let parsed = response(came, &Method::GET).unwrap().unwrap();
        let mut written = Vec::new();
        write_response(&parsed.head, &mut written);
        assert_eq!(written, left);
    }
}

#[test]
fn nothing_stands_before_a_status_line() {
    for bytes in [
        "\r",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        assert!(
            response(bytes.as_bytes(), &Method::GET).is_err(),
            "{bytes:?}"
        );
    }
}

#[test]
fn every_prefix_of_a_head_is_incomplete() {
    let text = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for end in 0..text.len() {
        let parsed = request(&text.as_bytes()[..end], MAX_TARGET);
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
        "Host: u@a",
        "Host: a:65536",
        "Host: a b",
        "Host: a\r\nContent-Length: 9223372036854775808",
        "Host: a\r\nContent-Length: 5,5",
        "Host: a\r\nTransfer-Encoding: chunked,",
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
        "GET /a#b HTTP/1.1",
        "GET ftp://a/ HTTP/1.1",
        "GET http://a,b/ HTTP/1.1",
        "GET http://a#b HTTP/1.1",
        "GET a:80 HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "CONNECT a HTTP/1.1",
        "GET /  HTTP/1.1",
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
fn a_version_that_is_not_ours_is_told_from_what_is_no_version() {
    for (version, expected) in [
        ("HTTP/1.2", true),
        ("HTTP/2.0", true),
        ("HTTP/0.9", true),
        ("HTTP/1", false),
        ("http/1.1", false),
        ("HTTP/x.y", false),
        ("x HTTP/2.0", false),
        ("", false),
    ] {
        let refused = refused(&format!("GET / {version}\r\nHost: a\r\n\r\n"));
        assert_eq!(refused == Refused::Version, expected, "{version:?}");
    }
}

#[test]
fn a_few_empty_lines_before_a_request_are_passed_over() {
    let rest = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let most = "\r\n".repeat(MAX_EMPTY_LINES);
    assert_eq!(taken(&format!("{most}{rest}")).head.target(), b"/");
    assert!(matches!(request(most.as_bytes(), MAX_TARGET), Ok(None)));
    refused(&format!("{most}\r\n"));
    refused("\n");
    refused("\r\n\n");
}

#[test]
fn equal_lengths_leave_as_one() {
    let head =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX: 1\r\ncontent-length: 03\r\n\r\n";
    let fields = taken(head).head.fields;
    let lengths: Vec<_> = fields.values(Known::ContentLength).collect();
    assert_eq!(lengths, [b"3"]);
    assert_eq!(fields.iter().count(), 3);
}

#[test]
fn a_target_is_bounded_before_its_line_has_ended() {
    let read = |target: usize, rest: &str| {
        let head = format!("GET /{}{rest}", "x".repeat(target - 1));
        request(head.as_bytes(), 100).map(|parsed| parsed.is_some())
    };
    let rest = " HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(read(100, rest), Ok(true));
    assert_eq!(read(101, rest), Err(Refused::TargetTooLong));
    let limits = Limits {
        head: 1000,
        target: 100,
    };
    let exceeded = |head: &str| limits.exceeded_by(head.as_bytes());
    let line = |length| "x".repeat(length);
    assert_eq!(exceeded(&line(100 + AROUND_TARGET - 1)), None);
    assert_eq!(
        exceeded(&line(100 + AROUND_TARGET)),
        Some(Refused::TargetTooLong)
    );
    assert_eq!(exceeded(&format!("\n{}", line(998))), None);
    assert_eq!(
        exceeded(&format!("\n{}", line(999))),
        Some(Refused::TooLarge)
    );
    let short = Limits {
        head: 50,
        target: 100,
    };
    assert_eq!(
        short.exceeded_by(line(50).as_bytes()),
        Some(Refused::TargetTooLong)
    );
}

#[test]
fn bytes_of_a_target_that_are_no_utf_8_pass_as_they_came() {
    let text = b"\r\nGET /caf\xe9?\xff HTTP/1.1\r\nHost: a\r\nX: \xe9\r\n\r\n";
    let parsed = request(text, MAX_TARGET).unwrap().expect("it is complete");
    let mut written = Vec::new();
    write_request(&parsed.head, &mut written);
    assert_eq!(written, text[2..]);
    assert!(request(b"G\xe9T /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", MAX_TARGET).is_err());
    assert!(request(b"GET /\xe9 HTTP/1.1\r\nH\xe9: a\r\n\r\n", MAX_TARGET).is_err());
}

/// Every byte that one of http's types lets through leaves in a head that is read back as just what it was.
#[test]
fn nothing_that_came_by_http2_adds_a_line_to_a_head() {
    use http::uri::{Authority, PathAndQuery};
    let mut passed = [0; 4];
    for byte in 0..=255u8 {
        let with = |before: &[u8]| [before, &[byte], b"z"].concat();
        let (path, host, name) = (with(b"/a"), with(b"a"), with(b"x-a"));
        let path = PathAndQuery::try_from(&path[..]).unwrap_or(PathAndQuery::from_static("/"));
        let host = Authority::try_from(&host[..]).ok();
        let host = host.filter(|host| authority::is_authority(host.as_str().as_bytes()));
        let host = host.unwrap_or(Authority::from_static("a"));
        let uri = http::Uri::builder().scheme("http").authority(host.clone());
        let uri = uri.path_and_query(path.clone()).build().unwrap();
        let mut message = http::Request::new(());
        *message.uri_mut() = uri;
        *message.version_mut() = Version::HTTP_2;
        if let Ok(method) = Method::from_bytes(&with(b"A")) {
            *message.method_mut() = method;
            passed[0] += 1;
        }
        let value = http::HeaderValue::from_bytes(&with(b"b"));
        let value = value.unwrap_or(http::HeaderValue::from_static("b"));
        if let Ok(name) = http::HeaderName::from_bytes(&name) {
            message.headers_mut().insert(name, value.clone());
            passed[1] += 1;
        }
        message.headers_mut().insert("x-value", value.clone());
        passed[2] += usize::from(path != "/");
        passed[3] += usize::from(value != "b");

        let method = message.method().clone();
        let count = message.headers().len();
        let mut head = RequestHead::from_h2(message.into_parts().0);
        head.ensure_host(String::new);
        let mut written = Vec::new();
        write_request(&head, &mut written);
        let read = request(&written, MAX_TARGET).unwrap_or_else(|error| panic!("{byte}: {error}"));
        let read = read.expect("it is complete");
        assert_eq!(read.length, written.len(), "{byte}");
        assert_eq!(read.head.method, method);
        assert_eq!(read.head.target(), path.as_str().as_bytes());
        assert_eq!(read.head.authority(), host.as_str().as_bytes());
        assert_eq!(read.head.fields.iter().count(), count + 1, "{byte}");
        let kept = read.head.fields.named(b"x-value").next();
        assert_eq!(kept, Some(value.as_bytes()));
    }
    assert!(passed.iter().all(|count| *count > 50), "{passed:?}");
}

#[test]
fn an_absolute_target_says_the_host() {
    for (target, path) in [
        ("http://orders:80?b", "/?b"),
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
fn options_of_a_connection_are_bounded() {
    let head = |count| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n",
            "a,".repeat(count)
        )
    };
    assert!(taken(&head(MAX_OPTIONS - 1)).keep_alive);
    assert_eq!(refused(&head(MAX_OPTIONS)), Refused::TooLarge);
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

/// Heads that are nearly right, changed at random: what is taken leaves as lines that are read back as the same message.
#[test]
fn what_is_taken_is_written_as_just_that() {
    use rand::rngs::SmallRng;
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};
    const SEEDS: [&[u8]; 4] = [
        b"GET /a?b HTTP/1.1\r\nHost: a:80\r\nX: 1\r\nx: 2\r\nConnection: close\r\n\r\n",
        b"POST http://a/b HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        b"PUT /?a HTTP/1.0\r\nContent-Length: 5\r\nX: a\r\nHost: [::1]\r\n\r\n",
        b"OPTIONS http://a HTTP/1.1\r\nHost: \r\nTransfer-Encoding: chunked\r\nX:\ty \r\n\r\n",
    ];
    const PIECES: [&[u8]; 24] = [
        b"\r",
        b"\n",
        b"\r\n",
        b"\0",
        b" ",
        b"\t",
        b"\x0b",
        b"\x7f",
        b"\xe9",
        b"\xc3\xa9",
        b":",
        b"/",
        b"?",
        b"#",
        b"@",
        b"[",
        b"%",
        b",",
        b"0",
        b"1",
        b"chunked",
        b"HTTP/1.1",
        b"Host: a",
        b"Content-Length: 3",
    ];
    let mut random = SmallRng::seed_from_u64(9112);
    let mut taken = 0;
    for _ in 0..50_000 {
        let mut head = SEEDS.choose(&mut random).expect("there are some").to_vec();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..head.len());
            let end = random.random_range(at..=head.len().min(at + 2));
            let piece = PIECES.choose(&mut random).expect("there are some");
            head.splice(at..end, piece.iter().copied());
        }
        let Ok(Some(first)) = request(&head, MAX_TARGET) else {
            continue;
        };
        taken += 1;
        let mut head = first.head;
        head.ensure_host(|| "task:1".to_owned());
        let mut written = Vec::new();
        write_request(&head, &mut written);
        let shown = written.escape_ascii();
        let again =
            request(&written, MAX_TARGET).unwrap_or_else(|error| panic!("{shown}: {error}"));
        let again = again.unwrap_or_else(|| panic!("{shown}: not whole"));
        assert_eq!(again.length, written.len(), "{shown}");
        assert_eq!(again.framing, first.framing, "{shown}");
        assert_eq!(again.head.target(), head.target(), "{shown}");
        let fields = |head: &RequestHead| {
            let fields = head.fields.iter();
            fields
                .map(|(_, name, value)| [name, b":", value].concat())
                .collect::<Vec<_>>()
        };
        assert_eq!(fields(&again.head), fields(&head), "{shown}");
        let line_ends = memchr::memchr2_iter(b'\r', b'\n', &written).count();
        assert_eq!(line_ends, 2 * (fields(&head).len() + 2), "{shown}");
    }
    assert!(taken > 2_000, "only {taken}");
}
