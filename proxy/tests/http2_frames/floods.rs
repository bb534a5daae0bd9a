//! Frames without end that ask for work and carry none: each flood ends in ENHANCE_YOUR_CALM after a bounded number, others are served
//! meanwhile, and a peer that stays below the bound is, too.

use crate::verdict::connection_error;
use crate::wire::*;
use crate::world::{LARGE, Stage, World, answered, status};
use crate::{Case, client, endpoint};

/// Sends the frames `most` times, for which the connection must end, calmly.
fn calmed(world: &World, conn: &mut Conn, most: u32, round: impl FnMut(u32) -> Vec<u8>) {
    let before = world.errors("DPE");
    let frames: Vec<_> = (0..most).map(round).collect();
    let (first, rest) = frames.split_at(frames.len() / 2);
    conn.send_all(first);
    world.serves_others();
    conn.send_all(rest);
    connection_error(conn, &[ENHANCE_YOUR_CALM]);
    world.serves_others();
    assert!(world.errors("DPE") > before);
}

/// The same towards a client of ours: an endpoint that floods while a request waits, which is answered 502.
fn endpoint_calmed(world: &World, stage: &Stage, most: u32, round: impl FnMut(u32) -> Vec<u8>) {
    let before = world.errors("UPE");
    let client = stage.get();
    let mut conn = stage.accept();
    conn.find("a request", |frame| frame.kind == HEADERS);
    conn.send_all(&(0..most).map(round).collect::<Vec<_>>());
    connection_error(&mut conn, &[ENHANCE_YOUR_CALM]);
    let answer = client.join().expect("the client ends");
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("UPE"),
        "{answer:?}"
    );
    assert!(world.errors("UPE") > before);
    // The next request has a connection of its own.
    let client = stage.get();
    let mut conn = stage.accept();
    let stream = conn.find("a request", |frame| frame.kind == HEADERS).stream;
    conn.send(&frame(HEADERS, WHOLE, stream, &[0x88]));
    let answer = client.join().expect("the client ends");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
}

/// A message of one byte with its prefix, as gRPC has it; of which so many are sent, so many at once.
const MESSAGE: &[u8] = b"\0\0\0\0\x01m";
const MESSAGES: usize = 15_000;
const BATCH: usize = 100;

/// What gRPC's C core sends for a batch of them.
fn updates_for_each_message() -> Vec<u8> {
    let most = MESSAGE.len() as u32;
    vec![[window_update(0, most), window_update(1, most)].concat(); BATCH].concat()
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &request("GET", "/", &[]))
}

fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request("POST", "/", &[]))
}

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    client("flood rapid reset", "CVE-2023-44487, RFC 9113 §10.5", "", |world| {
        let mut conn = world.client();
        calmed(world, &mut conn, 3000, |nth| {
            let stream = 2 * nth + 1;
            [frame(HEADERS, WHOLE, stream, &request("GET", "/wait", &[])), rst_stream(stream, CANCEL)].concat()
        });
    }),
    client("flood requests that we must reset", "CVE-2025-8671, RFC 9113 §10.5", "", |world| {
        let mut conn = world.client();
        calmed(world, &mut conn, 3000, |nth| {
            frame(HEADERS, WHOLE, 2 * nth + 1, &request("GET", "/", &[("x-padded", " x")]))
        });
    }),
    client("flood streams reset for their WINDOW_UPDATE", "CVE-2025-8671", "", |world| {
        let mut conn = world.client();
        let most = (1 << 31) - 1;
        calmed(world, &mut conn, 3000, |nth| {
            let stream = 2 * nth + 1;
            [post(stream), window_update(stream, most), window_update(stream, most)].concat()
        });
    }),
    client("flood streams reset for their Content-Length", "CVE-2025-8671", "", |world| {
        let mut conn = world.client();
        calmed(world, &mut conn, 3000, |nth| {
            frame(HEADERS, WHOLE, 2 * nth + 1, &request("POST", "/", &[("content-length", "4")]))
        });
    }),
    client("flood CONTINUATION", "CVE-2024-27316, RFC 9113 §10.5", "", |world| {
        let mut conn = world.client();
        conn.send(&frame(HEADERS, 0, 1, &request("GET", "/", &[])));
        calmed(world, &mut conn, 700, |_| frame(CONTINUATION, 0, 1, &literal(b"x", b"y")));
    }),
    client("flood empty CONTINUATION", "CVE-2024-27316", "", |world| {
        let mut conn = world.client();
        conn.send(&frame(HEADERS, 0, 1, &request("GET", "/", &[])));
        calmed(world, &mut conn, 700, |_| frame(CONTINUATION, 0, 1, &[]));
    }),
    client("flood SETTINGS", "CVE-2019-9515, RFC 9113 §10.5", "", |world| {
        let mut conn = world.client();
        calmed(world, &mut conn, 700, |nth| settings(&[(INITIAL_WINDOW_SIZE, 1000 + nth)]));
    }),
    client("flood PING", "CVE-2019-9512, RFC 9113 §10.5", "", |world| {
        let mut conn = world.client();
        calmed(world, &mut conn, 1300, |_| ping(&[0; 8]));
    }),
    client("flood answers to PINGs that nobody sent", "RFC 9113 §10.5", "", |world| {
        let mut conn = world.client();
        calmed(world, &mut conn, 700, |_| frame(PING, ACK, 0, &[0; 8]));
    }),
    client("flood PRIORITY", "CVE-2019-9513, RFC 9113 §10.5", "", |world| {
        let mut conn = world.client();
        calmed(world, &mut conn, 1300, |nth| priority(2 * nth + 1, 0, nth as u8));
    }),
    client("flood WINDOW_UPDATE", "RFC 9113 §10.5", "", |world| {
        let mut conn = world.client();
        calmed(world, &mut conn, 30_000, |_| window_update(0, 1));
    }),
    client("flood unknown frames", "RFC 9113 §10.5", "", |world| {
        let mut conn = world.client();
        calmed(world, &mut conn, 1300, |_| frame(0xee, 0, 0, &[]));
    }),
    client("flood large unknown frames", "RFC 9113 §10.5", "", |world| {
        let mut conn = world.client();
        calmed(world, &mut conn, 700, |_| frame(0xee, 0, 0, &[0; 16384]));
    }),
    client("flood GOAWAY", "RFC 9113 §10.5", "", |world| {
        let mut conn = world.client_with(&[(INITIAL_WINDOW_SIZE, 0)]);
        conn.send(&get(1));
        calmed(world, &mut conn, 700, |_| goaway(1, 0));
    }),
    client("flood empty DATA", "CVE-2019-9518, RFC 9113 §10.5", "", |world| {
        let mut conn = world.client();
        conn.send(&post(1));
        calmed(world, &mut conn, 700, |_| frame(DATA, 0, 1, &[]));
    }),
    client("flood DATA of padding alone", "CVE-2019-9518", "", |world| {
        let mut conn = world.client();
        conn.send(&post(1));
        calmed(world, &mut conn, 700, |_| frame(DATA, PADDED, 1, &[3, 0, 0, 0]));
    }),
    client("flood DATA for a stream that was reset", "RFC 9113 §10.5", "", |world| {
        let mut conn = world.client();
        conn.send_all(&[frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[("content-length", "x")]))]);
        calmed(world, &mut conn, 7000, |_| frame(DATA, 0, 1, &[]));
    }),
    client("flood a window that opens one byte at a time", "CVE-2019-9511, RFC 9113 §10.5", "", |world| {
        let mut conn = world.client_with(&[(INITIAL_WINDOW_SIZE, 0)]);
        conn.send(&frame(HEADERS, WHOLE, 1, &request("GET", "/large", &[])));
        assert_eq!(status(&mut conn, 1), 200);
        calmed(world, &mut conn, 60_000, |_| window_update(1, 1));
    }),
    client("flood a header list four times too large", "CVE-2016-1544, RFC 7541 §7", "", |world| {
        let mut conn = world.client();
        let most = conn.settings.iter().find(|(id, _)| *id == 6).expect("there is a limit").1 as usize;
        // One entry of almost the whole table, and then references to it of one byte each.
        let entry = indexed_literal(b"x-bomb", "x".repeat(4000).as_bytes());
        let bomb = [&request("GET", "/bomb", &[])[..], &entry, &vec![0xbe; 4 * most / 4000 + 10]].concat();
        conn.send(&frame(HEADERS, WHOLE, 1, &bomb));
        connection_error(&mut conn, &[ENHANCE_YOUR_CALM]);
        assert!(world.seen("/bomb").is_empty());
        world.serves_others();
    }),
    client("flood a client that reads nothing and asks for more", "RFC 9113 §10.5", "", |_| {
        // A sidecar of its own, whose memory no other case uses.
        let world = World::start("egress", 0);
        let mut conn = world.client();
        let before = world.memory();
        // Each PING wants an answer that is never taken: what cannot be written stops what is read, or the flood ends.
        let batch = vec![ping(&[7; 8]); 1000].concat();
        conn.push(&batch, 8 << 20);
        world.serves_others();
        let grown = world.memory().saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes more");
    }),
    client("flood windows that stay closed with many answers held", "RFC 9113 §10.5", "", |_| {
        // A sidecar of its own, whose memory no other case uses.
        let world = World::start("egress", 0);
        let mut conn = world.client_with(&[(INITIAL_WINDOW_SIZE, 0)]);
        let before = world.memory();
        let block = request("GET", "/large", &[]);
        let frames: Vec<_> = (0..256).map(|nth| frame(HEADERS, WHOLE, 2 * nth + 1, &block)).collect();
        conn.send_all(&frames);
        for _ in 0..256 {
            conn.find("an answer", |frame| frame.kind == HEADERS);
        }
        world.serves_others();
        let grown = world.memory().saturating_sub(before);
        assert!(grown < 128 << 20, "{grown} bytes more for {} of answers", 256 * LARGE);
    }),
    client("below the flood: PINGs as keep-alive and bandwidth probes", "RFC 9113 §6.7", "", |world| {
        let mut conn = world.client();
        for nth in 0..600 {
            let stream = 2 * nth + 1;
            conn.send_all(&[post(stream), frame(DATA, END_STREAM, stream, &[1; 100]), ping(&[1; 8]), ping(&[2; 8])]);
            assert_eq!(status(&mut conn, stream), 200);
        }
        conn.pinged();
    }),
    client("below the flood: two WINDOW_UPDATE for each DATA", "RFC 9113 §6.9", "", |world| {
        let mut conn = world.client_with(&[(INITIAL_WINDOW_SIZE, 200)]);
        conn.send_all(&[frame(HEADERS, WHOLE, 1, &request("GET", "/large", &[])), frame(HEADERS, WHOLE, 3, &request("GET", "/large", &[]))]);
        let mut left = 2;
        let mut updates = 0;
        while left > 0 {
            let data = conn.find("DATA", |frame| frame.kind == DATA || frame.kind == GOAWAY);
            assert_eq!(data.kind, DATA, "after {updates} updates");
            left -= u32::from(data.ends());
            let length = data.payload.len() as u32;
            if length > 0 {
                updates += 2;
                conn.send_all(&[window_update(0, length), window_update(data.stream, length)]);
            }
        }
        assert!(updates > 10_000, "{updates}");
    }),
    client("below the flood: small messages both ways, with two WINDOW_UPDATE for each", "RFC 9113 §6.9", "", |world| {
        let mut conn = world.client();
        conn.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/echo", &[])));
        for _ in 0..MESSAGES / BATCH {
            conn.send(&vec![frame(DATA, 0, 1, MESSAGE); BATCH].concat());
            let mut left = BATCH * MESSAGE.len();
            while left > 0 {
                let data = conn.find("DATA", |frame| frame.kind == DATA && !frame.payload.is_empty());
                left -= data.payload.len();
            }
            conn.send(&updates_for_each_message());
        }
        conn.send(&frame(DATA, END_STREAM, 1, &[]));
        conn.find("the end", |frame| frame.stream == 1 && frame.ends());
    }),
    client("below the flood: half of all requests are taken back", "RFC 9113 §8.7", "", |world| {
        let mut conn = world.client();
        for nth in 0..600 {
            let stream = 4 * nth + 1;
            conn.send_all(&[post(stream), rst_stream(stream, CANCEL)]);
            answered(&mut conn, stream + 2);
        }
        conn.pinged();
    }),
    client("below the flood: a hundred priorities before the first request", "RFC 9113 §6.3", "", |world| {
        let mut conn = world.client();
        let frames: Vec<_> = (0..100).map(|nth| priority(2 * nth + 1, 0, 1)).collect();
        conn.send_all(&frames);
        answered(&mut conn, 1);
    }),
    client("below the flood: small DATA in their thousands", "RFC 9113 §6.1", "", |world| {
        let mut conn = world.client();
        conn.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/crumbs-of-data", &[])));
        for _ in 0..50 {
            conn.send(&vec![frame(DATA, 0, 1, b"crumb"); 100].concat());
            conn.pinged();
        }
        conn.send(&frame(DATA, END_STREAM, 1, b"last"));
        assert_eq!(status(&mut conn, 1), 200);
        assert_eq!(world.seen("/crumbs-of-data")[0].body.len(), 5 * 5000 + 4);
    }),
    endpoint("flood SETTINGS", "CVE-2019-9515, RFC 9113 §10.5", |world, stage| {
        endpoint_calmed(world, stage, 100, |nth| settings(&[(INITIAL_WINDOW_SIZE, 1000 + nth)]));
    }),
    endpoint("flood PING", "CVE-2019-9512, RFC 9113 §10.5", |world, stage| {
        endpoint_calmed(world, stage, 1300, |_| ping(&[0; 8]));
    }),
    endpoint("flood answers to PINGs that nobody sent", "RFC 9113 §10.5", |world, stage| {
        endpoint_calmed(world, stage, 100, |_| frame(PING, ACK, 0, &[0; 8]));
    }),
    endpoint("flood PRIORITY", "CVE-2019-9513, RFC 9113 §10.5", |world, stage| {
        endpoint_calmed(world, stage, 1300, |nth| priority(2 * nth + 1, 0, nth as u8));
    }),
    endpoint("flood WINDOW_UPDATE", "RFC 9113 §10.5", |world, stage| {
        endpoint_calmed(world, stage, 30_000, |_| window_update(0, 1));
    }),
    endpoint("flood unknown frames", "RFC 9113 §10.5", |world, stage| {
        endpoint_calmed(world, stage, 1300, |_| frame(0xee, 0, 0, &[]));
    }),
    endpoint("flood GOAWAY", "RFC 9113 §10.5", |world, stage| {
        endpoint_calmed(world, stage, 100, |_| goaway(1, 0));
    }),
    endpoint("flood CONTINUATION", "CVE-2024-27316, RFC 9113 §10.5", |world, stage| {
        endpoint_calmed(world, stage, 100, |nth| match nth {
            0 => frame(HEADERS, 0, 1, &[0x88]),
            _ => frame(CONTINUATION, 0, 1, &literal(b"x", b"y")),
        });
    }),
    endpoint("flood RST_STREAM of one stream", "RFC 9113 §10.5", |world, stage| {
        let client = stage.get();
        let mut conn = stage.accept();
        conn.find("a request", |frame| frame.kind == HEADERS);
        conn.send(&vec![rst_stream(1, CANCEL); 5000].concat());
        connection_error(&mut conn, &[ENHANCE_YOUR_CALM]);
        client.join().expect("the client ends");
        world.serves_others();
    }),
    endpoint("flood empty DATA", "CVE-2019-9518, RFC 9113 §10.5", |world, stage| {
        let client = stage.get();
        let mut conn = stage.accept();
        conn.find("a request", |frame| frame.kind == HEADERS);
        conn.send(&frame(HEADERS, END_HEADERS, 1, &[0x88]));
        conn.send(&vec![frame(DATA, 0, 1, &[]); 5000].concat());
        connection_error(&mut conn, &[ENHANCE_YOUR_CALM]);
        let answer = client.join().expect("the client ends");
        assert!(!answer.ends_with("\r\n0\r\n\r\n"), "{answer:?}");
        world.serves_others();
    }),
    endpoint("below the flood: small messages both ways, with two WINDOW_UPDATE for each", "RFC 9113 §6.9", |_, stage| {
        let chunk = format!("{:x}\r\n{}\r\n", MESSAGE.len(), String::from_utf8_lossy(MESSAGE));
        let body = chunk.repeat(MESSAGES);
        let client = stage.ask(&format!(
            "POST / HTTP/1.1\r\nhost: app\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{body}0\r\n\r\n"
        ));
        let mut conn = stage.accept();
        conn.find("a request", |frame| frame.kind == HEADERS);
        conn.send(&frame(HEADERS, END_HEADERS, 1, &[0x88]));
        let mut came = 0;
        for nth in 1..=MESSAGES / BATCH {
            while came < nth * BATCH * MESSAGE.len() {
                let data = conn.find("DATA", |frame| frame.kind == DATA);
                came += data.payload.len();
            }
            conn.send(&updates_for_each_message());
            conn.send(&vec![frame(DATA, 0, 1, MESSAGE); BATCH].concat());
        }
        conn.send(&frame(DATA, END_STREAM, 1, &[]));
        let answer = client.join().expect("the client ends");
        assert!(answer.ends_with("\r\n0\r\n\r\n"), "{answer:?}");
    }),
    endpoint("below the flood: two PINGs for each answer", "RFC 9113 §6.7", |_, stage| {
        let mut conn = None;
        for nth in 0..600 {
            let client = stage.get();
            let conn = conn.get_or_insert_with(|| stage.accept());
            let stream = conn.find("a request", |frame| frame.kind == HEADERS).stream;
            conn.send_all(&[ping(&[1; 8]), frame(HEADERS, WHOLE, stream, &[0x88]), ping(&[2; 8])]);
            let answer = client.join().expect("the client ends");
            assert!(answer.starts_with("HTTP/1.1 200 "), "request {nth}: {answer:?}");
        }
    }),
];
