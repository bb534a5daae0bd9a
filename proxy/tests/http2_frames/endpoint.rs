//! What an endpoint may not send: the sidecar as the client. A malformed answer is a 502 with the flag UPE.

use crate::verdict::{closed, connection_error};
use crate::wire::*;
use crate::world::{Stage, World};
use crate::{Case, endpoint};

/// The stream of the next request.
fn asked(conn: &mut Conn) -> u32 {
    conn.find("a request", |frame| frame.kind == HEADERS).stream
}

fn is_502(answer: &str) {
    // Passed on before its stream was seen to end.
    let hints = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let answer = answer.strip_prefix(hints).unwrap_or(answer);
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("UPE"),
        "{answer:?}"
    );
}

fn is_200(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
}

/// `:status 200` and a block behind it.
fn ok(behind: &[u8]) -> Vec<u8> {
    [&[0x88][..], behind].concat()
}

/// Answers a GET with the frames: GOAWAY with the code, and 502 for the client.
fn refused(stage: &Stage, frames: &[Vec<u8>], code: u32) {
    let client = stage.get();
    let mut conn = stage.accept();
    assert_eq!(asked(&mut conn), 1);
    conn.send_all(frames);
    connection_error(&mut conn, &[code]);
    is_502(&client.join().expect("the client ends"));
}

/// Answers a GET with a block that ends the stream: 502 for the client, while another request on the connection is answered.
fn malformed(stage: &Stage, frames: &[Vec<u8>]) {
    let client = stage.get();
    let mut conn = stage.accept();
    assert_eq!(asked(&mut conn), 1);
    let other = stage.get();
    let second = asked(&mut conn);
    conn.send_all(frames);
    is_502(&client.join().expect("the client ends"));
    conn.send(&frame(HEADERS, WHOLE, second, &ok(&[])));
    is_200(&other.join().expect("the client ends"));
    conn.pinged();
}

/// The same where a name or value cannot be decoded, for which h2 gives up the connection.
fn malformed_beyond_decoding(stage: &Stage, name: &[u8], value: &[u8]) {
    let block = ok(&literal(name, value));
    refused(stage, &[frame(HEADERS, WHOLE, 1, &block)], PROTOCOL_ERROR);
}

/// A client that gets a head and then sees the answer break off.
fn broken_off(stage: &Stage, head: &[u8], frames: &[Vec<u8>]) {
    let client = stage.get();
    let mut conn = stage.accept();
    assert_eq!(asked(&mut conn), 1);
    conn.send(&frame(HEADERS, END_HEADERS, 1, head));
    conn.send(&frame(DATA, 0, 1, b"first"));
    conn.pinged();
    conn.send_all(frames);
    let answer = client.join().expect("the client ends");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && !answer.ends_with("\r\n0\r\n\r\n"),
        "{answer:?}"
    );
    conn.pinged();
}

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    endpoint("3.4 an answer before SETTINGS", "RFC 9113 §3.4", |_, stage| {
        let client = stage.get();
        let mut conn = stage.accept_silently();
        conn.send(&ping(&[0; 8]));
        let last = conn.after_preface();
        assert_eq!(last.number(4), PROTOCOL_ERROR);
        is_502(&client.join().expect("the client ends"));
    }),
    endpoint("3.4 HTTP/1.1 from an HTTP/2 endpoint", "RFC 9113 §3.4", |_, stage| {
        let client = stage.get();
        let mut conn = stage.accept_silently();
        conn.send(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
        let answer = client.join().expect("the client ends");
        is_502(&answer);
        while conn.exactly(1).is_some() {}
    }),
    endpoint("4.1 unknown frames and flags are ignored", "RFC 9113 §4.1, §5.5", |_, stage| {
        let client = stage.get();
        let mut conn = stage.accept();
        let stream = asked(&mut conn);
        conn.send_all(&[
            frame(0x16, 0xff, 0, &[0; 8]),
            frame(0xee, 0, stream, b"what"),
            settings(&[(0xff, 1)]),
            frame(PING, 0x16, 1 << 31, &[0; 8]),
            frame(HEADERS, WHOLE | 0x40, stream, &ok(&[])),
        ]);
        is_200(&client.join().expect("the client ends"));
    }),
    endpoint("4.2 HEADERS larger than SETTINGS_MAX_FRAME_SIZE", "RFC 9113 §4.2", |_, stage| {
        refused(stage, &[frame(HEADERS, WHOLE, 1, &[0x88; 16385])], FRAME_SIZE_ERROR);
    }),
    endpoint("4.2 DATA larger than SETTINGS_MAX_FRAME_SIZE", "RFC 9113 §4.2", |_, stage| {
        refused(stage, &[frame_of(16385, DATA, 0, 1, &[])], FRAME_SIZE_ERROR);
    }),
    endpoint("4.3 a header block that ends in a field", "RFC 9113 §4.3", |_, stage| {
        refused(stage, &[frame(HEADERS, WHOLE, 1, &ok(&[0x40]))], COMPRESSION_ERROR);
    }),
    endpoint("4.3 an index beyond both tables", "RFC 7541 §2.3.3", |_, stage| {
        refused(stage, &[frame(HEADERS, WHOLE, 1, &ok(&[0xc6]))], COMPRESSION_ERROR);
    }),
    endpoint("4.3 index 0", "RFC 7541 §6.1", |_, stage| {
        refused(stage, &[frame(HEADERS, WHOLE, 1, &ok(&[0x80]))], COMPRESSION_ERROR);
    }),
    endpoint("4.3 a table size update at the end of a block", "RFC 7541 §4.2", |_, stage| {
        refused(stage, &[frame(HEADERS, WHOLE, 1, &ok(&[0x20]))], COMPRESSION_ERROR);
    }),
    endpoint("4.3 EOS within a Huffman string", "RFC 7541 §5.2", |_, stage| {
        let field = [0x00, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff];
        refused(stage, &[frame(HEADERS, WHOLE, 1, &ok(&field))], COMPRESSION_ERROR);
    }),
    endpoint("4.3 PING within a header block", "RFC 9113 §4.3", |_, stage| {
        refused(stage, &[frame(HEADERS, 0, 1, &[0x88]), ping(&[0; 8])], PROTOCOL_ERROR);
    }),
    endpoint("5.1 HEADERS on an idle stream", "RFC 9113 §5.1", |_, stage| {
        refused(stage, &[frame(HEADERS, WHOLE, 9, &ok(&[]))], PROTOCOL_ERROR);
    }),
    endpoint("5.1 HEADERS on an even stream", "RFC 9113 §5.1.1, §8.4", |_, stage| {
        refused(stage, &[frame(HEADERS, WHOLE, 2, &ok(&[]))], PROTOCOL_ERROR);
    }),
    endpoint("5.1 DATA on an idle stream", "RFC 9113 §5.1", |_, stage| {
        refused(stage, &[frame(DATA, 0, 9, b"test")], PROTOCOL_ERROR);
    }),
    endpoint("5.1 RST_STREAM on an idle stream", "RFC 9113 §5.1", |_, stage| {
        refused(stage, &[rst_stream(9, CANCEL)], PROTOCOL_ERROR);
    }),
    endpoint("5.1 WINDOW_UPDATE on an idle stream", "RFC 9113 §5.1", |_, stage| {
        refused(stage, &[window_update(9, 1)], PROTOCOL_ERROR);
    }),
    endpoint("5.1 DATA behind END_STREAM", "RFC 9113 §5.1", |_, stage| {
        let client = stage.get();
        let mut conn = stage.accept();
        asked(&mut conn);
        conn.send(&frame(HEADERS, WHOLE, 1, &ok(&[])));
        is_200(&client.join().expect("the client ends"));
        conn.send(&frame(DATA, END_STREAM, 1, b"more"));
        connection_error(&mut conn, &[STREAM_CLOSED]);
    }),
    endpoint("5.1 HEADERS behind END_STREAM", "RFC 9113 §5.1", |_, stage| {
        let client = stage.get();
        let mut conn = stage.accept();
        asked(&mut conn);
        conn.send(&frame(HEADERS, WHOLE, 1, &ok(&[])));
        is_200(&client.join().expect("the client ends"));
        conn.send(&frame(HEADERS, WHOLE, 1, &ok(&[])));
        connection_error(&mut conn, &[STREAM_CLOSED]);
    }),
    endpoint("6.1 DATA on stream 0", "RFC 9113 §6.1", |_, stage| {
        refused(stage, &[frame(DATA, 0, 0, b"test")], PROTOCOL_ERROR);
    }),
    endpoint("6.1 DATA before the head", "RFC 9113 §8.1", |_, stage| {
        refused(stage, &[frame(DATA, 0, 1, b"test")], PROTOCOL_ERROR);
    }),
    endpoint("6.1 DATA with as much padding as payload", "RFC 9113 §6.1", |_, stage| {
        let client = stage.get();
        let mut conn = stage.accept();
        asked(&mut conn);
        conn.send_all(&[frame(HEADERS, END_HEADERS, 1, &ok(&[])), frame(DATA, PADDED, 1, b"\x05test")]);
        connection_error(&mut conn, &[PROTOCOL_ERROR]);
        client.join().expect("the client ends");
    }),
    endpoint("6.2 HEADERS on stream 0", "RFC 9113 §6.2", |_, stage| {
        refused(stage, &[frame(HEADERS, WHOLE, 0, &ok(&[]))], PROTOCOL_ERROR);
    }),
    endpoint("6.2 HEADERS with more padding than payload", "RFC 9113 §6.2", |_, stage| {
        refused(stage, &[frame(HEADERS, WHOLE | PADDED, 1, &[9, 0x88])], PROTOCOL_ERROR);
    }),
    endpoint("6.3 PRIORITY of four bytes", "RFC 9113 §6.3", |_, stage| {
        refused(stage, &[frame(PRIORITY, 0, 1, &[0; 4])], FRAME_SIZE_ERROR);
    }),
    endpoint("6.4 RST_STREAM on stream 0", "RFC 9113 §6.4", |_, stage| {
        refused(stage, &[rst_stream(0, CANCEL)], PROTOCOL_ERROR);
    }),
    endpoint("6.4 RST_STREAM of three bytes", "RFC 9113 §6.4", |_, stage| {
        refused(stage, &[frame(RST_STREAM, 0, 1, &[0; 3])], FRAME_SIZE_ERROR);
    }),
    endpoint("6.5 ACK of SETTINGS with a payload", "RFC 9113 §6.5", |_, stage| {
        refused(stage, &[frame(SETTINGS, ACK, 0, &[0])], FRAME_SIZE_ERROR);
    }),
    endpoint("6.5 SETTINGS on a stream", "RFC 9113 §6.5", |_, stage| {
        refused(stage, &[frame(SETTINGS, 0, 1, &[])], PROTOCOL_ERROR);
    }),
    endpoint("6.5 SETTINGS of eight bytes", "RFC 9113 §6.5", |_, stage| {
        refused(stage, &[frame(SETTINGS, 0, 0, &[0; 8])], FRAME_SIZE_ERROR);
    }),
    endpoint("6.5.2 ENABLE_PUSH of a server", "RFC 9113 §6.5.2", |_, stage| {
        refused(stage, &[settings(&[(ENABLE_PUSH, 1)])], PROTOCOL_ERROR);
    }),
    endpoint("6.5.2 INITIAL_WINDOW_SIZE above 2^31-1", "RFC 9113 §6.5.2", |_, stage| {
        refused(stage, &[settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)])], FLOW_CONTROL_ERROR);
    }),
    endpoint("6.5.2 MAX_FRAME_SIZE below 2^14", "RFC 9113 §6.5.2", |_, stage| {
        refused(stage, &[settings(&[(MAX_FRAME_SIZE, 16383)])], PROTOCOL_ERROR);
    }),
    endpoint("6.5.2 MAX_FRAME_SIZE above 2^24-1", "RFC 9113 §6.5.2", |_, stage| {
        refused(stage, &[settings(&[(MAX_FRAME_SIZE, 1 << 24)])], PROTOCOL_ERROR);
    }),
    endpoint("6.7 PING on a stream", "RFC 9113 §6.7", |_, stage| {
        refused(stage, &[frame(PING, 0, 1, &[0; 8])], PROTOCOL_ERROR);
    }),
    endpoint("6.7 PING of six bytes", "RFC 9113 §6.7", |_, stage| {
        refused(stage, &[frame(PING, 0, 0, &[0; 6])], FRAME_SIZE_ERROR);
    }),
    endpoint("6.8 GOAWAY on a stream", "RFC 9113 §6.8", |_, stage| {
        refused(stage, &[frame(GOAWAY, 0, 1, &[0; 8])], PROTOCOL_ERROR);
    }),
    endpoint("6.8 GOAWAY whose last stream grows", "RFC 9113 §6.8", |_, stage| {
        let client = stage.get();
        let mut conn = stage.accept();
        asked(&mut conn);
        conn.send_all(&[goaway(1, 0), goaway(3, 0)]);
        connection_error(&mut conn, &[PROTOCOL_ERROR]);
        is_502(&client.join().expect("the client ends"));
    }),
    endpoint("6.8 a request below GOAWAY's last stream is answered", "RFC 9113 §6.8", |_, stage| {
        let client = stage.get();
        let mut conn = stage.accept();
        asked(&mut conn);
        conn.send_all(&[goaway(1, 0), frame(HEADERS, WHOLE, 1, &ok(&[]))]);
        is_200(&client.join().expect("the client ends"));
        while conn.next().is_some() {}
        let next = stage.get();
        let mut other = stage.accept();
        let stream = asked(&mut other);
        other.send(&frame(HEADERS, WHOLE, stream, &ok(&[])));
        is_200(&next.join().expect("the client ends"));
    }),
    endpoint("6.9 WINDOW_UPDATE by 0", "RFC 9113 §6.9", |_, stage| {
        refused(stage, &[window_update(0, 0)], PROTOCOL_ERROR);
    }),
    endpoint("6.9 WINDOW_UPDATE of three bytes", "RFC 9113 §6.9", |_, stage| {
        refused(stage, &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])], FRAME_SIZE_ERROR);
    }),
    endpoint("6.9.1 the connection's window above 2^31-1", "RFC 9113 §6.9.1", |_, stage| {
        let most = (1 << 31) - 1;
        refused(stage, &[window_update(0, most), window_update(0, most)], FLOW_CONTROL_ERROR);
    }),
    endpoint("6.9.1 DATA beyond the connection's window", "RFC 9113 §6.9.1", |_, stage| {
        // A client that reads nothing, so that nothing is given back.
        let silent = stage.silent();
        let mut conn = stage.accept();
        assert_eq!(asked(&mut conn), 1);
        conn.send(&frame(HEADERS, END_HEADERS, 1, &ok(&[])));
        let piece = frame(DATA, 0, 1, &[b'x'; 16384]);
        let end = loop {
            if !conn.try_send(&piece) {
                break None;
            }
            if let Some(frame) = conn.come(|frame| matches!(frame.kind, RST_STREAM | GOAWAY)) {
                break Some(frame);
            }
        };
        let end = end.expect("the window ends");
        let code = end.number(if end.kind == GOAWAY { 4 } else { 0 });
        assert_eq!(code, FLOW_CONTROL_ERROR, "{end:?}");
        drop(silent);
    }),
    endpoint("6.10 CONTINUATION without HEADERS", "RFC 9113 §6.10", |_, stage| {
        refused(stage, &[frame(CONTINUATION, END_HEADERS, 1, &ok(&[]))], PROTOCOL_ERROR);
    }),
    endpoint("6.10 CONTINUATION of another stream", "RFC 9113 §6.10", |_, stage| {
        refused(stage, &[frame(HEADERS, 0, 1, &ok(&[])), frame(CONTINUATION, END_HEADERS, 3, &[])], PROTOCOL_ERROR);
    }),
    endpoint("8.4 PUSH_PROMISE though push is off", "RFC 9113 §8.4, §6.6", |_, stage| {
        let promise = [&2u32.to_be_bytes()[..], &request("GET", "/", &[])].concat();
        refused(stage, &[frame(PUSH_PROMISE, END_HEADERS, 1, &promise)], PROTOCOL_ERROR);
    }),
    endpoint("6.4 RST_STREAM before the head", "RFC 9113 §6.4", |_, stage| {
        let client = stage.get();
        let mut conn = stage.accept();
        asked(&mut conn);
        conn.send(&rst_stream(1, 2));
        let answer = client.join().expect("the client ends");
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("UR"), "{answer:?}");
        conn.pinged();
    }),
    endpoint("8.2.1 an upper-case name", "RFC 9113 §8.2.1", |_, stage| malformed_beyond_decoding(stage, b"X-Test", b"ok")),
    endpoint("8.2.1 CR LF in a value", "RFC 9113 §8.2.1", |_, stage| {
        malformed_beyond_decoding(stage, b"x-test", b"a\r\nset-cookie: b");
    }),
    endpoint("8.2.1 NUL in a value", "RFC 9113 §8.2.1", |_, stage| malformed_beyond_decoding(stage, b"x-test", b"a\0b")),
    endpoint("8.2.1 a space in a name", "RFC 9113 §8.2.1", |_, stage| malformed_beyond_decoding(stage, b"x test", b"ok")),
    endpoint("8.2.1 a quote in a name", "RFC 9113 §8.2.1", |_, stage| {
        malformed(stage, &[frame(HEADERS, WHOLE, 1, &ok(&literal(b"x\"y", b"ok")))]);
    }),
    endpoint("8.2.1 white space around a value", "RFC 9113 §8.2.1", |_, stage| {
        malformed(stage, &[frame(HEADERS, WHOLE, 1, &ok(&literal(b"x-test", b" ok")))]);
    }),
    endpoint("8.2.2 Connection", "RFC 9113 §8.2.2", |_, stage| {
        malformed(stage, &[frame(HEADERS, WHOLE, 1, &ok(&literal(b"connection", b"close")))]);
    }),
    endpoint("8.2.2 Transfer-Encoding", "RFC 9113 §8.2.2", |_, stage| {
        malformed(stage, &[frame(HEADERS, WHOLE, 1, &ok(&literal(b"transfer-encoding", b"chunked")))]);
    }),
    endpoint("8.3 a request's pseudo-header field, indexed", "RFC 9113 §8.3", |_, stage| {
        refused(stage, &[frame(HEADERS, WHOLE, 1, &ok(&[0x84]))], PROTOCOL_ERROR);
    }),
    endpoint("8.3 a pseudo-header field behind others", "RFC 9113 §8.3", |_, stage| {
        malformed(stage, &[frame(HEADERS, WHOLE, 1, &[&literal(b"x", b"y")[..], &[0x88]].concat())]);
    }),
    endpoint("8.3.2 no :status", "RFC 9113 §8.3.2", |_, stage| {
        malformed(stage, &[frame(HEADERS, WHOLE, 1, &literal(b"x", b"y"))]);
    }),
    endpoint("8.3.2 :status twice", "RFC 9113 §8.3.2", |_, stage| {
        malformed(stage, &[frame(HEADERS, WHOLE, 1, &[0x88, 0x88])]);
    }),
    endpoint("8.3.2 a :status that is no number", "RFC 9113 §8.3.2", |_, stage| {
        refused(stage, &[frame(HEADERS, WHOLE, 1, &literal(b":status", b"2xx"))], PROTOCOL_ERROR);
    }),
    endpoint("8.1 an informational head that ends the stream", "RFC 9113 §8.1", |_, stage| {
        malformed(stage, &[frame(HEADERS, WHOLE, 1, &literal(b":status", b"103"))]);
    }),
    endpoint("8.1.1 Content-Length without DATA", "RFC 9113 §8.1.1", |_, stage| {
        malformed(stage, &[frame(HEADERS, WHOLE, 1, &ok(&literal(b"content-length", b"4")))]);
    }),
    endpoint("8.1.1 Content-Length that is no number", "RFC 9113 §8.1.1", |_, stage| {
        malformed(stage, &[frame(HEADERS, END_HEADERS, 1, &ok(&literal(b"content-length", b"+4")))]);
    }),
    endpoint("8.1.1 two Content-Lengths that differ", "RFC 9113 §8.1.1", |_, stage| {
        let fields = block(&[("content-length", "4"), ("content-length", "5")]);
        malformed(stage, &[frame(HEADERS, END_HEADERS, 1, &ok(&fields))]);
    }),
    endpoint("8.1.1 Content-Length less than DATA", "RFC 9113 §8.1.1", |_, stage| {
        broken_off(stage, &ok(&literal(b"content-length", b"6")), &[frame(DATA, END_STREAM, 1, b"too much")]);
    }),
    endpoint("8.1.1 Content-Length more than DATA", "RFC 9113 §8.1.1", |_, stage| {
        broken_off(stage, &ok(&literal(b"content-length", b"99")), &[frame(DATA, END_STREAM, 1, b"few")]);
    }),
    endpoint("8.1 trailers without END_STREAM", "RFC 9113 §8.1", |_, stage| {
        broken_off(stage, &ok(&[]), &[frame(HEADERS, END_HEADERS, 1, &literal(b"x", b"y"))]);
    }),
    endpoint("8.1 white space around a trailer's value", "RFC 9113 §8.2.1", |_, stage| {
        broken_off(stage, &ok(&[]), &[frame(HEADERS, WHOLE, 1, &literal(b"x", b" y"))]);
    }),
    endpoint("8.1 a connection-specific field in trailers", "RFC 9113 §8.2.2", |_, stage| {
        broken_off(stage, &ok(&[]), &[frame(HEADERS, WHOLE, 1, &literal(b"transfer-encoding", b"chunked"))]);
    }),
    endpoint("8.1 RST_STREAM within a body", "RFC 9113 §8.1", |_, stage| {
        broken_off(stage, &ok(&[]), &[rst_stream(1, 2)]);
    }),
    endpoint("8.1 RST_STREAM(NO_ERROR) behind a whole answer", "RFC 9113 §8.1", |_, stage| {
        let client = stage.ask("POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 9\r\nconnection: close\r\n\r\npart");
        let mut conn = stage.accept();
        asked(&mut conn);
        conn.send_all(&[frame(HEADERS, WHOLE, 1, &ok(&[])), rst_stream(1, 0)]);
        is_200(&client.join().expect("the client ends"));
    }),
    endpoint("6.5.2 a header list beyond the limit", "RFC 9113 §6.5.2", |_, stage| {
        let field = literal(b"x-long", "x".repeat(15000).as_bytes());
        let mut frames = vec![frame(HEADERS, END_STREAM, 1, &ok(&field))];
        frames.extend((0..4).map(|_| frame(CONTINUATION, 0, 1, &field)));
        frames.push(frame(CONTINUATION, END_HEADERS, 1, &[]));
        malformed(stage, &frames);
    }),
    endpoint("8.1 a large head passes", "RFC 9113 §6.5.2", |_, stage| {
        let client = stage.get();
        let mut conn = stage.accept();
        asked(&mut conn);
        let field = literal(b"x-long", "x".repeat(15000).as_bytes());
        let frames = [
            frame(HEADERS, END_STREAM, 1, &ok(&field)),
            frame(CONTINUATION, 0, 1, &field),
            frame(CONTINUATION, END_HEADERS, 1, &field),
        ];
        conn.send_all(&frames);
        let answer = client.join().expect("the client ends");
        is_200(&answer);
        assert_eq!(answer.matches("x-long: ").count(), 3);
    }),
    endpoint("8.1 DATA behind 204 or 304 does not reach the client", "RFC 9110 §6.4.1", |_, stage| {
        let mut conn = None;
        for status in [0x89, 0x8b] {
            let client = stage.get();
            let conn = conn.get_or_insert_with(|| stage.accept());
            let stream = asked(conn);
            conn.send_all(&[
                frame(HEADERS, END_HEADERS, stream, &[status]),
                frame(DATA, END_STREAM, stream, b"HTTP/1.1 200 smuggled\r\n\r\n"),
            ]);
            let answer = client.join().expect("the client ends");
            assert!(!answer.contains("smuggled"), "{answer:?}");
        }
    }),
    endpoint("8.1 DATA in the answer to HEAD does not reach the client", "RFC 9110 §9.3.2", |_, stage| {
        let client = stage.ask("HEAD / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n");
        let mut conn = stage.accept();
        let stream = asked(&mut conn);
        conn.send_all(&[
            frame(HEADERS, END_HEADERS, stream, &ok(&literal(b"content-length", b"25"))),
            frame(DATA, END_STREAM, stream, b"HTTP/1.1 200 smuggled\r\n\r\n"),
        ]);
        let answer = client.join().expect("the client ends");
        assert!(!answer.contains("smuggled"), "{answer:?}");
    }),
    endpoint("8.1 HEAD's Content-Length needs no DATA", "RFC 9113 §8.1.1", |_, stage| {
        let client = stage.ask("HEAD / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n");
        let mut conn = stage.accept();
        let stream = asked(&mut conn);
        conn.send(&frame(HEADERS, WHOLE, stream, &ok(&literal(b"content-length", b"25"))));
        let answer = client.join().expect("the client ends");
        is_200(&answer);
        assert!(answer.contains("content-length: 25"), "{answer:?}");
    }),
    endpoint("8.1 trailers pass, without what may not be among them", "RFC 9110 §6.5.1", |_, stage| {
        let client = stage.get();
        let mut conn = stage.accept();
        asked(&mut conn);
        let last = block(&[("content-length", "9"), ("host", "other"), ("x-kept", "1")]);
        conn.send_all(&[
            frame(HEADERS, END_HEADERS, 1, &ok(&[])),
            frame(DATA, 0, 1, b"body"),
            frame(HEADERS, WHOLE, 1, &last),
        ]);
        let answer = client.join().expect("the client ends");
        assert!(answer.ends_with("\r\n0\r\nx-kept: 1\r\n\r\n"), "{answer:?}");
    }),
    endpoint("5.4.1 an endpoint that broke the protocol is connected to anew", "RFC 9113 §5.4.1", |_, stage| {
        refused(stage, &[frame(PING, 0, 0, &[0; 7])], FRAME_SIZE_ERROR);
        let client = stage.get();
        let mut conn = stage.accept();
        let stream = asked(&mut conn);
        conn.send(&frame(HEADERS, WHOLE, stream, &ok(&[])));
        is_200(&client.join().expect("the client ends"));
    }),
    endpoint("6.8 GOAWAY comes before the connection closes, and names no stream", "RFC 9113 §6.8", |_, stage| {
        let client = stage.get();
        let mut conn = stage.accept();
        asked(&mut conn);
        conn.send(&frame(PING, 0, 0, &[0; 7]));
        let last = conn.find("GOAWAY", |frame| frame.kind == GOAWAY);
        assert_eq!((last.number(0), last.number(4)), (0, FRAME_SIZE_ERROR));
        closed(&mut conn);
        is_502(&client.join().expect("the client ends"));
    }),
    endpoint("8.1 an error is counted with its flag", "RFC 9113 §8.1.1", |world: &World, stage| {
        let before = world.errors("UPE");
        malformed(stage, &[frame(HEADERS, WHOLE, 1, &ok(&literal(b"connection", b"close")))]);
        assert!(world.errors("UPE") > before);
    }),
];
