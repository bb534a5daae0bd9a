//! Requests that are malformed, and what of them may reach an application that speaks HTTP/1.1: RFC 9113 section 8.

use crate::verdict::{closed, malformed, stream_error};
use crate::wire::*;
use crate::world::{World, answered, status};
use crate::{Case, client};

/// Sends a header block as a request without a body: it is malformed, and nothing of it reaches the application.
fn refused(world: &World, block: &[u8]) {
    let mut conn = world.client();
    let before = world.requests();
    conn.send(&frame(HEADERS, WHOLE, 1, block));
    malformed(&mut conn, 1);
    let after = world.requests();
    let came = &after[before.len()..];
    assert!(
        !came.iter().any(|seen| seen.head.contains("malformed")),
        "{came:?}"
    );
}

/// The same for pseudo-header fields and fields in order.
fn refused_fields(world: &World, fields: &[(&str, &str)]) {
    refused(world, &block(fields));
}

/// A GET with these fields, which is malformed.
fn refused_with(world: &World, fields: &[(&str, &str)]) {
    refused(world, &request("GET", "/malformed", fields));
}

/// A GET with a field of these bytes.
fn refused_bytes(world: &World, name: &[u8], value: &[u8]) {
    refused(
        world,
        &[
            &request("GET", "/malformed", &[])[..],
            &literal(name, value),
        ]
        .concat(),
    );
}

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const PATH: (&str, &str) = (":path", "/malformed");
const AUTHORITY: (&str, &str) = (":authority", "app");

/// A POST with `fields`, DATA frames and perhaps trailers, which is malformed.
fn refused_body(world: &World, fields: &[(&str, &str)], frames: &[Vec<u8>]) {
    let mut conn = world.client();
    conn.send(&frame(
        HEADERS,
        END_HEADERS,
        1,
        &request("POST", "/bad-body", fields),
    ));
    conn.send_all(frames);
    malformed(&mut conn, 1);
    let whole = |seen: &crate::world::Seen| seen.whole && !seen.body.is_empty();
    let seen = world.seen("/bad-body");
    assert!(!seen.iter().any(whole), "{seen:?}");
}

fn data(flags: u8, text: &[u8]) -> Vec<u8> {
    frame(DATA, flags, 1, text)
}

fn trailers(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &block(fields))
}

/// The status of the answer to a block.
fn answer_to(world: &World, block: &[u8]) -> u16 {
    let mut conn = world.client();
    conn.send(&frame(HEADERS, WHOLE, 1, block));
    let status = status(&mut conn, 1);
    conn.pinged();
    status
}

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    client("8.1 a second HEADERS without END_STREAM", "RFC 9113 §8.1", "http2/8.1/1", |world| {
        let second = frame(HEADERS, END_HEADERS, 1, &block(&[("x-test", "ok")]));
        refused_body(world, &[], &[data(0, b"test"), second]);
    }),
    client("8.2 an upper-case name", "RFC 9113 §8.2.1", "http2/8.1.2/1", |world| {
        refused_with(world, &[("X-TEST", "ok")]);
    }),
    client("8.2.1 an upper-case name in Huffman code", "RFC 9113 §8.2.1", "", |world| {
        // `A` is 100001 and seven bits of padding are too many: `AA` has twelve bits.
        let block = [&request("GET", "/malformed", &[])[..], &[0, 0x82, 0x86, 0x1f, 1, b'x']].concat();
        refused(world, &block);
    }),
    client("8.2.1 a space in a name", "RFC 9113 §8.2.1", "", |world| refused_bytes(world, b"x test", b"ok")),
    client("8.2.1 a colon in a name", "RFC 9113 §8.2.1", "", |world| refused_bytes(world, b"x:test", b"ok")),
    client("8.2.1 a quote in a name", "RFC 9113 §8.2.1", "", |world| refused_bytes(world, b"x\"y", b"ok")),
    client("8.2.1 a line end in a name", "RFC 9113 §8.2.1", "", |world| refused_bytes(world, b"x\r\ny", b"ok")),
    client("8.2.1 DEL in a name", "RFC 9113 §8.2.1", "", |world| refused_bytes(world, b"x\x7fy", b"ok")),
    client("8.2.1 a byte above 0x7f in a name", "RFC 9113 §8.2.1", "", |world| refused_bytes(world, b"x\xffy", b"ok")),
    client("8.2.1 CR LF in a value", "RFC 9113 §8.2.1, §10.3", "", |world| {
        refused_bytes(world, b"x-test", b"a\r\nx-smuggled: malformed");
    }),
    client("8.2.1 CR in a value", "RFC 9113 §8.2.1", "", |world| refused_bytes(world, b"x-test", b"a\rb")),
    client("8.2.1 LF in a value", "RFC 9113 §8.2.1", "", |world| refused_bytes(world, b"x-test", b"a\nb")),
    client("8.2.1 NUL in a value", "RFC 9113 §8.2.1", "", |world| refused_bytes(world, b"x-test", b"a\0b")),
    client("8.2.1 a space before a value", "RFC 9113 §8.2.1", "", |world| refused_bytes(world, b"x-test", b" ok")),
    client("8.2.1 a space behind a value", "RFC 9113 §8.2.1", "", |world| refused_bytes(world, b"x-test", b"ok ")),
    client("8.2.1 a tab before a value", "RFC 9113 §8.2.1", "", |world| refused_bytes(world, b"x-test", b"\tok")),
    client("8.2.1 a tab behind a value", "RFC 9113 §8.2.1", "", |world| refused_bytes(world, b"x-test", b"ok\t")),
    client("8.2.1 a value that is empty", "RFC 9113 §8.2.1", "", |world| {
        assert_eq!(answer_to(world, &request("GET", "/", &[("x-empty", "")])), 200);
    }),
    client("8.2.2 Connection", "RFC 9113 §8.2.2", "http2/8.1.2.2/1", |world| {
        refused_with(world, &[("connection", "keep-alive")]);
    }),
    client("8.2.2 Keep-Alive", "RFC 9113 §8.2.2", "", |world| refused_with(world, &[("keep-alive", "timeout=5")])),
    client("8.2.2 Proxy-Connection", "RFC 9113 §8.2.2", "", |world| {
        refused_with(world, &[("proxy-connection", "keep-alive")]);
    }),
    client("8.2.2 Transfer-Encoding", "RFC 9113 §8.2.2", "", |world| {
        refused_with(world, &[("transfer-encoding", "chunked")]);
    }),
    client("8.2.2 Upgrade", "RFC 9113 §8.2.2", "", |world| refused_with(world, &[("upgrade", "websocket")])),
    client("8.2.2 TE that is not trailers", "RFC 9113 §8.2.2", "http2/8.1.2.2/2", |world| {
        refused_with(world, &[("te", "trailers, deflate")]);
    }),
    client("8.2.2 TE: trailers", "RFC 9113 §8.2.2", "", |world| {
        assert_eq!(answer_to(world, &request("GET", "/", &[("te", "trailers")])), 200);
    }),
    client("8.2.3 cookie crumbs become one field", "RFC 9113 §8.2.3", "", |world| {
        let fields = [("cookie", "a=1"), ("cookie", "b=2")];
        assert_eq!(answer_to(world, &request("GET", "/crumbs", &fields)), 200);
        assert!(world.seen("/crumbs")[0].head.contains("cookie: a=1; b=2\r\n"));
    }),
    client("8.3 an unknown pseudo-header field", "RFC 9113 §8.3", "http2/8.1.2.1/1", |world| {
        refused_fields(world, &[METHOD, SCHEME, PATH, AUTHORITY, (":test", "ok")]);
    }),
    client("8.3 a response's pseudo-header field", "RFC 9113 §8.3", "http2/8.1.2.1/2", |world| {
        refused_fields(world, &[METHOD, SCHEME, PATH, AUTHORITY, (":status", "200")]);
    }),
    client("8.3 a pseudo-header field in trailers without END_STREAM", "RFC 9113 §8.3", "http2/8.1.2.1/3", |world| {
        let second = frame(HEADERS, END_HEADERS, 1, &block(&[(":method", "POST")]));
        refused_body(world, &[], &[data(0, b"test"), second]);
    }),
    client("8.3 a pseudo-header field in trailers, spelt out", "RFC 9113 §8.3", "", |world| {
        refused_body(world, &[], &[data(0, b"test"), trailers(&[(":path", "/smuggled")])]);
    }),
    client("8.3 a pseudo-header field in trailers, indexed", "RFC 9113 §8.3", "", |world| {
        for block in [&[0x83][..], &[0x88], &[0x44, 2, b'/', b'x'], &[0x04, 2, b'/', b'x'], &[0x00, 0x84, 0xb8, 0xff, 0xff, 0xff]] {
            refused_body(world, &[], &[data(0, b"test"), frame(HEADERS, WHOLE, 1, block)]);
        }
    }),
    client("8.3 a pseudo-header field behind others", "RFC 9113 §8.3", "http2/8.1.2.1/4", |world| {
        refused_fields(world, &[("x-test", "ok"), METHOD, SCHEME, PATH, AUTHORITY]);
    }),
    client("8.3 one pseudo-header field behind others", "RFC 9113 §8.3", "", |world| {
        refused_fields(world, &[METHOD, SCHEME, AUTHORITY, ("x-test", "ok"), PATH]);
    }),
    client("8.3.1 an empty :path", "RFC 9113 §8.3.1", "http2/8.1.2.3/1", |world| {
        refused_fields(world, &[METHOD, SCHEME, (":path", ""), AUTHORITY]);
    }),
    client("8.3.1 no :method", "RFC 9113 §8.3.1", "http2/8.1.2.3/2", |world| {
        refused_fields(world, &[SCHEME, PATH, AUTHORITY]);
    }),
    client("8.3.1 no :scheme", "RFC 9113 §8.3.1", "http2/8.1.2.3/3", |world| {
        refused_fields(world, &[METHOD, PATH, AUTHORITY]);
    }),
    client("8.3.1 no :path", "RFC 9113 §8.3.1", "http2/8.1.2.3/4", |world| {
        refused_fields(world, &[METHOD, SCHEME, AUTHORITY]);
    }),
    client("8.3.1 no :path, and Host for :authority", "RFC 9113 §8.3.1", "", |world| {
        refused_fields(world, &[METHOD, SCHEME, ("host", "app")]);
    }),
    client("8.3.1 :method twice", "RFC 9113 §8.3.1", "http2/8.1.2.3/5, 8.1.2.3/7", |world| {
        refused_fields(world, &[METHOD, SCHEME, PATH, AUTHORITY, METHOD]);
    }),
    client("8.3.1 :scheme twice", "RFC 9113 §8.3.1", "http2/8.1.2.3/6", |world| {
        refused_fields(world, &[METHOD, SCHEME, PATH, AUTHORITY, SCHEME]);
    }),
    client("8.3.1 :path twice", "RFC 9113 §8.3.1", "", |world| {
        refused_fields(world, &[METHOD, SCHEME, PATH, AUTHORITY, (":path", "/other")]);
    }),
    client("8.3.1 :authority twice", "RFC 9113 §8.3.1", "", |world| {
        refused_fields(world, &[METHOD, SCHEME, PATH, AUTHORITY, (":authority", "other")]);
    }),
    client("8.3.1 a :path without a slash", "RFC 9113 §8.3.1", "", |world| {
        refused_fields(world, &[METHOD, SCHEME, (":path", "malformed"), AUTHORITY]);
    }),
    client("8.3.1 a :path that is a whole URI", "RFC 9113 §8.3.1", "", |world| {
        refused_fields(world, &[METHOD, SCHEME, (":path", "http://other/malformed"), AUTHORITY]);
    }),
    client("8.3.1 a :path that is a query", "RFC 9113 §8.3.1", "", |world| {
        refused_fields(world, &[METHOD, SCHEME, (":path", "?malformed"), AUTHORITY]);
    }),
    client("8.3.1 * as the :path of GET", "RFC 9113 §8.3.1", "", |world| {
        refused_fields(world, &[METHOD, SCHEME, (":path", "*"), AUTHORITY]);
    }),
    client("8.3.1 * as the :path of OPTIONS", "RFC 9113 §8.3.1", "", |world| {
        assert_eq!(answer_to(world, &request("OPTIONS", "*", &[])), 200);
        assert_eq!(world.seen("*").len(), 1);
    }),
    client("8.3.1 a space in :path", "RFC 9113 §8.3.1, §10.3", "", |world| {
        refused_fields(world, &[METHOD, SCHEME, (":path", "/malformed HTTP/1.1"), AUTHORITY]);
    }),
    client("8.3.1 CR LF in :path", "RFC 9113 §8.3.1, §10.3", "", |world| {
        let path = "/malformed HTTP/1.1\r\nhost: app\r\n\r\nGET /malformed";
        refused_fields(world, &[METHOD, SCHEME, (":path", path), AUTHORITY]);
    }),
    client("8.3.1 every control character and space in :path", "RFC 9113 §8.3.1", "", |world| {
        for byte in (0..=0x20).chain([0x7f]) {
            let path = [b"/malformed".as_slice(), &[byte], b"x"].concat();
            let pseudo = [block(&[METHOD, SCHEME, AUTHORITY]), literal(b":path", &path)].concat();
            refused(world, &pseudo);
        }
    }),
    client("8.3.1 a space in :method", "RFC 9113 §8.3.1, §10.3", "", |world| {
        refused_fields(world, &[(":method", "GET /malformed"), SCHEME, PATH, AUTHORITY]);
    }),
    client("8.3.1 CR LF in :method", "RFC 9113 §8.3.1, §10.3", "", |world| {
        refused_fields(world, &[(":method", "GET / HTTP/1.1\r\nx: malformed"), SCHEME, PATH, AUTHORITY]);
    }),
    client("8.3.1 an empty :method", "RFC 9113 §8.3.1", "", |world| {
        refused_fields(world, &[(":method", ""), SCHEME, PATH, AUTHORITY]);
    }),
    client("8.3.1 a method that nobody knows passes", "RFC 9110 §9.1", "", |world| {
        assert_eq!(answer_to(world, &request("BREW", "/brewed", &[])), 200);
        assert!(world.seen("/brewed")[0].head.starts_with("BREW /brewed HTTP/1.1\r\n"));
    }),
    client("8.3.1 CR LF in :authority", "RFC 9113 §8.3.1, §10.3", "", |world| {
        refused_fields(world, &[METHOD, SCHEME, PATH, (":authority", "app\r\nx: malformed")]);
    }),
    client("8.3.1 a space in :authority", "RFC 9113 §8.3.1", "", |world| {
        refused_fields(world, &[METHOD, SCHEME, PATH, (":authority", "app other")]);
    }),
    client("8.3.1 user information in :authority", "RFC 9113 §8.3.1", "", |world| {
        refused_fields(world, &[METHOD, SCHEME, PATH, (":authority", "user:secret@app")]);
        refused_fields(world, &[METHOD, SCHEME, PATH, (":authority", "user@app")]);
    }),
    client("8.3.1 a path in :authority", "RFC 9113 §8.3.1", "", |world| {
        for authority in ["app/malformed", "app?malformed", "app#malformed", "app\\malformed", "http://app"] {
            refused_fields(world, &[METHOD, SCHEME, PATH, (":authority", authority)]);
        }
    }),
    client("8.3.1 a port that is none in :authority", "RFC 9113 §8.3.1", "", |world| {
        for authority in ["app:x", "app:80:80", "app:-1", "app:123456"] {
            refused_fields(world, &[METHOD, SCHEME, PATH, (":authority", authority)]);
        }
    }),
    client("8.3.1 Host that is not :authority", "RFC 9113 §8.3.1", "", |world| {
        refused_with(world, &[("host", "other")]);
    }),
    client("8.3.1 Host twice", "RFC 9113 §8.3.1, RFC 9110 §7.2", "", |world| {
        refused_with(world, &[("host", "app"), ("host", "app")]);
    }),
    client("8.3.1 Host that is :authority", "RFC 9113 §8.3.1", "", |world| {
        assert_eq!(answer_to(world, &request("GET", "/same-host", &[("host", "app")])), 200);
        let seen = world.seen("/same-host");
        assert_eq!(seen[0].head.matches("host: app\r\n").count(), 1, "{seen:?}");
    }),
    client("8.3.1 Host for :authority", "RFC 9113 §8.3.1", "", |world| {
        let fields = [METHOD, SCHEME, (":path", "/by-host"), ("host", "app:80")];
        assert_eq!(answer_to(world, &block(&fields)), 200);
        assert!(world.seen("/by-host")[0].head.contains("host: app:80\r\n"));
    }),
    client("8.3.1 Host for :authority that is no host", "RFC 9113 §8.3.1", "", |world| {
        for host in ["user@app", "app/malformed", "app other", "app,app"] {
            if host != "app,app" {
                refused_fields(world, &[METHOD, SCHEME, PATH, ("host", host)]);
            }
        }
    }),
    client("8.3.1 neither :authority nor Host", "RFC 9110 §7.2", "", |world| {
        assert_eq!(answer_to(world, &block(&[METHOD, SCHEME, PATH])), 400);
    }),
    client("8.3.1 a :path beyond 16 KiB", "RFC 9110 §15.5.15", "", |world| {
        let path = format!("/{}", "x".repeat(16 * 1024));
        let whole = request("GET", &path, &[]);
        let (first, rest) = whole.split_at(16000);
        let mut conn = world.client();
        conn.send_all(&[frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 1, rest)]);
        assert_eq!(status(&mut conn, 1), 414);
        answered(&mut conn, 3);
    }),
    client("6.5.2 a header list beyond the limit", "RFC 9113 §6.5.2, RFC 6585 §5", "", |world| {
        let mut conn = world.client();
        let most = conn.settings.iter().find(|(id, _)| *id == 6).expect("there is a limit").1 as usize;
        let field = literal(b"x-long", "x".repeat(16000).as_bytes());
        let mut frames = vec![frame(HEADERS, END_STREAM, 1, &request("GET", "/too-long", &[]))];
        frames.extend((0..=most / 16000).map(|_| frame(CONTINUATION, 0, 1, &field)));
        frames.push(frame(CONTINUATION, END_HEADERS, 1, &[]));
        conn.send_all(&frames);
        assert_eq!(status(&mut conn, 1), 431);
        assert!(world.seen("/too-long").is_empty());
        answered(&mut conn, 3);
    }),
    client("8.1.1 Content-Length less than one DATA", "RFC 9113 §8.1.1", "http2/8.1.2.6/1", |world| {
        refused_body(world, &[("content-length", "1")], &[data(END_STREAM, b"test")]);
    }),
    client("8.1.1 Content-Length less than all DATA", "RFC 9113 §8.1.1", "http2/8.1.2.6/2", |world| {
        refused_body(world, &[("content-length", "1")], &[data(0, b"test"), data(END_STREAM, b"test")]);
    }),
    client("8.1.1 Content-Length more than all DATA", "RFC 9113 §8.1.1", "", |world| {
        refused_body(world, &[("content-length", "9")], &[data(0, b"test"), data(END_STREAM, b"test")]);
    }),
    client("8.1.1 Content-Length more than DATA before trailers", "RFC 9113 §8.1.1", "", |world| {
        refused_body(world, &[("content-length", "9")], &[data(0, b"test"), trailers(&[("x", "y")])]);
    }),
    client("8.1.1 Content-Length without DATA", "RFC 9113 §8.1.1", "", |world| {
        refused(world, &request("POST", "/malformed", &[("content-length", "4")]));
    }),
    client("8.1.1 Content-Length that is no number", "RFC 9113 §8.1.1, RFC 9110 §8.6", "", |world| {
        for value in ["", "+4", "-4", "0x4", "4.0", "4,4", "4, 4", "four", "99999999999999999999999"] {
            refused_body(world, &[("content-length", value)], &[data(END_STREAM, b"test")]);
        }
    }),
    client("8.1.1 two Content-Lengths that differ", "RFC 9113 §8.1.1", "", |world| {
        refused_body(world, &[("content-length", "4"), ("content-length", "5")], &[data(END_STREAM, b"test")]);
    }),
    client("8.1.1 two Content-Lengths that are the same become one", "RFC 9110 §8.6", "", |world| {
        let mut conn = world.client();
        let fields = [("content-length", "4"), ("content-length", "4")];
        conn.send_all(&[frame(HEADERS, END_HEADERS, 1, &request("POST", "/same-length", &fields)), data(END_STREAM, b"test")]);
        assert_eq!(status(&mut conn, 1), 200);
        let seen = world.seen("/same-length");
        assert_eq!(seen[0].head.matches("content-length: 4\r\n").count(), 1, "{seen:?}");
    }),
    client("8.1.1 padding does not count", "RFC 9113 §8.1.1, §6.1", "", |world| {
        let mut conn = world.client();
        let head = frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[("content-length", "4")]));
        conn.send_all(&[head, frame(DATA, END_STREAM | PADDED, 1, b"\x03test\0\0\0")]);
        assert_eq!(status(&mut conn, 1), 200);
    }),
    client("8.1 connection-specific fields in trailers", "RFC 9113 §8.2.2", "", |world| {
        for name in ["connection", "transfer-encoding", "upgrade", "keep-alive"] {
            refused_body(world, &[], &[data(0, b"test"), trailers(&[(name, "x")])]);
        }
    }),
    client("8.1 fields that are not for trailers do not pass", "RFC 9110 §6.5.1", "", |world| {
        let mut conn = world.client();
        let last = trailers(&[("content-length", "9"), ("host", "other"), ("x-kept", "1")]);
        conn.send_all(&[frame(HEADERS, END_HEADERS, 1, &request("POST", "/trailed", &[])), data(0, b"test"), last]);
        assert_eq!(status(&mut conn, 1), 200);
        let seen = world.seen("/trailed");
        let trailers = &seen[0].trailers;
        assert!(trailers.contains("x-kept: 1") && !trailers.contains("host") && !trailers.contains("length"), "{seen:?}");
    }),
    client("8.1 white space around a trailer's value", "RFC 9113 §8.2.1", "", |world| {
        let mut conn = world.client();
        let last = frame(HEADERS, WHOLE, 1, &literal(b"x-test", b" ok"));
        conn.send_all(&[frame(HEADERS, END_HEADERS, 1, &request("POST", "/padded-trailer", &[])), data(0, b"test"), last]);
        let end = conn.find("an end", |frame| frame.stream == 1 && matches!(frame.kind, HEADERS | RST_STREAM));
        assert!(end.kind == RST_STREAM || conn.status_of(&end) >= 400, "{end:?}");
        assert!(!world.seen("/padded-trailer").iter().any(|seen| seen.whole));
        conn.pinged();
    }),
    client("8.5 CONNECT with :path", "RFC 9113 §8.5", "", |world| {
        refused_fields(world, &[(":method", "CONNECT"), PATH, AUTHORITY]);
    }),
    client("8.5 CONNECT with :scheme", "RFC 9113 §8.5", "", |world| {
        refused_fields(world, &[(":method", "CONNECT"), SCHEME, AUTHORITY]);
    }),
    client("8.5 CONNECT without :authority", "RFC 9113 §8.5", "", |world| {
        refused_fields(world, &[(":method", "CONNECT")]);
    }),
    client("8.5 CONNECT is refused", "RFC 9110 §9.3.6", "", |world| {
        let fields = [(":method", "CONNECT"), (":authority", "app:80")];
        assert_eq!(answer_to(world, &block(&fields)), 405);
    }),
    client("8441 :protocol without CONNECT", "RFC 8441 §4", "", |world| {
        refused_fields(world, &[METHOD, SCHEME, PATH, AUTHORITY, (":protocol", "websocket")]);
    }),
    client("8.1 a stream error leaves the others alone", "RFC 9113 §5.4.2", "", |world| {
        let mut conn = world.client_with(&[(INITIAL_WINDOW_SIZE, 0)]);
        conn.send(&frame(HEADERS, WHOLE, 1, &request("GET", "/", &[])));
        conn.send(&frame(HEADERS, WHOLE, 3, &request("GET", "/malformed", &[("connection", "x")])));
        stream_error(&mut conn, 3, &[PROTOCOL_ERROR]);
        conn.send(&window_update(1, 1000));
        conn.find("the other's end", |frame| frame.stream == 1 && frame.ends());
    }),
    client("8.1 a malformed request is counted", "RFC 9113 §8.1.1", "", |world| {
        let before = world.errors("DPE");
        refused_with(world, &[("x-padded", " x")]);
        assert!(world.errors("DPE") > before);
        let mut conn = world.client();
        conn.send(&frame(PING, 0, 0, &[0; 7]));
        while conn.next().is_some() {}
        assert!(world.errors("DPE") > before + 1);
        closed(&mut conn);
    }),
];
