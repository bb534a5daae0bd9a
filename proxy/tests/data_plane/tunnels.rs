//! Upgrades and extended CONNECT, each made of the other where the two sides differ (RFC 9110 section 7.8, RFC 8441).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use h2::Reason;
use h2::ext::Protocol;
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::{Sidecar, free};
use crate::ends::{End, Grant, KEY, in_time, open, open_v2, talk, task};
use crate::peers::{COMBINATIONS, Http, connect_v2, drain, sidecar};

const HOST: u8 = 66;
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[test]
fn a_websocket_passes_on_every_combination_with_its_handshake_in_each_sides_words() {
    for (number, (client, http)) in (1..).zip(COMBINATIONS) {
        in_time(async {
            let (origin, mut asked) = task(http, [127, HOST, 1, number], true).await;
            let sidecar = sidecar(http, [127, HOST, 2, number], origin);
            let opening = tokio::spawn(open(client, sidecar.listener, "websocket"));
            let asked = asked.recv().await.expect("the request comes");
            let head = &asked.head;
            assert_eq!(head.values("sec-websocket-version"), ["13"]);
            match http {
                Http::V1 => {
                    assert_eq!(head.start, "GET /chat?a=1");
                    assert_eq!(head.values("host"), ["app"]);
                    assert_eq!(head.values("upgrade"), ["websocket"]);
                    assert_eq!(head.values("connection"), ["upgrade"]);
                    let keys = head.values("sec-websocket-key");
                    assert_eq!(keys.len(), 1, "{head:?}");
                    assert_eq!(keys[0] == KEY, client == Http::V1);
                    let decoded = BASE64.decode(keys[0]).map(|key| key.len());
                    assert_eq!(decoded, Ok(16));
                    assert_eq!(head.fields.len(), 5, "{head:?}");
                }
                Http::V2 => {
                    let scheme = if client == Http::V2 { "https" } else { "http" };
                    assert_eq!(head.start, format!("CONNECT {scheme}://app/chat?a=1"));
                    assert_eq!(asked.protocol.as_deref(), Some("websocket"));
                    assert_eq!(head.fields.len(), 1, "{head:?}");
                }
            }
            let mut task = asked.grant().await;
            let (head, mut client_end) = opening.await.expect("the client has its answer");
            assert_eq!(head.values("sec-websocket-protocol"), ["chat"]);
            match client {
                Http::V1 => {
                    assert_eq!(head.start, "101");
                    assert_eq!(head.values("upgrade"), ["websocket"]);
                    assert_eq!(head.values("connection"), ["upgrade"]);
                    assert_eq!(head.values("sec-websocket-accept"), [ACCEPT]);
                    assert_eq!(head.fields.len(), 4, "{head:?}");
                }
                Http::V2 => {
                    assert_eq!(head.start, "200");
                    assert_eq!(head.fields.len(), 1, "{head:?}");
                }
            }
            talk(&mut client_end, &mut task).await;
        });
    }
}

#[test]
fn a_task_that_is_told_nothing_of_extended_connect_is_asked_by_http_1_1() {
    for (number, client) in (1..).zip([Http::V1, Http::V2]) {
        in_time(async {
            let (origin, mut asked) = task(Http::V2, [127, HOST, 3, number], false).await;
            let sidecar = sidecar(Http::V2, [127, HOST, 4, number], origin);
            let opening = tokio::spawn(open(client, sidecar.listener, "websocket"));
            let asked = asked.recv().await.expect("the request comes");
            assert_eq!(asked.head.start, "GET /chat?a=1");
            let mut task = asked.grant().await;
            let (_, mut client) = opening.await.expect("the client has its answer");
            talk(&mut client, &mut task).await;
        });
    }
}

#[test]
fn a_refused_upgrade_is_answered_as_the_task_answers() {
    for (number, (client, http)) in (1..).zip(COMBINATIONS) {
        in_time(async {
            let (origin, mut asked) = task(http, [127, HOST, 5, number], true).await;
            let sidecar = sidecar(http, [127, HOST, 6, number], origin);
            let opening = tokio::spawn(open(client, sidecar.listener, "websocket"));
            let asked = asked.recv().await.expect("the request comes");
            asked.refuse(403).await;
            let (head, mut body) = opening.await.expect("the client has its answer");
            assert_eq!(head.start, "403", "{client:?} to {http:?}");
            let chunked = !head.values("transfer-encoding").is_empty();
            let body = body.read(if chunked { 7 } else { 2 }).await;
            let expected: &[u8] = if chunked { b"2\r\nno\r\n" } else { b"no" };
            assert_eq!(body, expected, "{client:?} to {http:?}");
        });
    }
}

#[test]
fn a_task_that_answers_a_key_wrongly_or_ignores_the_upgrade_is_502_to_a_client_of_http_2() {
    for (number, status) in (1..).zip(["101 Go", "200 OK"]) {
        in_time(async {
            let (origin, mut asked) = task(Http::V1, [127, HOST, 7, number], true).await;
            let sidecar = sidecar(Http::V1, [127, HOST, 8, number], origin);
            let opening = tokio::spawn(open(Http::V2, sidecar.listener, "websocket"));
            let asked = asked.recv().await.expect("the request comes");
            let Grant::Connection(mut stream) = asked.grant else {
                panic!("it is asked by HTTP/1.1");
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
            );
            let written = stream.write_all(answer.as_bytes()).await;
            written.expect("the connection is open");
            let (head, _) = opening.await.expect("the client has its answer");
            assert_eq!(head.start, "502");
        });
    }
}

#[test]
fn other_protocols_of_extended_connect_are_asked_for_by_their_token() {
    for (number, http) in (1..).zip([Http::V1, Http::V2]) {
        in_time(async {
            let (origin, mut asked) = task(http, [127, HOST, 9, number], true).await;
            let sidecar = sidecar(http, [127, HOST, 10, number], origin);
            let opening = tokio::spawn(open(Http::V2, sidecar.listener, "connect-udp"));
            let asked = asked.recv().await.expect("the request comes");
            match http {
                Http::V1 => {
                    assert_eq!(asked.head.values("upgrade"), ["connect-udp"]);
                    assert!(asked.head.values("sec-websocket-key").is_empty());
                }
                Http::V2 => assert_eq!(asked.protocol.as_deref(), Some("connect-udp")),
            }
            let mut task = asked.grant().await;
            let (head, mut client) = opening.await.expect("the client has its answer");
            assert_eq!(head.start, "200");
            talk(&mut client, &mut task).await;
        });
    }
}

#[test]
fn another_upgrade_is_asked_for_by_http_1_1_whatever_the_task_speaks() {
    in_time(async {
        let (origin, mut asked) = task(Http::V2, [127, HOST, 11, 1], true).await;
        let sidecar = sidecar(Http::V2, [127, HOST, 11, 2], origin);
        let opening = tokio::spawn(open(Http::V1, sidecar.listener, "foo/2"));
        let asked = asked.recv().await.expect("the request comes");
        assert_eq!(asked.head.values("upgrade"), ["foo/2"]);
        let mut task = asked.grant().await;
        let (_, mut client) = opening.await.expect("the client has its answer");
        talk(&mut client, &mut task).await;
    });
}

#[test]
fn a_reset_of_the_stream_is_a_reset_of_the_connection_and_the_other_way_round() {
    in_time(async {
        let (origin, mut asked) = task(Http::V1, [127, HOST, 12, 1], true).await;
        let sidecar = sidecar(Http::V1, [127, HOST, 12, 2], origin);
        for client_resets in [true, false] {
            let address = sidecar.listener;
            let opening = tokio::spawn(async move { open_v2(address, "websocket").await });
            let end = asked.recv().await.expect("the request comes").grant().await;
            let End::Connection(mut stream) = end else {
                panic!("it is asked by HTTP/1.1");
            };
            let (_, mut receiving, mut sending) = opening.await.expect("it is granted");
            if client_resets {
                sending.send_reset(Reason::CANCEL);
                let error = stream.read_u8().await.expect_err("the connection ends");
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            } else {
                stream.set_zero_linger().expect("the option can be set");
                drop(stream);
                let end = receiving.data().await.expect("not in order");
                let error = end.expect_err("the stream is reset");
                assert_eq!(error.reason(), Some(Reason::CANCEL));
            }
        }
    });
}

#[test]
fn bytes_that_come_before_the_grant_are_the_tunnels() {
    for (number, http) in (1..).zip([Http::V1, Http::V2]) {
        in_time(async {
            let (origin, mut asked) = task(http, [127, HOST, 16, number], true).await;
            let sidecar = sidecar(http, [127, HOST, 17, number], origin);
            let mut client = connect_v2(sidecar.listener).await;
            while !client.is_extended_connect_protocol_enabled() {
                tokio::task::yield_now().await;
            }
            let request = Request::builder()
                .method(Method::CONNECT)
                .uri("http://app/")
                .extension(Protocol::from_static("websocket"))
                .body(())
                .expect("it is valid");
            let sent = client.send_request(request, false);
            let (answer, mut sending) = sent.expect("the stream can be opened");
            let early = sending.send_data(Bytes::from_static(b"early"), true);
            early.expect("the stream is open");
            let asked = asked.recv().await.expect("the request comes");
            let mut task = asked.grant().await;
            assert_eq!(task.rest().await, b"early");
            task.write(b"late").await;
            task.shut().await;
            let answer = answer.await.expect("it is granted");
            let (rest, _) = drain(answer.into_body()).await;
            assert_eq!(rest, "late");
        });
    }
}

#[test]
fn a_tunnel_on_which_nobody_speaks_ends_after_the_idle_timeout() {
    for (number, (client, http)) in (1..).zip(COMBINATIONS) {
        in_time(async {
            let (origin, mut asked) = task(http, [127, HOST, 13, number], true).await;
            let protocol = if http == Http::V1 { "http" } else { "http2" };
            let idle = "idle_timeout = \"300ms\"";
            let listener = free([127, HOST, 14, number]);
            let sidecar = Sidecar::speaking(protocol, listener, idle, &origin.to_string(), "");
            let opening = tokio::spawn(open(client, sidecar.listener, "websocket"));
            let asked = asked.recv().await.expect("the request comes");
            let mut task = asked.grant().await;
            let (_, mut client) = opening.await.expect("it is granted");
            // How it ends is each version's own; that it does is what counts.
            assert_eq!(task.rest().await, b"");
            assert_eq!(client.rest().await, b"");
        });
    }
}

#[test]
fn a_plain_connect_is_405_by_http_2_too() {
    in_time(async {
        let (origin, _asked) = task(Http::V1, [127, HOST, 15, 1], true).await;
        let sidecar = sidecar(Http::V1, [127, HOST, 15, 2], origin);
        let mut client = connect_v2(sidecar.listener).await;
        let request = Request::builder().method(Method::CONNECT);
        let request = request.uri("app:80").body(()).expect("it is valid");
        let sent = client.send_request(request, false);
        let (answer, _sending) = sent.expect("the stream can be opened");
        let answer = answer.await.expect("there is an answer");
        assert_eq!(answer.status(), 405);
        assert!(answer.headers().contains_key("allow"));
    });
}

#[test]
fn a_websocket_by_http_1_1_at_both_ends_passes_a_hop_of_http_2() {
    in_time(async {
        let (origin, mut asked) = task(Http::V1, [127, HOST, 18, 1], true).await;
        let ingress = sidecar(Http::V1, [127, HOST, 18, 2], origin);
        let egress = sidecar(Http::V2, [127, HOST, 18, 3], ingress.listener);
        let opening = tokio::spawn(open(Http::V1, egress.listener, "websocket"));
        let asked = asked.recv().await.expect("the request comes");
        assert_eq!(asked.head.start, "GET /chat?a=1");
        assert_eq!(asked.head.values("host"), ["app"]);
        assert_eq!(asked.head.fields.len(), 5, "{:?}", asked.head);
        let mut task = asked.grant().await;
        let (head, mut client) = opening.await.expect("the client has its answer");
        assert_eq!(head.values("sec-websocket-accept"), [ACCEPT]);
        talk(&mut client, &mut task).await;
    });
}

#[test]
fn the_bytes_of_a_tunnel_are_counted_when_it_ends() {
    for (number, (client, http)) in (1..).zip(COMBINATIONS) {
        in_time(async {
            let (origin, mut asked) = task(http, [127, HOST, 19, number], true).await;
            let sidecar = sidecar(http, [127, HOST, 20, number], origin);
            let opening = tokio::spawn(open(client, sidecar.listener, "websocket"));
            let asked = asked.recv().await.expect("the request comes");
            let mut task = asked.grant().await;
            let (_, mut client) = opening.await.expect("it is granted");
            client.write(b"1234").await;
            client.shut().await;
            assert_eq!(task.rest().await, b"1234");
            task.write(b"567").await;
            task.shut().await;
            assert_eq!(client.rest().await, b"567");
            let counted = tokio::task::spawn_blocking(move || {
                sidecar.until("/metrics", |page| {
                    page.lines().any(|line| {
                        line.starts_with("ProcessedBytes_total{") && line.ends_with(" 7")
                    })
                });
            });
            counted.await.expect("they are counted");
        });
    }
}

#[test]
fn a_task_that_never_says_what_it_takes_is_a_timeout() {
    in_time(async {
        let socket = TcpListener::bind("127.66.21.1:0").await;
        let socket = socket.expect("loopback can be bound");
        let origin = socket.local_addr().expect("it has an address").to_string();
        let listener = free([127, HOST, 21, 2]);
        let timeout = "per_request_timeout = \"300ms\"";
        let sidecar = Sidecar::speaking("http2", listener, "", &origin, timeout);
        let silent = tokio::spawn(async move { socket.accept().await });
        let (head, _) = open(Http::V1, sidecar.listener, "websocket").await;
        assert_eq!(head.start, "504");
        silent.abort();
    });
}

#[test]
fn a_tunnel_goes_on_while_the_sidecar_drains_and_its_end_is_the_drains() {
    for (number, (client, http)) in (1..).zip(COMBINATIONS) {
        in_time(async {
            let (origin, mut asked) = task(http, [127, HOST, 22, number], true).await;
            let sidecar = sidecar(http, [127, HOST, 23, number], origin);
            let opening = tokio::spawn(open(client, sidecar.listener, "websocket"));
            let asked = asked.recv().await.expect("the request comes");
            let mut task = asked.grant().await;
            let (_, mut client) = opening.await.expect("it is granted");
            let draining = tokio::task::spawn_blocking(move || {
                sidecar.terminate();
                sidecar.until("/ready", |page| page.contains("\"draining\":true"));
                sidecar
            });
            let sidecar = draining.await.expect("it drains");
            talk(&mut client, &mut task).await;
            let ended = tokio::task::spawn_blocking(|| sidecar.ended());
            assert!(ended.await.expect("it ends"));
        });
    }
}
