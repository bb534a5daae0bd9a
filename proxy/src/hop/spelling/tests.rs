use http::StatusCode;

use super::*;
use crate::http1::head;

fn request(text: &[u8]) -> RequestHead {
    let parsed = head::request(text, 9999).expect("it is one");
    parsed.expect("it is whole").head
}

fn response(text: &[u8]) -> ResponseHead {
    let parsed = head::response(text, &Method::GET).expect("it is one");
    parsed.expect("it is whole").head
}

fn written(head: &RequestHead) -> String {
    let mut text = Vec::new();
    head::write_request(head, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn across(head: &mut RequestHead, told: Option<&HeaderValue>) -> (RequestHead, Try) {
    let request = h2_request(head, told).expect("it travels");
    from_h2_request(request.into_parts().0)
}

const REQUEST: &[u8] = b"POST /a?b=[c] HTTP/1.1\r\nX-oDD: 1\r\nHOST: Orders:80\r\nx-Rep: a\r\nCookie: a=1\r\nX-REP: b\r\nCookie: b=2\r\n\
    transfer-encoding: chunked\r\nX-Empty: \r\nX-Bytes: \xe9 \xff\r\nTE: trailers\r\nx-rep: c\r\n\r\n";

#[test]
fn a_request_arrives_as_it_was_written() {
    let mut head = request(REQUEST);
    assert!(travels(&head));
    let told = Try {
        attempt: 2,
        left: None,
    };
    let (arrived, heard) = across(&mut head, told.value().as_ref());
    assert_eq!(written(&arrived), String::from_utf8_lossy(REQUEST));
    assert_eq!((heard, arrived.version), (told, Version::HTTP_11));
    // And again, as it is done for another attempt.
    assert_eq!(written(&across(&mut head, None).0), written(&head));
}

#[test]
fn the_target_alone_may_name_the_host() {
    let mut head = request(b"GET http://orders/x HTTP/1.0\r\nA: 1\r\n\r\n");
    assert!(travels(&head));
    let arrived = across(&mut head, None).0;
    assert_eq!(
        written(&arrived),
        "GET /x HTTP/1.1\r\nA: 1\r\nhost: orders\r\n\r\n"
    );
}

#[test]
fn a_request_by_http2_is_told_nothing_about() {
    let mut given = Request::get("http://orders/x")
        .header("a", "1")
        .body(())
        .unwrap();
    *given.version_mut() = Version::HTTP_2;
    let mut head = RequestHead::from_h2(given.into_parts().0);
    let sent = h2_request(&mut head, None).expect("it travels");
    assert_eq!(sent.headers().len(), 1);
    assert_eq!(
        from_h2_request(sent.into_parts().0).0.version,
        Version::HTTP_2
    );
}

#[test]
fn what_http2_would_change_goes_by_http1() {
    let long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "a".repeat(MAX_TEXT)
    );
    for text in [
        "GET /a\"b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a{b} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a`b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a|b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a%41\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:\r\n\r\n",
        &long,
    ] {
        assert!(!travels(&request(text.as_bytes())), "{text}");
    }
    // What is said to travel is never refused by those who carry it.
    for byte in 0x21..=0x7e_u8 {
        let text = format!("GET /a{0}?b{0} HTTP/1.1\r\nHost: a\r\n\r\n", byte as char);
        let Ok(Some(parsed)) = head::request(text.as_bytes(), 99) else {
            continue;
        };
        let mut head = parsed.head;
        if travels(&head) {
            assert_eq!(written(&across(&mut head, None).0), text);
        }
    }
}

#[test]
fn a_response_arrives_as_it_was_written() {
    for text in [
        &b"HTTP/1.1 299 Quite (OK), \xe9 \r\nsErVeR: x\r\nSet-Cookie: a=1\r\nX: 2\r\nset-cookie: b=2\r\nContent-LENGTH: 2\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nHost: x\r\n\r\n",
        b"HTTP/1.1 200 \r\n\r\n",
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: foo/2\r\nB: 1\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLINK: </b>\r\n\r\n",
    ] {
        let sent = h2_response(&mut response(text));
        for name in ["upgrade", "transfer-encoding", "connection"] {
            assert!(!sent.headers().contains_key(name), "{name}");
        }
        let head = from_h2_response(sent.into_parts().0).expect("it is one");
        let mut arrived = Vec::new();
        head::write_response(&head, &mut arrived);
        assert_eq!(String::from_utf8_lossy(&arrived), String::from_utf8_lossy(text));
    }
}

#[test]
fn trailers_arrive_as_they_were_written() {
    let mut fields = head::trailers(b"X-Sum: 7\r\nx-LAST: \xe9\r\n\r\n").expect("they are");
    let arrived = from_h2_trailers(h2_trailers(&mut fields));
    let same = arrived.iter().zip(fields.iter()).all(|(a, b)| a == b);
    assert!(same && arrived.iter().count() == 2, "{arrived:?}");
}

#[test]
fn a_list_that_is_not_of_the_fields_loses_none_and_makes_none() {
    let mut map = HeaderMap::new();
    for (name, value) in [("a", "1"), ("a", "2"), ("b", "3")] {
        map.append(name, HeaderValue::from_static(value));
    }
    let list = HeaderValue::from_static("B,C,,A,outrigger-try,b");
    map.insert(CASE, list);
    let fields = from_map(map, Some(b"host"));
    let all: Vec<_> = fields
        .iter()
        .map(|(_, name, value)| (name, value))
        .collect();
    let expected = [("B", "3"), ("A", "1"), ("host", "host"), ("a", "2")];
    assert_eq!(all, expected.map(|(n, v)| (n.as_bytes(), v.as_bytes())));
}

#[test]
fn lists_are_bounded_and_made_once() {
    let fields = |count: usize, length: usize| {
        let mut fields = Fields::default();
        for number in 0..count {
            fields.push(&format!("X-{number:0length$}"), b"");
        }
        fields
    };
    let list = |fields: &Fields| to_map(fields, false).remove(CASE);
    let short = fields(3, 4);
    let (one, two) = (list(&short).unwrap(), list(&short).unwrap());
    assert_eq!(one.as_bytes().as_ptr(), two.as_bytes().as_ptr());
    assert!(!one.is_sensitive());
    // Other lists push it out, and it is made again.
    for count in 4..4 + KEPT {
        list(&fields(count, 4)).unwrap();
    }
    assert_ne!(
        one.as_bytes().as_ptr(),
        list(&short).unwrap().as_bytes().as_ptr()
    );
    assert!(list(&fields(20, 100)).unwrap().is_sensitive());
    assert_eq!(list(&fields(100, 100)), None);
}

#[test]
fn a_status_without_words_of_its_own_is_sent_without() {
    let mut head = ResponseHead::new(StatusCode::OK);
    head.fields.push("a", b"1");
    assert!(!h2_response(&mut head).headers().contains_key(REASON));
}

#[test]
fn a_message_with_more_fields_than_http1_has_is_taken_as_it_came() {
    let with = |count: usize| {
        let mut request = Request::get("http://orders/x").header(CASE, "X-0");
        for number in 0..count {
            request = request.header(format!("x-{number}"), "1");
        }
        let (head, _) = from_h2_request(request.body(()).unwrap().into_parts().0);
        head.version
    };
    assert_eq!(with(MAX_FIELDS - 1), Version::HTTP_11);
    assert_ne!(with(MAX_FIELDS), Version::HTTP_11);
}
