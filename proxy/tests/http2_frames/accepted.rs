//! What must be taken: the plain use of each frame, of each spelling of a field, and of each kind of request.

use crate::wire::*;
use crate::world::{BODY, World, answered, status};
use crate::{Case, client};

/// Sends the frames on a new connection, and expects a 200 on stream 1.
fn served(world: &World, frames: &[Vec<u8>]) {
    let mut conn = world.client();
    conn.send_all(frames);
    assert_eq!(status(&mut conn, 1), 200);
    conn.pinged();
}

/// A GET with `path` and one more field, as `field` spells it; the application must get `expected`.
fn field(world: &World, path: &str, field: &[u8], expected: &str) {
    let block = [&request("GET", path, &[])[..], field].concat();
    served(world, &[frame(HEADERS, WHOLE, 1, &block)]);
    let seen = world.seen(path);
    assert!(
        seen.len() == 1 && seen[0].head.contains(expected),
        "{seen:?}"
    );
}

fn get() -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &request("GET", "/", &[]))
}

fn post(path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &request("POST", path, &[]))
}

/// `user-agent: h2spec` with an index for its name: in the static table it is the 58th.
const AGENT: &str = "user-agent: h2spec\r\n";
/// `x-test` in Huffman code (RFC 7541 appendix B), and `h2spec`.
const X_TEST: &[u8] = &[0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff];
const H2SPEC: &[u8] = &[0x84, 0x9c, 0x48, 0xac, 0xa4];
/// `user-agent` in Huffman code.
const USER_AGENT: &[u8] = &[0x87, 0xb5, 0x05, 0xb1, 0x61, 0xcc, 0x5a, 0x93];

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    client("3.4 preface and SETTINGS", "RFC 9113 §3.4", "generic/1/1", |world| {
        world.client().pinged();
    }),
    client("5.1 PRIORITY on an idle stream", "RFC 9113 §5.1", "generic/2/1", |world| {
        let mut conn = world.client();
        conn.send(&priority(1, 0, 255));
        conn.pinged();
    }),
    client("5.1 WINDOW_UPDATE on a half-closed stream", "RFC 9113 §5.1", "generic/2/2", |world| {
        let mut conn = world.client_with(&[(INITIAL_WINDOW_SIZE, 0)]);
        conn.send_all(&[get(), window_update(1, 1)]);
        conn.find("DATA", |frame| frame.kind == DATA);
    }),
    client("5.1 PRIORITY on a half-closed stream", "RFC 9113 §5.1", "generic/2/3", |world| {
        let mut conn = world.client_with(&[(INITIAL_WINDOW_SIZE, 0)]);
        conn.send_all(&[get(), priority(1, 0, 255), window_update(1, 1)]);
        conn.find("DATA", |frame| frame.kind == DATA);
    }),
    client("5.1 RST_STREAM on a half-closed stream", "RFC 9113 §5.1", "generic/2/4", |world| {
        let mut conn = world.client();
        conn.send_all(&[get(), rst_stream(1, CANCEL)]);
        conn.pinged();
    }),
    client("5.1 PRIORITY on a closed stream", "RFC 9113 §5.1", "generic/2/5", |world| {
        let mut conn = world.client();
        answered(&mut conn, 1);
        conn.send(&priority(1, 0, 255));
        conn.pinged();
    }),
    client("5.1 WINDOW_UPDATE and RST_STREAM on a closed stream", "RFC 9113 §5.1", "", |world| {
        let mut conn = world.client();
        answered(&mut conn, 1);
        conn.send_all(&[window_update(1, 1), rst_stream(1, CANCEL)]);
        conn.pinged();
        answered(&mut conn, 3);
    }),
    client("6.1 DATA", "RFC 9113 §6.1", "generic/3.1/1", |world| {
        served(world, &[post("/accepted-data"), frame(DATA, END_STREAM, 1, b"test")]);
        let seen = world.seen("/accepted-data");
        assert!(seen[0].whole && seen[0].body == b"test", "{seen:?}");
    }),
    client("6.1 DATA in several frames", "RFC 9113 §6.1", "generic/3.1/2", |world| {
        let frames = [post("/accepted-datas"), frame(DATA, 0, 1, b"te"), frame(DATA, END_STREAM, 1, b"st")];
        served(world, &frames);
        assert_eq!(world.seen("/accepted-datas")[0].body, b"test");
    }),
    client("6.1 DATA with padding", "RFC 9113 §6.1", "generic/3.1/3", |world| {
        let frames = [post("/accepted-padded"), frame(DATA, END_STREAM | PADDED, 1, b"\x06test\0\0\0\0\0\0")];
        served(world, &frames);
        assert_eq!(world.seen("/accepted-padded")[0].body, b"test");
    }),
    client("6.2 HEADERS", "RFC 9113 §6.2", "generic/3.2/1", |world| served(world, &[get()])),
    client("6.2 HEADERS with padding", "RFC 9113 §6.2", "generic/3.2/2", |world| {
        let padded = [&[8][..], &request("GET", "/", &[]), &[0; 8]].concat();
        served(world, &[frame(HEADERS, WHOLE | PADDED, 1, &padded)]);
    }),
    client("6.2 HEADERS with priority", "RFC 9113 §6.2", "generic/3.2/3", |world| {
        let block = [&[0, 0, 0, 0, 255][..], &request("GET", "/", &[])].concat();
        served(world, &[frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &block)]);
    }),
    client("6.2 HEADERS with padding and priority", "RFC 9113 §6.2", "", |world| {
        let block = [&[3, 0x80, 0, 0, 7, 9][..], &request("GET", "/", &[]), &[0; 3]].concat();
        served(world, &[frame(HEADERS, WHOLE | WITH_PRIORITY | PADDED, 1, &block)]);
    }),
    client("6.3 PRIORITY of weight 1", "RFC 9113 §6.3", "generic/3.3/1", |world| {
        served(world, &[priority(1, 0, 0), get()]);
    }),
    client("6.3 PRIORITY of weight 256", "RFC 9113 §6.3", "generic/3.3/2", |world| {
        served(world, &[priority(1, 0, 255), get()]);
    }),
    client("6.3 PRIORITY on another stream", "RFC 9113 §6.3", "generic/3.3/3", |world| {
        served(world, &[priority(3, 1, 0), get()]);
    }),
    client("6.3 PRIORITY that is exclusive", "RFC 9113 §6.3", "generic/3.3/4", |world| {
        served(world, &[priority(1, 1 << 31, 0), get()]);
    }),
    client("6.3 PRIORITY of an idle stream, then a lower one", "RFC 9113 §6.3", "generic/3.3/5, http2/6.3/3", |world| {
        served(world, &[priority(3, 0, 255), get()]);
    }),
    client("6.4 RST_STREAM", "RFC 9113 §6.4", "generic/3.4/1", |world| {
        let mut conn = world.client();
        conn.send_all(&[post("/"), rst_stream(1, CANCEL)]);
        conn.pinged();
        answered(&mut conn, 3);
    }),
    client("6.5 SETTINGS", "RFC 9113 §6.5", "generic/3.5/1", |world| {
        let mut conn = world.client();
        conn.send(&settings(&[(HEADER_TABLE_SIZE, 0), (MAX_FRAME_SIZE, 1 << 20), (INITIAL_WINDOW_SIZE, 1 << 20)]));
        conn.acknowledged();
        answered(&mut conn, 1);
    }),
    client("6.7 PING", "RFC 9113 §6.7", "generic/3.7/1", |world| world.client().pinged()),
    client("6.8 GOAWAY", "RFC 9113 §6.8", "generic/3.8/1", |world| {
        let mut conn = world.client();
        conn.send(&goaway(0, 0));
        while conn.next().is_some() {}
    }),
    client("6.8 GOAWAY while an answer is on its way", "RFC 9113 §6.8", "", |world| {
        let mut conn = world.client();
        conn.send_all(&[get(), goaway(0, 0)]);
        assert_eq!(status(&mut conn, 1), 200);
        conn.find("its end", |frame| frame.stream == 1 && frame.ends());
        while conn.next().is_some() {}
    }),
    client("6.9 WINDOW_UPDATE", "RFC 9113 §6.9", "generic/3.9/1", |world| {
        let mut conn = world.client();
        conn.send(&window_update(0, 1));
        conn.pinged();
    }),
    client("6.9 WINDOW_UPDATE of a stream", "RFC 9113 §6.9", "generic/3.9/2", |world| {
        served(world, &[get(), window_update(1, 1)]);
    }),
    client("6.10 CONTINUATION", "RFC 9113 §6.10", "generic/3.10/1", |world| {
        let more = frame(CONTINUATION, END_HEADERS, 1, &block(&[("x-more", "1")]));
        served(world, &[frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[])), more]);
    }),
    client("6.10 CONTINUATION twice", "RFC 9113 §6.10", "generic/3.10/2, http2/6.10/1", |world| {
        let fields = block(&[("x-more", "1")]);
        let frames = [
            frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[])),
            frame(CONTINUATION, 0, 1, &fields),
            frame(CONTINUATION, END_HEADERS, 1, &fields),
        ];
        served(world, &frames);
    }),
    client("6.10 a field is cut in its middle", "RFC 9113 §6.10", "", |world| {
        let whole = request("GET", "/accepted-cut", &[("x-cut", "in two")]);
        let (first, rest) = whole.split_at(whole.len() - 3);
        served(world, &[frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 1, rest)]);
        assert!(world.seen("/accepted-cut")[0].head.contains("x-cut: in two\r\n"));
    }),
    client("8.1 GET", "RFC 9113 §8.1", "generic/4/1", |world| {
        let mut conn = world.client();
        conn.send(&get());
        assert_eq!(status(&mut conn, 1), 200);
        let data = conn.find("DATA", |frame| frame.kind == DATA);
        assert!(data.payload.len() == BODY && data.has(END_STREAM), "{data:?}");
    }),
    client("8.1 HEAD", "RFC 9113 §8.1", "generic/4/2", |world| {
        served(world, &[frame(HEADERS, WHOLE, 1, &request("HEAD", "/empty", &[]))]);
    }),
    client("8.1 POST", "RFC 9113 §8.1", "generic/4/3", |world| {
        served(world, &[post("/"), frame(DATA, END_STREAM, 1, b"test")]);
    }),
    client("8.1 POST with trailers", "RFC 9113 §8.1", "generic/4/4", |world| {
        let trailers = frame(HEADERS, WHOLE, 1, &block(&[("x-test", "ok")]));
        let head = frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[("trailer", "x-test")]));
        served(world, &[head, frame(DATA, 0, 1, b"test"), trailers]);
    }),
    client("HPACK an indexed field", "RFC 7541 §6.1", "generic/5/1", |world| {
        field(world, "/hpack-1", &[0xba], "user-agent: \r\n");
    }),
    client("HPACK a literal with indexing, name indexed", "RFC 7541 §6.2.1", "generic/5/2", |world| {
        field(world, "/hpack-2", &[&[0x7a][..], &string(b"h2spec")].concat(), AGENT);
    }),
    client("HPACK the same in Huffman code", "RFC 7541 §6.2.1", "generic/5/3", |world| {
        field(world, "/hpack-3", &[&[0x40][..], USER_AGENT, H2SPEC].concat(), AGENT);
    }),
    client("HPACK a literal with indexing, new name", "RFC 7541 §6.2.1", "generic/5/4", |world| {
        field(world, "/hpack-4", &indexed_literal(b"x-test", b"h2spec"), "x-test: h2spec\r\n");
    }),
    client("HPACK the same in Huffman code, new name", "RFC 7541 §6.2.1", "generic/5/5", |world| {
        field(world, "/hpack-5", &[&[0x40][..], X_TEST, H2SPEC].concat(), "x-test: h2spec\r\n");
    }),
    client("HPACK a literal without indexing, name indexed", "RFC 7541 §6.2.2", "generic/5/6", |world| {
        field(world, "/hpack-6", &[&[0x0f, 0x2b][..], &string(b"h2spec")].concat(), AGENT);
    }),
    client("HPACK a literal without indexing in Huffman code", "RFC 7541 §6.2.2", "generic/5/7", |world| {
        field(world, "/hpack-7", &[&[0x00][..], USER_AGENT, H2SPEC].concat(), AGENT);
    }),
    client("HPACK a literal without indexing, new name", "RFC 7541 §6.2.2", "generic/5/8", |world| {
        field(world, "/hpack-8", &literal(b"x-test", b"h2spec"), "x-test: h2spec\r\n");
    }),
    client("HPACK a literal without indexing, new name in Huffman code", "RFC 7541 §6.2.2", "generic/5/9", |world| {
        field(world, "/hpack-9", &[&[0x00][..], X_TEST, H2SPEC].concat(), "x-test: h2spec\r\n");
    }),
    client("HPACK a literal never indexed, name indexed", "RFC 7541 §6.2.3", "generic/5/10", |world| {
        field(world, "/hpack-10", &[&[0x1f, 0x2b][..], &string(b"h2spec")].concat(), AGENT);
    }),
    client("HPACK a literal never indexed in Huffman code", "RFC 7541 §6.2.3", "generic/5/11", |world| {
        field(world, "/hpack-11", &[&[0x10][..], USER_AGENT, H2SPEC].concat(), AGENT);
    }),
    client("HPACK a literal never indexed, new name", "RFC 7541 §6.2.3", "generic/5/12", |world| {
        let literal = [&[0x10][..], &string(b"x-test"), &string(b"h2spec")].concat();
        field(world, "/hpack-12", &literal, "x-test: h2spec\r\n");
    }),
    client("HPACK a literal never indexed, new name in Huffman code", "RFC 7541 §6.2.3", "generic/5/13", |world| {
        field(world, "/hpack-13", &[&[0x10][..], X_TEST, H2SPEC].concat(), "x-test: h2spec\r\n");
    }),
    client("HPACK a table size update", "RFC 7541 §6.3", "generic/5/14", |world| {
        served(world, &[frame(HEADERS, WHOLE, 1, &[&[0x20][..], &request("GET", "/", &[])].concat())]);
    }),
    client("HPACK two table size updates", "RFC 7541 §4.2", "generic/5/15", |world| {
        let block = [&[0x20, 0x3f, 0xe1, 0x1f][..], &request("GET", "/", &[])].concat();
        served(world, &[frame(HEADERS, WHOLE, 1, &block)]);
    }),
    client("HPACK a field of the dynamic table on the next stream", "RFC 7541 §2.3.3", "", |world| {
        let mut conn = world.client();
        let first = [&request("GET", "/", &[])[..], &indexed_literal(b"x-kept", b"here")].concat();
        conn.send(&frame(HEADERS, WHOLE, 1, &first));
        assert_eq!(status(&mut conn, 1), 200);
        let second = [&request("GET", "/hpack-dynamic", &[])[..], &[0xbe]].concat();
        conn.send(&frame(HEADERS, WHOLE, 3, &second));
        assert_eq!(status(&mut conn, 3), 200);
        assert!(world.seen("/hpack-dynamic")[0].head.contains("x-kept: here\r\n"));
    }),
    client("HPACK an entry larger than the table empties it", "RFC 7541 §4.4", "", |world| {
        let large = indexed_literal(b"x-large", "x".repeat(5000).as_bytes());
        let block = [&request("GET", "/", &[])[..], &large].concat();
        served(world, &[frame(HEADERS, WHOLE, 1, &block)]);
    }),
];
