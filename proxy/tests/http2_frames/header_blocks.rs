//! Header blocks that cannot be decoded: RFC 7541, and RFC 9113 section 4.3.

use crate::verdict::connection_error;
use crate::wire::*;
use crate::world::{Stage, World};
use crate::{Case, client, endpoint};

/// A GET's block with something behind it, which cannot be decoded.
fn undecodable(world: &World, behind: &[u8]) {
    let block = [&request("GET", "/undecodable", &[])[..], behind].concat();
    let mut conn = world.client();
    conn.send(&frame(HEADERS, WHOLE, 1, &block));
    connection_error(&mut conn, &[COMPRESSION_ERROR]);
    assert!(world.seen("/undecodable").is_empty());
}

/// `x-test` in Huffman code, as a literal's name.
const X_TEST: [u8; 7] = [0x00, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff];

fn huffman_value(value: &[u8]) -> Vec<u8> {
    [&X_TEST[..], &[0x80 | value.len() as u8], value].concat()
}

/// A request with 63,900 bytes in so many fields is answered 431, and the connection serves the next.
fn not_sent(world: &World, stage: &Stage, fields: usize, value: &str) {
    let before = world.errors("DPE");
    let field = |nth| {
        let name = format!("x-{nth:03}: ");
        let rest = 63_900 / fields - name.len() - 2;
        name + &value.repeat(rest) + "\r\n"
    };
    let large: String = (0..fields).map(field).collect();
    let client = stage.ask(&format!(
        "GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n{large}\r\n"
    ));
    let mut conn = stage.accept();
    let answer = client.join().expect("the client ends");
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    assert!(answer.contains("DPE"), "{answer:?}");
    assert!(world.errors("DPE") > before);
    let client = stage.get();
    let head = conn.find("a request", |frame| frame.kind == HEADERS);
    assert_eq!(head.stream, 1);
    conn.send(&frame(HEADERS, WHOLE, 1, &[0x88]));
    let answer = client.join().expect("the client ends");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
}

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    client("4.3 a header block that ends in a field", "RFC 9113 §4.3", "http2/4.3/1", |world| {
        let mut conn = world.client();
        conn.send(&frame(HEADERS, WHOLE, 1, &[0x40]));
        connection_error(&mut conn, &[COMPRESSION_ERROR]);
    }),
    client("2.3.3 an index beyond both tables", "RFC 7541 §2.3.3", "hpack/2.3.3/1", |world| {
        undecodable(world, &[0xc6]);
    }),
    client("2.3.3 a name's index beyond both tables", "RFC 7541 §2.3.3", "hpack/2.3.3/2", |world| {
        undecodable(world, &[0x7f, 0x07, 0x04, b't', b'e', b's', b't']);
    }),
    client("4.2 a table size update at the end of a block", "RFC 7541 §4.2", "hpack/4.2/1", |world| {
        undecodable(world, &[0x21]);
    }),
    client("5.1 an integer without an end", "RFC 7541 §5.1", "", |world| {
        undecodable(world, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    }),
    client("5.1 an integer that breaks off", "RFC 7541 §5.1", "", |world| {
        undecodable(world, &[0xff, 0x80]);
    }),
    client("5.1 an integer with more zeros than it may have", "RFC 7541 §5.1", "", |world| {
        undecodable(world, &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]);
    }),
    client("5.2 a string longer than its block", "RFC 7541 §5.2", "", |world| {
        undecodable(world, &[0x00, 0x06, b'x', b'-']);
    }),
    client("5.2 a string of 2^28 bytes", "RFC 7541 §5.2", "", |world| {
        undecodable(world, &[&[0x00][..], &integer(0, 7, 1 << 28)].concat());
    }),
    client("5.2 Huffman padding of more than seven bits", "RFC 7541 §5.2", "hpack/5.2/1", |world| {
        undecodable(world, &huffman_value(&[0x49, 0x50, 0x9f, 0xff]));
    }),
    client("5.2 Huffman padding of zeros", "RFC 7541 §5.2", "hpack/5.2/2", |world| {
        undecodable(world, &huffman_value(&[0x49, 0x50, 0x90]));
    }),
    client("5.2 EOS within a Huffman string", "RFC 7541 §5.2", "hpack/5.2/3", |world| {
        undecodable(world, &huffman_value(&[0xff, 0xff, 0xff, 0xfd, 0x25, 0x42, 0x7f]));
    }),
    client("6.1 index 0", "RFC 7541 §6.1", "hpack/6.1/1", |world| undecodable(world, &[0x80])),
    client("6.3 a table size above the limit", "RFC 7541 §6.3", "hpack/6.3/1", |world| {
        let block = [&[0x3f, 0xe1, 0x3f][..], &request("GET", "/undecodable", &[])].concat();
        let mut conn = world.client();
        conn.send(&frame(HEADERS, WHOLE, 1, &block));
        connection_error(&mut conn, &[COMPRESSION_ERROR]);
    }),
    client("4.3 trailers that cannot be decoded", "RFC 9113 §4.3", "", |world| {
        let mut conn = world.client();
        conn.send_all(&[
            frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[])),
            frame(HEADERS, WHOLE, 1, &[0xc6]),
        ]);
        connection_error(&mut conn, &[COMPRESSION_ERROR]);
    }),
    client("4.3 a CONTINUATION that cannot be decoded", "RFC 9113 §4.3", "", |world| {
        let mut conn = world.client();
        conn.send_all(&[
            frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[])),
            frame(CONTINUATION, END_HEADERS, 1, &[0xc6]),
        ]);
        connection_error(&mut conn, &[COMPRESSION_ERROR]);
    }),
    client("4.3 a block of a stream above the limit is decoded all the same", "RFC 9113 §4.3", "", |world| {
        let mut conn = world.client_with(&[(INITIAL_WINDOW_SIZE, 0)]);
        let block = request("GET", "/", &[]);
        let frames: Vec<_> = (0..256).map(|nth| frame(HEADERS, WHOLE, 2 * nth + 1, &block)).collect();
        conn.send_all(&frames);
        for _ in &frames {
            conn.find("an answer", |frame| frame.kind == HEADERS);
        }
        let entered = [&block[..], &indexed_literal(b"x-entered", b"yes")].concat();
        conn.send(&frame(HEADERS, WHOLE, 513, &entered));
        conn.find("a refusal", |frame| frame.kind == RST_STREAM && frame.stream == 513);
        conn.send(&rst_stream(1, CANCEL));
        conn.pinged();
        let using = [&request("GET", "/entered", &[])[..], &[0xbe]].concat();
        conn.send(&frame(HEADERS, WHOLE, 515, &using));
        conn.find("an answer", |frame| frame.kind == HEADERS && frame.stream == 515);
        assert!(world.seen("/entered")[0].head.contains("x-entered: yes\r\n"));
    }),
    endpoint("6.5.2 a head whose list is too large is not sent", "RFC 9113 §6.5.2", |world, stage| {
        // Within what HTTP/1.1 may send here, which counts no 32 bytes for each field.
        not_sent(world, stage, 100, "a");
    }),
    endpoint("6.5.2 a head that Huffman code makes too large is not sent", "RFC 7541 §5.2", |world, stage| {
        // 15 bits each.
        not_sent(world, stage, 10, "{");
    }),
];
