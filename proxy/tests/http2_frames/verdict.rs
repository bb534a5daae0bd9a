//! How a peer's error may end (RFC 9113 section 5.4).

use crate::wire::{Conn, FLOW_CONTROL_ERROR, GOAWAY, PROTOCOL_ERROR, RST_STREAM};

/// GOAWAY with one of the codes, and then the end of the connection.
pub(crate) fn connection_error(conn: &mut Conn, codes: &[u32]) {
    let last = conn.find("GOAWAY", |frame| frame.kind == GOAWAY);
    let code = last.number(4);
    assert!(
        codes.contains(&code),
        "GOAWAY has code {code}, not {codes:?}"
    );
    closed(conn);
}

/// The connection ends, and nothing but GOAWAY comes any more.
pub(crate) fn closed(conn: &mut Conn) {
    while let Some(frame) = conn.next() {
        assert_eq!(frame.kind, GOAWAY, "{frame:?} came after GOAWAY");
    }
}

/// RST_STREAM with one of the codes, on a connection that goes on.
pub(crate) fn stream_error(conn: &mut Conn, stream: u32, codes: &[u32]) {
    let reset = conn.find("RST_STREAM", |frame| {
        frame.kind == RST_STREAM && frame.stream == stream || frame.kind == GOAWAY
    });
    assert_eq!(reset.kind, RST_STREAM, "{reset:?}");
    let code = reset.number(0);
    assert!(
        codes.contains(&code),
        "RST_STREAM has code {code}, not {codes:?}"
    );
    conn.pinged();
}

/// A stream error of the code, or a connection error of it: a receiver may choose (section 5.4.1).
pub(crate) fn either(conn: &mut Conn, stream: u32, code: u32) {
    let end = conn.find("RST_STREAM or GOAWAY", |frame| {
        frame.kind == RST_STREAM && frame.stream == stream || frame.kind == GOAWAY
    });
    if end.kind == GOAWAY {
        assert_eq!(end.number(4), code);
        closed(conn);
    } else {
        assert_eq!(end.number(0), code);
        conn.pinged();
    }
}

/// What a malformed message meets (section 8.1.1).
pub(crate) fn malformed(conn: &mut Conn, stream: u32) {
    either(conn, stream, PROTOCOL_ERROR);
}

/// What a window that overflows meets (section 6.9.1).
pub(crate) fn overflowed(conn: &mut Conn, stream: u32) {
    stream_error(conn, stream, &[FLOW_CONTROL_ERROR]);
}
