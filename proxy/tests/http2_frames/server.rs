//! Frames that a client may not send, or that must be ignored: RFC 9113 sections 3 to 7.

use crate::verdict::{closed, connection_error, either, overflowed, stream_error};
use crate::wire::*;
use crate::world::{World, answered, status};
use crate::{Case, client};

/// A GET on stream 1, ended.
fn get() -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &request("GET", "/", &[]))
}

/// A POST on stream 1 whose body is to come.
fn post() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]))
}

/// Sends the frames on a new connection, and expects GOAWAY with the code.
fn refused(world: &World, frames: &[Vec<u8>], code: u32) {
    let mut conn = world.client();
    conn.send_all(frames);
    connection_error(&mut conn, &[code]);
}

/// Sends the frames on a new connection, and expects it to go on as if nothing had come.
fn ignored(world: &World, frames: &[Vec<u8>]) {
    let mut conn = world.client();
    conn.send_all(frames);
    conn.pinged();
    answered(&mut conn, 101);
}

/// Sends the frames after the answer to stream 1 has come to its end.
fn after_the_answer(world: &World, frames: &[Vec<u8>], code: u32) {
    let mut conn = world.client();
    answered(&mut conn, 1);
    conn.send_all(frames);
    either(&mut conn, 1, code);
}

/// The first DATA of the answer to stream 1.
fn first_data(conn: &mut Conn) -> Frame {
    conn.find("DATA", |frame| frame.kind == DATA && frame.stream == 1)
}

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    client("3.4 the server's first frame is SETTINGS", "RFC 9113 §3.4", "http2/3.5/1", |world| {
        let mut conn = Conn::connect(world.listener);
        conn.send(&[PREFACE, &settings(&[(INITIAL_WINDOW_SIZE, 65535)])].concat());
        let first = conn.next().expect("a frame comes");
        assert!(first.kind == SETTINGS && !first.has(ACK), "{first:?}");
    }),
    client("3.4 a preface that is none", "RFC 9113 §3.4", "http2/3.5/2", |world| {
        let mut conn = Conn::connect(world.listener);
        conn.send(b"INVALID CONNECTION PREFACE\r\n\r\n");
        while conn.exactly(1).is_some() {}
    }),
    client("3.4 a preface broken off in its middle", "RFC 9113 §3.4", "", |world| {
        let mut conn = Conn::connect(world.listener);
        conn.send(&[&PREFACE[..18], b"XX\r\n\r\n"].concat());
        conn.shutdown();
        while conn.exactly(1).is_some() {}
    }),
    client("3.4 PING before SETTINGS", "RFC 9113 §3.4", "", |world| {
        let mut conn = Conn::connect(world.listener);
        conn.send_all(&[PREFACE.to_vec(), ping(&[0; 8]), settings(&[])]);
        connection_error(&mut conn, &[PROTOCOL_ERROR]);
    }),
    client("3.4 a request before SETTINGS", "RFC 9113 §3.4", "", |world| {
        let mut conn = Conn::connect(world.listener);
        conn.send_all(&[PREFACE.to_vec(), get()]);
        connection_error(&mut conn, &[PROTOCOL_ERROR]);
    }),
    client("3.4 ACK as the first SETTINGS", "RFC 9113 §3.4", "", |world| {
        let mut conn = Conn::connect(world.listener);
        conn.send_all(&[PREFACE.to_vec(), frame(SETTINGS, ACK, 0, &[])]);
        connection_error(&mut conn, &[PROTOCOL_ERROR]);
    }),
    client("3.4 the preface byte by byte", "RFC 9113 §3.4", "", |world| {
        let mut conn = Conn::connect(world.listener);
        for byte in [PREFACE, &settings(&[])].concat() {
            conn.send(&[byte]);
        }
        conn.pinged();
    }),
    client("4.1 a frame of unknown type", "RFC 9113 §4.1", "http2/4.1/1", |world| {
        ignored(world, &[frame(0x16, 0, 0, &[0; 8])]);
    }),
    client("4.1 flags that are not defined", "RFC 9113 §4.1", "http2/4.1/2", |world| {
        let mut conn = world.client();
        conn.send(&frame(PING, 0x16, 0, b"flagged!"));
        let pong = conn.find("PING", |frame| frame.kind == PING);
        assert!(pong.has(ACK) && pong.payload == b"flagged!");
    }),
    client("4.1 the reserved bit of the stream", "RFC 9113 §4.1", "http2/4.1/3", |world| {
        let mut conn = world.client();
        conn.send(&frame(PING, 0x16, 1 << 31, b"reserved"));
        let pong = conn.find("PING", |frame| frame.kind == PING);
        assert!(pong.has(ACK) && pong.payload == b"reserved");
    }),
    client("4.2 DATA of 2^14 bytes", "RFC 9113 §4.2", "http2/4.2/1", |world| {
        let mut conn = world.client();
        conn.send_all(&[post(), frame(DATA, END_STREAM, 1, &[b'x'; 16384])]);
        assert_eq!(status(&mut conn, 1), 200);
    }),
    client("4.2 DATA larger than SETTINGS_MAX_FRAME_SIZE", "RFC 9113 §4.2", "http2/4.2/2", |world| {
        refused(world, &[post(), frame(DATA, END_STREAM, 1, &[b'x'; 16385])], FRAME_SIZE_ERROR);
    }),
    client("4.2 HEADERS larger than SETTINGS_MAX_FRAME_SIZE", "RFC 9113 §4.2", "http2/4.2/3", |world| {
        let block = request("GET", "/", &[("x", &"x".repeat(16384))]);
        refused(world, &[frame(HEADERS, WHOLE, 1, &block)], FRAME_SIZE_ERROR);
    }),
    client("4.2 an unknown frame larger than SETTINGS_MAX_FRAME_SIZE", "RFC 9113 §4.2", "", |world| {
        refused(world, &[frame(0x16, 0, 0, &[0; 16385])], FRAME_SIZE_ERROR);
    }),
    client("4.2 the head of a frame of 2^24-1 bytes", "RFC 9113 §4.2", "", |world| {
        refused(world, &[frame_of((1 << 24) - 1, DATA, 0, 1, &[])], FRAME_SIZE_ERROR);
    }),
    client("4.3 PRIORITY within a header block", "RFC 9113 §4.3", "http2/4.3/2", |world| {
        refused(world, &[frame(HEADERS, 0, 1, &request("GET", "/", &[])), priority(1, 0, 255)], PROTOCOL_ERROR);
    }),
    client("4.3 HEADERS of another stream within a header block", "RFC 9113 §4.3", "http2/4.3/3", |world| {
        let block = request("GET", "/", &[]);
        refused(world, &[frame(HEADERS, 0, 1, &block), frame(HEADERS, WHOLE, 3, &block)], PROTOCOL_ERROR);
    }),
    client("4.3 PING within a header block", "RFC 9113 §4.3", "", |world| {
        refused(world, &[frame(HEADERS, 0, 1, &request("GET", "/", &[])), ping(&[0; 8])], PROTOCOL_ERROR);
    }),
    client("5.1 DATA on an idle stream", "RFC 9113 §5.1", "http2/5.1/1", |world| {
        refused(world, &[frame(DATA, END_STREAM, 1, b"test")], PROTOCOL_ERROR);
    }),
    client("5.1 RST_STREAM on an idle stream", "RFC 9113 §5.1", "http2/5.1/2, 6.4/2", |world| {
        refused(world, &[rst_stream(1, CANCEL)], PROTOCOL_ERROR);
    }),
    client("5.1 WINDOW_UPDATE on an idle stream", "RFC 9113 §5.1", "http2/5.1/3", |world| {
        refused(world, &[window_update(1, 100)], PROTOCOL_ERROR);
    }),
    client("5.1 CONTINUATION on an idle stream", "RFC 9113 §5.1", "http2/5.1/4", |world| {
        refused(world, &[frame(CONTINUATION, END_HEADERS, 1, &request("GET", "/", &[]))], PROTOCOL_ERROR);
    }),
    client("5.1 DATA on a stream half-closed by the client", "RFC 9113 §5.1", "http2/5.1/5, 6.1/2", |world| {
        let mut conn = world.client();
        conn.send_all(&[get(), frame(DATA, END_STREAM, 1, b"test")]);
        either(&mut conn, 1, STREAM_CLOSED);
    }),
    client("5.1 HEADERS on a stream half-closed by the client", "RFC 9113 §5.1", "http2/5.1/6, 5.1.1/3", |world| {
        let mut conn = world.client();
        conn.send_all(&[get(), get()]);
        either(&mut conn, 1, STREAM_CLOSED);
    }),
    client("5.1 CONTINUATION on a stream half-closed by the client", "RFC 9113 §5.1, §6.10", "http2/5.1/7", |world| {
        let block = request("GET", "/", &[]);
        refused(world, &[get(), frame(CONTINUATION, END_HEADERS, 1, &block)], PROTOCOL_ERROR);
    }),
    client("5.1 DATA after RST_STREAM", "RFC 9113 §5.1", "http2/5.1/8", |world| {
        let mut conn = world.client();
        conn.send_all(&[post(), rst_stream(1, CANCEL), frame(DATA, END_STREAM, 1, b"test")]);
        either(&mut conn, 1, STREAM_CLOSED);
    }),
    client("5.1 HEADERS after RST_STREAM", "RFC 9113 §5.1", "http2/5.1/9", |world| {
        let mut conn = world.client();
        conn.send_all(&[post(), rst_stream(1, CANCEL), get()]);
        either(&mut conn, 1, STREAM_CLOSED);
    }),
    client("5.1 CONTINUATION after RST_STREAM", "RFC 9113 §5.1, §6.10", "http2/5.1/10", |world| {
        let fields = block(&[("x-test", "ok")]);
        let frames = [post(), rst_stream(1, CANCEL), frame(CONTINUATION, END_HEADERS, 1, &fields)];
        refused(world, &frames, PROTOCOL_ERROR);
    }),
    client("5.1 DATA on a closed stream", "RFC 9113 §5.1", "http2/5.1/11", |world| {
        after_the_answer(world, &[frame(DATA, END_STREAM, 1, b"test")], STREAM_CLOSED);
    }),
    client("5.1 HEADERS on a closed stream", "RFC 9113 §5.1", "http2/5.1/12", |world| {
        after_the_answer(world, &[get()], STREAM_CLOSED);
    }),
    client("5.1 CONTINUATION on a closed stream", "RFC 9113 §5.1, §6.10", "http2/5.1/13", |world| {
        after_the_answer(world, &[frame(CONTINUATION, END_HEADERS, 1, &[])], PROTOCOL_ERROR);
    }),
    client("5.1 DATA in flight to a stream that the server has reset is ignored", "RFC 9113 §5.1", "", |world| {
        let mut conn = world.client();
        conn.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[("content-length", "x")])));
        conn.find("RST_STREAM", |frame| frame.kind == RST_STREAM && frame.stream == 1);
        conn.send_all(&[frame(DATA, 0, 1, b"late"), frame(DATA, END_STREAM, 1, b"later")]);
        conn.pinged();
        answered(&mut conn, 3);
    }),
    client("5.1.1 an even stream", "RFC 9113 §5.1.1", "http2/5.1.1/1", |world| {
        refused(world, &[frame(HEADERS, WHOLE, 2, &request("GET", "/", &[]))], PROTOCOL_ERROR);
    }),
    client("5.1.1 a stream lower than one before", "RFC 9113 §5.1.1", "http2/5.1.1/2", |world| {
        let block = request("GET", "/", &[]);
        refused(world, &[frame(HEADERS, WHOLE, 5, &block), frame(HEADERS, WHOLE, 3, &block)], PROTOCOL_ERROR);
    }),
    client("5.1.2 one stream more than SETTINGS_MAX_CONCURRENT_STREAMS", "RFC 9113 §5.1.2", "http2/5.1.2/1", |world| {
        let mut conn = world.client();
        let most = conn.settings.iter().find(|(id, _)| *id == MAX_CONCURRENT_STREAMS);
        let most = most.expect("there is a limit").1;
        conn.send(&settings(&[(INITIAL_WINDOW_SIZE, 0)]));
        let block = request("GET", "/", &[]);
        let streams: Vec<u32> = (0..=most).map(|nth| 2 * nth + 1).collect();
        let frames: Vec<_> = streams.iter().map(|id| frame(HEADERS, WHOLE, *id, &block)).collect();
        conn.send_all(&frames);
        stream_error(&mut conn, 2 * most + 1, &[PROTOCOL_ERROR, REFUSED_STREAM]);
    }),
    client("5.3.1 HEADERS that depend on themselves", "RFC 7540 §5.3.1", "http2/5.3.1/1", |world| {
        let block = [&1u32.to_be_bytes()[..], &[255], &request("GET", "/", &[])].concat();
        let mut conn = world.client();
        conn.send(&frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &block));
        either(&mut conn, 1, PROTOCOL_ERROR);
    }),
    client("5.3.1 PRIORITY that depends on itself", "RFC 7540 §5.3.1", "http2/5.3.1/2", |world| {
        let mut conn = world.client();
        conn.send(&priority(1, 1, 255));
        either(&mut conn, 1, PROTOCOL_ERROR);
    }),
    client("5.4.1 GOAWAY comes before the connection closes", "RFC 9113 §5.4.1", "http2/5.4.1/1, 5.4.1/2", |world| {
        refused(world, &[frame(PING, 0, 3, &[0; 8])], PROTOCOL_ERROR);
    }),
    client("5.4.1 GOAWAY names the last stream", "RFC 9113 §5.4.1, §6.8", "", |world| {
        let mut conn = world.client();
        answered(&mut conn, 5);
        conn.send(&frame(PING, 0, 0, &[0; 7]));
        let last = conn.find("GOAWAY", |frame| frame.kind == GOAWAY);
        assert_eq!((last.number(0), last.number(4)), (5, FRAME_SIZE_ERROR));
        closed(&mut conn);
    }),
    client("5.5 an unknown extension", "RFC 9113 §5.5", "http2/5.5/1", |world| {
        ignored(world, &[frame(0xff, 0xff, 0, &[0; 8]), frame(0xee, 0, 9, &[])]);
    }),
    client("5.5 an unknown extension within a header block", "RFC 9113 §5.5", "http2/5.5/2", |world| {
        refused(world, &[frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[])), frame(0xff, 0, 0, &[0; 8])], PROTOCOL_ERROR);
    }),
    client("6.1 DATA on stream 0", "RFC 9113 §6.1", "http2/6.1/1", |world| {
        refused(world, &[frame(DATA, END_STREAM, 0, b"test")], PROTOCOL_ERROR);
    }),
    client("6.1 DATA with more padding than payload", "RFC 9113 §6.1", "http2/6.1/3", |world| {
        refused(world, &[post(), frame(DATA, END_STREAM | PADDED, 1, b"\x06test")], PROTOCOL_ERROR);
    }),
    client("6.1 DATA with as much padding as payload", "RFC 9113 §6.1", "", |world| {
        refused(world, &[post(), frame(DATA, END_STREAM | PADDED, 1, b"\x05test")], PROTOCOL_ERROR);
    }),
    client("6.1 padded DATA without a pad length", "RFC 9113 §6.1, §4.2", "", |world| {
        refused(world, &[post(), frame(DATA, END_STREAM | PADDED, 1, b"")], FRAME_SIZE_ERROR);
    }),
    client("6.2 HEADERS without END_HEADERS and then PRIORITY", "RFC 9113 §6.2", "http2/6.2/1", |world| {
        refused(world, &[frame(HEADERS, 0, 1, &request("POST", "/", &[])), priority(1, 0, 255)], PROTOCOL_ERROR);
    }),
    client("6.2 HEADERS without END_HEADERS and then another stream's", "RFC 9113 §6.2", "http2/6.2/2", |world| {
        let block = request("POST", "/", &[]);
        refused(world, &[frame(HEADERS, 0, 1, &block), frame(HEADERS, WHOLE, 3, &block)], PROTOCOL_ERROR);
    }),
    client("6.2 HEADERS on stream 0", "RFC 9113 §6.2", "http2/6.2/3", |world| {
        refused(world, &[frame(HEADERS, WHOLE, 0, &request("GET", "/", &[]))], PROTOCOL_ERROR);
    }),
    client("6.2 HEADERS with more padding than payload", "RFC 9113 §6.2", "http2/6.2/4", |world| {
        let block = request("GET", "/", &[]);
        let padded = [&[block.len() as u8 + 2][..], &block].concat();
        refused(world, &[frame(HEADERS, WHOLE | PADDED, 1, &padded)], PROTOCOL_ERROR);
    }),
    client("6.2 HEADERS too short for their priority", "RFC 9113 §4.2, §6.2", "", |world| {
        refused(world, &[frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[0; 4])], FRAME_SIZE_ERROR);
    }),
    client("6.3 PRIORITY on stream 0", "RFC 9113 §6.3", "http2/6.3/1", |world| {
        refused(world, &[priority(0, 0, 255)], PROTOCOL_ERROR);
    }),
    client("6.3 PRIORITY of four bytes", "RFC 9113 §6.3", "http2/6.3/2", |world| {
        refused(world, &[get(), frame(PRIORITY, 0, 1, &[0x80, 0, 0, 1])], FRAME_SIZE_ERROR);
    }),
    client("6.4 RST_STREAM on stream 0", "RFC 9113 §6.4", "http2/6.4/1", |world| {
        refused(world, &[rst_stream(0, CANCEL)], PROTOCOL_ERROR);
    }),
    client("6.4 RST_STREAM of three bytes", "RFC 9113 §6.4", "http2/6.4/3", |world| {
        refused(world, &[get(), frame(RST_STREAM, 0, 1, &[0; 3])], FRAME_SIZE_ERROR);
    }),
    client("6.5 ACK of SETTINGS with a payload", "RFC 9113 §6.5", "http2/6.5/1", |world| {
        refused(world, &[frame(SETTINGS, ACK, 0, &[0])], FRAME_SIZE_ERROR);
    }),
    client("6.5 SETTINGS on a stream", "RFC 9113 §6.5", "http2/6.5/2", |world| {
        refused(world, &[frame(SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 100])], PROTOCOL_ERROR);
    }),
    client("6.5 SETTINGS of eight bytes", "RFC 9113 §6.5", "http2/6.5/3", |world| {
        refused(world, &[frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100, 0, 2])], FRAME_SIZE_ERROR);
    }),
    client("6.5 an ACK that nobody waits for", "RFC 9113 §6.5.3", "", |world| {
        refused(world, &[frame(SETTINGS, ACK, 0, &[])], PROTOCOL_ERROR);
    }),
    client("6.5.2 ENABLE_PUSH that is neither 0 nor 1", "RFC 9113 §6.5.2", "http2/6.5.2/1", |world| {
        refused(world, &[settings(&[(ENABLE_PUSH, 2)])], PROTOCOL_ERROR);
    }),
    client("6.5.2 INITIAL_WINDOW_SIZE above 2^31-1", "RFC 9113 §6.5.2, §6.9.2", "http2/6.5.2/2, 6.9.2/3", |world| {
        refused(world, &[settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)])], FLOW_CONTROL_ERROR);
    }),
    client("6.5.2 MAX_FRAME_SIZE below 2^14", "RFC 9113 §6.5.2", "http2/6.5.2/3", |world| {
        refused(world, &[settings(&[(MAX_FRAME_SIZE, 16383)])], PROTOCOL_ERROR);
    }),
    client("6.5.2 MAX_FRAME_SIZE above 2^24-1", "RFC 9113 §6.5.2", "http2/6.5.2/4", |world| {
        refused(world, &[settings(&[(MAX_FRAME_SIZE, 1 << 24)])], PROTOCOL_ERROR);
    }),
    client("6.5.2 a setting that is not known", "RFC 9113 §6.5.2", "http2/6.5.2/5", |world| {
        ignored(world, &[settings(&[(0xff, 1), (0xfff0, u32::MAX)])]);
    }),
    client("6.5.3 values take effect in their order", "RFC 9113 §6.5.3", "http2/6.5.3/1", |world| {
        let mut conn = world.client();
        conn.send(&settings(&[(INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)]));
        conn.acknowledged();
        conn.send(&get());
        assert_eq!(first_data(&mut conn).payload.len(), 1);
    }),
    client("6.5.3 SETTINGS are acknowledged", "RFC 9113 §6.5.3", "http2/6.5.3/2", |world| {
        let mut conn = world.client();
        conn.send(&settings(&[(ENABLE_PUSH, 0)]));
        conn.acknowledged();
    }),
    client("6.7 PING is answered with its payload", "RFC 9113 §6.7", "http2/6.7/1", |world| {
        world.client().pinged();
    }),
    client("6.7 ACK of a PING is not answered", "RFC 9113 §6.7", "http2/6.7/2", |world| {
        let mut conn = world.client();
        conn.send_all(&[frame(PING, ACK, 0, b"unasked!"), ping(b"question")]);
        let pong = conn.find("PING", |frame| frame.kind == PING);
        assert_eq!(pong.payload, b"question");
    }),
    client("6.7 PING on a stream", "RFC 9113 §6.7", "http2/6.7/3", |world| {
        refused(world, &[frame(PING, 0, 1, &[0; 8])], PROTOCOL_ERROR);
    }),
    client("6.7 PING of six bytes", "RFC 9113 §6.7", "http2/6.7/4", |world| {
        refused(world, &[frame(PING, 0, 0, &[0; 6])], FRAME_SIZE_ERROR);
    }),
    client("6.8 GOAWAY on a stream", "RFC 9113 §6.8", "http2/6.8/1", |world| {
        refused(world, &[frame(GOAWAY, 0, 1, &[0; 8])], PROTOCOL_ERROR);
    }),
    client("6.8 GOAWAY of seven bytes", "RFC 9113 §4.2, §6.8", "", |world| {
        refused(world, &[frame(GOAWAY, 0, 0, &[0; 7])], FRAME_SIZE_ERROR);
    }),
    client("6.9 WINDOW_UPDATE by 0", "RFC 9113 §6.9", "http2/6.9/1", |world| {
        refused(world, &[window_update(0, 0)], PROTOCOL_ERROR);
    }),
    client("6.9 WINDOW_UPDATE by 0 on a stream", "RFC 9113 §6.9", "http2/6.9/2", |world| {
        let mut conn = world.client();
        conn.send_all(&[post(), window_update(1, 0)]);
        either(&mut conn, 1, PROTOCOL_ERROR);
    }),
    client("6.9 WINDOW_UPDATE of three bytes", "RFC 9113 §6.9", "http2/6.9/3", |world| {
        refused(world, &[frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1])], FRAME_SIZE_ERROR);
    }),
    client("6.9 the reserved bit of an increment", "RFC 9113 §6.9", "", |world| {
        ignored(world, &[window_update(0, 1 << 31 | 1)]);
    }),
    client("6.9.1 no DATA beyond the stream's window", "RFC 9113 §6.9.1", "http2/6.9.1/1", |world| {
        let mut conn = world.client();
        conn.send(&settings(&[(INITIAL_WINDOW_SIZE, 1)]));
        conn.acknowledged();
        conn.send(&get());
        assert_eq!(first_data(&mut conn).payload.len(), 1);
    }),
    client("6.9.1 the connection's window above 2^31-1", "RFC 9113 §6.9.1", "http2/6.9.1/2", |world| {
        let most = (1 << 31) - 1;
        refused(world, &[window_update(0, most), window_update(0, most)], FLOW_CONTROL_ERROR);
    }),
    client("6.9.1 a stream's window above 2^31-1", "RFC 9113 §6.9.1", "http2/6.9.1/3", |world| {
        let mut conn = world.client();
        let most = (1 << 31) - 1;
        conn.send_all(&[post(), window_update(1, most), window_update(1, most)]);
        overflowed(&mut conn, 1);
    }),
    client("6.9.2 windows follow INITIAL_WINDOW_SIZE", "RFC 9113 §6.9.2", "http2/6.9.2/1", |world| {
        let mut conn = world.client();
        conn.send(&settings(&[(INITIAL_WINDOW_SIZE, 0)]));
        conn.acknowledged();
        conn.send_all(&[get(), settings(&[(INITIAL_WINDOW_SIZE, 1)])]);
        conn.acknowledged();
        assert_eq!(first_data(&mut conn).payload.len(), 1);
    }),
    client("6.9.2 a window becomes negative", "RFC 9113 §6.9.2", "http2/6.9.2/2", |world| {
        let mut conn = world.client();
        conn.send(&settings(&[(INITIAL_WINDOW_SIZE, 3)]));
        conn.acknowledged();
        conn.send(&get());
        assert_eq!(first_data(&mut conn).payload.len(), 3);
        conn.send(&settings(&[(INITIAL_WINDOW_SIZE, 2)]));
        conn.acknowledged();
        conn.send(&window_update(1, 2));
        assert_eq!(first_data(&mut conn).payload.len(), 1);
    }),
    client("6.9.2 INITIAL_WINDOW_SIZE that makes a stream's window overflow", "RFC 9113 §6.9.2", "", |world| {
        let mut conn = world.client_with(&[(INITIAL_WINDOW_SIZE, 0)]);
        let most = (1 << 31) - 1;
        conn.send_all(&[post(), window_update(1, most), settings(&[(INITIAL_WINDOW_SIZE, 1)])]);
        connection_error(&mut conn, &[FLOW_CONTROL_ERROR]);
    }),
    client("6.10 CONTINUATION and then another frame", "RFC 9113 §6.10", "http2/6.10/2", |world| {
        let more = frame(CONTINUATION, 0, 1, &block(&[("x", "y")]));
        let frames = [frame(HEADERS, 0, 1, &request("POST", "/", &[])), more, frame(DATA, END_STREAM, 1, b"test")];
        refused(world, &frames, PROTOCOL_ERROR);
    }),
    client("6.10 CONTINUATION on stream 0", "RFC 9113 §6.10", "http2/6.10/3", |world| {
        let more = frame(CONTINUATION, END_HEADERS, 0, &block(&[("x", "y")]));
        refused(world, &[frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[])), more], PROTOCOL_ERROR);
    }),
    client("6.10 CONTINUATION after HEADERS with END_HEADERS", "RFC 9113 §6.10", "http2/6.10/4", |world| {
        refused(world, &[get(), frame(CONTINUATION, END_HEADERS, 1, &block(&[("x", "y")]))], PROTOCOL_ERROR);
    }),
    client("6.10 CONTINUATION after the last of its kind", "RFC 9113 §6.10", "http2/6.10/5", |world| {
        let more = frame(CONTINUATION, END_HEADERS, 1, &block(&[("x", "y")]));
        let first = frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[]));
        refused(world, &[first, more.clone(), more], PROTOCOL_ERROR);
    }),
    client("6.10 CONTINUATION after DATA", "RFC 9113 §6.10", "http2/6.10/6", |world| {
        let more = frame(CONTINUATION, 0, 1, &block(&[("x", "y")]));
        let first = frame(HEADERS, 0, 1, &request("POST", "/", &[]));
        refused(world, &[first, frame(DATA, END_STREAM, 1, b"test"), more], PROTOCOL_ERROR);
    }),
    client("6.10 CONTINUATION of another stream", "RFC 9113 §6.10", "", |world| {
        let more = frame(CONTINUATION, END_HEADERS, 3, &block(&[("x", "y")]));
        refused(world, &[frame(HEADERS, END_STREAM, 1, &request("GET", "/", &[])), more], PROTOCOL_ERROR);
    }),
    client("7 GOAWAY with an unknown code", "RFC 9113 §7", "http2/7/1", |world| {
        let mut conn = world.client();
        conn.send(&goaway(0, 0xff));
        while conn.next().is_some() {}
    }),
    client("7 RST_STREAM with an unknown code", "RFC 9113 §7", "http2/7/2", |world| {
        ignored(world, &[post(), rst_stream(1, 0xff)]);
    }),
    client("8.4 PUSH_PROMISE from a client", "RFC 9113 §8.4", "http2/8.2/1", |world| {
        let promise = [&3u32.to_be_bytes()[..], &request("GET", "/", &[])].concat();
        refused(world, &[frame(PUSH_PROMISE, END_HEADERS, 1, &promise)], PROTOCOL_ERROR);
    }),
    client("8.4 PUSH_PROMISE on an open stream from a client", "RFC 9113 §8.4", "", |world| {
        let promise = [&3u32.to_be_bytes()[..], &request("GET", "/", &[])].concat();
        refused(world, &[post(), frame(PUSH_PROMISE, END_HEADERS, 1, &promise)], PROTOCOL_ERROR);
    }),
];
