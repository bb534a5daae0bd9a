//! A sidecar that drains, each case with one of its own: the order in which its clients are told, and who is not.

use crate::wire::*;
use crate::world::{World, status};
use crate::{Case, client};

/// The highest stream there can be: nothing is refused yet (RFC 9113 section 6.8).
const ANY_STREAM: u32 = (1 << 31) - 1;

#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    client("6.8 a drain is GOAWAY(2^31-1), a PING, and after its answer the last GOAWAY", "RFC 9113 §6.8", "", |_| {
        let world = World::start("ingress", 0);
        let mut conn = world.client();
        conn.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/", &[])));
        conn.pinged();
        world.drain();
        let first = conn.find("GOAWAY", |frame| frame.kind == GOAWAY);
        assert_eq!((first.number(0), first.number(4)), (ANY_STREAM, 0), "nothing is refused yet");
        let probe = conn.find("PING", |frame| frame.kind == PING || frame.kind == GOAWAY);
        assert!(probe.kind == PING && !probe.has(ACK), "it asks what is on its way: {probe:?}");
        // That had not heard of the first GOAWAY when it was sent.
        conn.send(&frame(HEADERS, WHOLE, 3, &request("GET", "/", &[])));
        conn.send(&frame(PING, ACK, 0, &probe.payload));
        let last = conn.find("the last GOAWAY", |frame| frame.kind == GOAWAY);
        assert_eq!((last.number(0), last.number(4)), (3, 0), "what had come is served");
        assert_eq!(status(&mut conn, 3), 200);
        conn.send(&frame(DATA, END_STREAM, 1, b"order"));
        assert_eq!(status(&mut conn, 1), 200);
        while conn.next().is_some() {}
    }),
    client("6.8 an idle client is told the same way, and the connection ends", "RFC 9113 §6.8", "", |_| {
        let world = World::start("ingress", 0);
        let mut conn = world.client();
        conn.pinged();
        world.drain();
        let first = conn.find("GOAWAY", |frame| frame.kind == GOAWAY);
        assert_eq!(first.number(0), ANY_STREAM);
        let probe = conn.find("PING", |frame| frame.kind == PING);
        conn.send(&frame(PING, ACK, 0, &probe.payload));
        conn.find("the last GOAWAY", |frame| frame.kind == GOAWAY);
        while conn.next().is_some() {}
    }),
    client("6.8 the application of a task that drains is not sent away", "RFC 9113 §6.8", "", |_| {
        let world = World::start("egress", 0);
        let mut conn = world.client();
        world.drain();
        world.until("/ready", "in flight finished");
        conn.pinged();
        assert!(conn.come(|frame| frame.kind == GOAWAY).is_none());
        conn.send(&frame(HEADERS, WHOLE, 1, &request("GET", "/", &[])));
        assert_eq!(status(&mut conn, 1), 200);
    }),
];
