//! Answers without bodies, answers before the request has ended, and clients that say no more: on every combination.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::mpsc::channel;

use bytes::Bytes;
use h2::Reason;

use crate::common::{PATIENCE, connect};
use crate::peers::{
    COMBINATIONS, Http, Message, application, ask, connect_v2, drain, read_v1, request, response,
    runtime, serve_v2, sidecar,
};

const HOST: u8 = 67;

/// Asks twice by HTTP/1.1 on one connection, where a body that should not be there would be taken for the second answer.
fn ask_twice(address: SocketAddr, method: &str) -> [Message; 2] {
    let mut stream = connect(address);
    let request = format!("{method} / HTTP/1.1\r\nhost: app\r\n\r\n");
    stream
        .write_all(request.repeat(2).as_bytes())
        .expect("they are written");
    let mut reader = BufReader::new(stream);
    [(); 2].map(|()| read_v1(&mut reader, method == "HEAD").expect("there is an answer"))
}

/// What each answer says of a body that it does not have, and what is left of it.
const BODILESS: [(&str, &str, &str, &str); 6] = [
    ("HEAD", "200", "1000", "1000"),
    ("HEAD", "404", "", ""),
    ("GET", "304", "1000", "1000"),
    ("GET", "204", "", ""),
    // RFC 9110 section 8.6: a 204 has none.
    ("GET", "204", "0", ""),
    ("GET", "205", "0", "0"),
];

#[test]
fn answers_without_a_body_keep_their_length_on_every_combination() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        for (case, (method, status, length, kept)) in (1..).zip(BODILESS) {
            let mut answer = Message::new(status).field("x", "1");
            if !length.is_empty() {
                answer = answer.field("content-length", length);
            }
            let host = |net| [127, HOST, net, 10 * number + case];
            let answers = vec![answer];
            let (origin, _seen) = application(task, host(1), answers);
            let sidecar = sidecar(task, host(2), origin);
            let got = match client {
                Http::V1 => ask_twice(sidecar.listener, method).to_vec(),
                Http::V2 => ask(
                    client,
                    sidecar.listener,
                    &Message::new(&format!("{method} /")),
                ),
            };
            for got in got {
                let told = format!("{client:?} to {task:?}: {method}: {got:?}");
                assert_eq!(got.start, status, "{told}");
                assert_eq!(got.values("content-length").concat(), kept, "{told}");
                assert_eq!(got.values("x"), ["1"], "{told}");
                assert!(got.values("transfer-encoding").is_empty(), "{told}");
                assert!(got.body.is_empty() && got.trailers.is_empty(), "{told}");
            }
        }
    }
}

/// An application that answers 413 as soon as it has the head, and takes no more of the body than it must.
fn impatient(task: Http, host: [u8; 4]) -> SocketAddr {
    let socket = TcpListener::bind((std::net::IpAddr::from(host), 0)).expect("it can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            match task {
                Http::V1 => {
                    let mut stream = stream;
                    let mut some = [0; 4096];
                    let _ = stream.read(&mut some);
                    let answer = "HTTP/1.1 413 Too Much\r\ncontent-length: 5\r\n\r\nlarge";
                    let _ = stream.write_all(answer.as_bytes());
                    // Closed with bytes unread: the connection is reset.
                }
                Http::V2 => serve_v2(stream, async |request, mut respond| {
                    let head = response(&Message::new("413").field("content-length", "5"));
                    let mut sending = respond.send_response(head, false).expect("it is open");
                    let sent = sending.send_data(Bytes::from_static(b"large"), true);
                    sent.expect("it is open");
                    // Dropped unread: the stream is reset with NO_ERROR.
                    drop(request);
                }),
            }
        }
    });
    address
}

#[test]
fn an_answer_that_comes_while_the_body_still_flows_is_whole_on_every_combination() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        let origin = impatient(task, [127, HOST, 3, number]);
        let sidecar = sidecar(task, [127, HOST, 4, number], origin);
        let part = vec![b'x'; 10_000];
        match client {
            Http::V1 => {
                let mut stream = connect(sidecar.listener);
                let head = "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 100000\r\n\r\n";
                stream.write_all(head.as_bytes()).expect("it is written");
                stream.write_all(&part).expect("it is written");
                let mut reader = BufReader::new(stream.try_clone().expect("it can be cloned"));
                let got = read_v1(&mut reader, false).expect("there is an answer");
                assert_eq!((got.start.as_str(), got.body.as_str()), ("413", "large"));
                assert_eq!(got.values("connection"), ["close"], "{got:?}");
                // The rest is taken in, so that nothing resets the answer away.
                for _ in 1..10 {
                    stream.write_all(&part).expect("it is written");
                }
                let end = reader.read_to_end(&mut Vec::new());
                assert_eq!(end.expect("the end comes without a reset"), 0);
            }
            Http::V2 => runtime().block_on(async {
                let mut client = connect_v2(sidecar.listener).await;
                let head = request(&Message::new("POST /"));
                let sent = client.send_request(head, false);
                let (answer, mut sending) = sent.expect("the stream can be opened");
                let sent = sending.send_data(Bytes::from(part), false);
                sent.expect("the stream is open");
                let whole = async {
                    let answer = answer.await.expect("there is an answer");
                    assert_eq!(answer.status(), 413);
                    let (body, _) = drain(answer.into_body()).await;
                    assert_eq!(body, "large");
                    std::future::poll_fn(|cx| sending.poll_reset(cx)).await
                };
                let whole = tokio::time::timeout(PATIENCE, whole).await;
                let reset = whole.expect("it comes in time").expect("it is reset");
                assert_eq!(reset, Reason::NO_ERROR, "{client:?} to {task:?}");
            }),
        }
    }
}

/// An application whose answer ends only after the request has, though it began before.
fn echo(task: Http, host: [u8; 4]) -> SocketAddr {
    let socket = TcpListener::bind((std::net::IpAddr::from(host), 0)).expect("it can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            match task {
                Http::V1 => {
                    let mut reader = BufReader::new(stream.try_clone().expect("it can be cloned"));
                    let mut stream = stream;
                    let head = "HTTP/1.1 200 Go\r\ntransfer-encoding: chunked\r\n\r\n2\r\ngo\r\n";
                    let _ = stream.write_all(head.as_bytes());
                    let request = read_v1(&mut reader, false).expect("there is a request");
                    let rest = format!("{:x}\r\n{}\r\n0\r\n\r\n", request.body.len(), request.body);
                    let _ = stream.write_all(rest.as_bytes());
                }
                Http::V2 => serve_v2(stream, async |request, mut respond| {
                    let head = response(&Message::new("200"));
                    let mut sending = respond.send_response(head, false).expect("it is open");
                    let first = sending.send_data(Bytes::from_static(b"go"), false);
                    first.expect("it is open");
                    let (body, _) = drain(request.into_body()).await;
                    let sent = sending.send_data(Bytes::from(body), true);
                    sent.expect("it is open");
                }),
            }
        }
    });
    address
}

#[test]
fn a_request_goes_on_while_its_answer_comes_on_every_combination() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        let origin = echo(task, [127, HOST, 5, number]);
        let sidecar = sidecar(task, [127, HOST, 6, number], origin);
        match client {
            Http::V1 => {
                let mut stream = connect(sidecar.listener);
                let head = "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 6\r\n\r\nabc";
                stream.write_all(head.as_bytes()).expect("it is written");
                let mut reader = BufReader::new(stream.try_clone().expect("it can be cloned"));
                let mut seen = Vec::new();
                while !seen.ends_with(b"\r\n2\r\ngo\r\n") {
                    let mut byte = [0];
                    reader.read_exact(&mut byte).expect("the answer begins");
                    seen.push(byte[0]);
                }
                stream.write_all(b"def").expect("it is written");
                reader.read_to_end(&mut seen).expect("the answer ends");
                assert!(seen.ends_with(b"6\r\nabcdef\r\n0\r\n\r\n"));
            }
            Http::V2 => runtime().block_on(async {
                let mut client = connect_v2(sidecar.listener).await;
                let sent = client.send_request(request(&Message::new("POST /")), false);
                let (answer, mut sending) = sent.expect("the stream can be opened");
                let first = sending.send_data(Bytes::from_static(b"abc"), false);
                first.expect("it is open");
                let whole = async {
                    let answer = answer.await.expect("there is an answer");
                    let mut body = answer.into_body();
                    let first = body.data().await.expect("the body begins");
                    assert_eq!(first.expect("it is whole"), "go");
                    let last = sending.send_data(Bytes::from_static(b"def"), true);
                    last.expect("it is open");
                    drain(body).await.0
                };
                let whole = tokio::time::timeout(PATIENCE, whole).await;
                assert_eq!(whole.expect("it comes in time"), "abcdef");
            }),
        }
    }
}

#[test]
fn a_client_that_closes_its_direction_after_the_request_is_answered_in_full() {
    for (number, task) in (1..).zip([Http::V1, Http::V2]) {
        let large = "x".repeat(300_000);
        let answers = vec![Message::new("200").body(&large)];
        let (origin, _seen) = application(task, [127, HOST, 7, number], answers);
        let sidecar = sidecar(task, [127, HOST, 8, number], origin);
        let mut stream = connect(sidecar.listener);
        let head = "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 2\r\n\r\nhi";
        stream.write_all(head.as_bytes()).expect("it is written");
        stream.shutdown(Shutdown::Write).expect("it is open");
        let mut reader = BufReader::new(stream);
        let got = read_v1(&mut reader, false).expect("there is an answer");
        assert_eq!((got.start.as_str(), got.body.len()), ("200", large.len()));
        let end = reader.read_to_end(&mut Vec::new());
        assert_eq!(end.expect("the end comes in order"), 0);
    }
}

#[test]
fn pipelined_requests_wait_for_a_slow_first_answer_and_come_in_order() {
    let socket = TcpListener::bind(("127.67.9.1", 0)).expect("loopback can be bound");
    let origin = socket.local_addr().expect("a bound socket has an address");
    let (go, wait) = channel::<()>();
    let (told, seen) = channel();
    std::thread::spawn(move || {
        let (stream, _) = socket.accept().expect("the sidecar connects");
        let mut reader = BufReader::new(stream.try_clone().expect("it can be cloned"));
        let mut stream = stream;
        while let Some(request) = read_v1(&mut reader, true) {
            told.send(request.start.clone()).expect("the test listens");
            if request.start == "GET /slow" {
                wait.recv().expect("the test lets it go on");
            }
            let target = request.start.trim_start_matches("GET ");
            let answer = format!(
                "HTTP/1.1 200 OK\r\nx: {target}\r\ncontent-length: {}\r\n\r\n{target}",
                target.len()
            );
            stream.write_all(answer.as_bytes()).expect("it is open");
        }
    });
    let sidecar = sidecar(Http::V1, [127, HOST, 9, 2], origin);
    let mut stream = connect(sidecar.listener);
    for target in ["/slow", "/fast", "/last"] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: app\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it is written");
    }
    let first = seen.recv_timeout(PATIENCE);
    assert_eq!(first.as_deref(), Ok("GET /slow"));
    assert!(seen.try_recv().is_err(), "the second did not wait");
    go.send(()).expect("the application waits");
    let mut reader = BufReader::new(stream);
    for target in ["/slow", "/fast", "/last"] {
        let got = read_v1(&mut reader, false).expect("there is an answer");
        assert_eq!(got.body, target);
    }
}

#[test]
fn data_after_a_head_that_is_the_whole_message_is_the_tasks_error() {
    for (nth, status) in [(0, "204"), (2, "304")] {
        let answers = vec![Message::new(status).body("evil!")];
        let (origin, _) = application(Http::V2, [127, 68, 1, 1 + nth], answers);
        let sidecar = sidecar(Http::V2, [127, 68, 1, 2 + nth], origin);
        let answer = crate::common::exchange(sidecar.listener, crate::common::GET);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer:?}"
        );
        assert!(answer.ends_with("\r\n\r\n"), "{answer:?}");
        sidecar.until_metric("outrigger_errors_total", &["flag=\"UPE\""], 1);
        runtime().block_on(async {
            let mut requests = connect_v2(sidecar.listener).await;
            let get = http::Request::get("http://app/").body(());
            let sent = requests.send_request(get.expect("it is one"), true);
            let answer = sent.expect("the connection is open").0.await;
            let mut body = answer.expect("it is answered").into_body();
            while let Some(Ok(data)) = body.data().await {
                assert!(data.is_empty(), "{data:?}");
            }
        });
    }
}
