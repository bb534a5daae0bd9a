//! HTTP/2 clients whose windows stay closed: what they do not take counts as under way, and its timeout ends it.

use std::io::Write;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{Request, StatusCode};

use crate::common::{Sidecar, free, read_all};
use crate::peers::{Http, Message, application, runtime};

const ERRORS: &str = "outrigger_errors_total";
const BODY: &str = "an answer of one part";

fn sidecar(host: u8, answer: Message, fields: &str) -> Sidecar {
    let (origin, _) = application(Http::V1, [127, 68, 0, host], vec![answer]);
    let listener = free([127, 68, 0, host + 1]);
    Sidecar::start(listener, fields, &origin.to_string(), "")
}

fn whole() -> Message {
    let length = BODY.len().to_string();
    Message::new("200")
        .field("content-length", &length)
        .body(BODY)
}

/// A client that has given leave for so many bytes of each answer, and gives it again for what it takes.
async fn client(address: SocketAddr, window: u32) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await;
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .handshake(stream.expect("the sidecar listens"))
        .await
        .expect("it speaks HTTP/2");
    tokio::spawn(connection);
    requests
}

async fn get(requests: &mut SendRequest<Bytes>) -> (StatusCode, RecvStream) {
    let request = Request::get("http://app/").body(()).expect("it is one");
    let sent = requests.send_request(request, true);
    let (response, _) = sent.expect("the connection is open");
    let response = response.await.expect("it is answered");
    (response.status(), response.into_body())
}

#[test]
fn an_answer_on_a_closed_window_is_under_way_until_the_client_gives_it_up() {
    let chunked = whole().trailer("x", "y");
    for (host, answer) in [
        (1, whole()),
        (
            3,
            Message {
                fields: Vec::new(),
                ..chunked
            },
        ),
    ] {
        let sidecar = sidecar(host, answer, "max_requests = 1");
        runtime().block_on(async {
            let mut requests = client(sidecar.listener, 0).await;
            let (status, kept) = get(&mut requests).await;
            assert_eq!(status, 200);
            let (status, _) = get(&mut requests).await;
            assert_eq!(status, 503, "the first one is still being answered");
            drop(kept);
            while get(&mut requests).await.0 != 200 {}
        });
    }
}

#[test]
fn an_answer_on_a_closed_window_is_ended_by_the_idle_timeout() {
    let sidecar = sidecar(5, whole(), "idle_timeout = \"300ms\"");
    runtime().block_on(async {
        let mut requests = client(sidecar.listener, 0).await;
        let (status, mut kept) = get(&mut requests).await;
        assert_eq!(status, 200);
        let ended = kept.data().await.expect("it ends too early");
        assert_eq!(ended.unwrap_err().reason(), Some(Reason::CANCEL));
    });
    sidecar.until_metric(ERRORS, &["flag=\"SI\"", "kind=\"IdleTimeout\""], 1);
}

#[test]
fn an_answer_of_the_sidecar_on_a_closed_window_is_ended_by_the_idle_timeout() {
    let nobody = free([127, 68, 0, 7]).to_string();
    let idle = "idle_timeout = \"300ms\"";
    let sidecar = Sidecar::start(free([127, 68, 0, 8]), idle, &nobody, "");
    runtime().block_on(async {
        let mut requests = client(sidecar.listener, 0).await;
        let (status, mut kept) = get(&mut requests).await;
        assert_eq!(status, 503);
        let ended = kept.data().await.expect("it ends too early");
        assert_eq!(ended.unwrap_err().reason(), Some(Reason::CANCEL));
    });
}

#[test]
fn an_answer_passes_whole_through_a_window_of_one_byte() {
    let sidecar = sidecar(9, whole(), "");
    runtime().block_on(async {
        let mut requests = client(sidecar.listener, 1).await;
        let (_, mut body) = get(&mut requests).await;
        let mut taken = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.expect("it comes whole");
            let again = body.flow_control().release_capacity(data.len());
            again.expect("that much was taken");
            taken.extend_from_slice(&data);
        }
        assert_eq!(taken, BODY.as_bytes());
    });
}

#[test]
fn small_chunks_that_are_here_together_do_not_end_a_hop_by_http2() {
    const CHUNKS: usize = 300_000;
    let (origin, seen) = application(Http::V1, [127, 68, 0, 11], vec![whole()]);
    let ingress = Sidecar::start(free([127, 68, 0, 12]), "", &origin.to_string(), "");
    let next = ingress.listener.to_string();
    let egress = Sidecar::speaking("http2", free([127, 68, 0, 13]), "", &next, "");
    let mut stream = egress.connect();
    let head =
        b"POST / HTTP/1.1\r\nhost: app\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunks = "1\r\nx\r\n".repeat(CHUNKS) + "0\r\n\r\n";
    // It fails where the hop has ended, which the answer says.
    let _ = stream
        .write_all(head)
        .and_then(|()| stream.write_all(chunks.as_bytes()));
    let answer = read_all(stream);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    assert_eq!(seen.recv().expect("it came").body.len(), CHUNKS);
}
