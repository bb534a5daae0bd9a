//! Informational responses and `Expect` travel end to end, whatever the two sides speak (RFC 9110 sections 10.1.1 and 15.2).

use std::io::Write;
use std::net::TcpListener;

use crate::common::{PATIENCE, connect};
use crate::peers::{
    COMBINATIONS, Http, Message, answers_v1, application, ask, connect_v2, drain, request,
    response, runtime, serve_v2, sidecar,
};

const HOST: u8 = 64;

#[test]
fn early_hints_pass_on_every_combination() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        let hints = Message::new("103").field("link", "</a>; rel=preload");
        let processing = Message::new("102");
        let last = Message::new("200").field("x", "1").body("hi");
        let answers = vec![hints.clone(), processing, last];
        let (origin, _seen) = application(task, [127, HOST, 1, number], answers);
        let sidecar = sidecar(task, [127, HOST, 2, number], origin);
        let got = ask(client, sidecar.listener, &Message::new("GET /"));
        let starts: Vec<_> = got.iter().map(|one| one.start.as_str()).collect();
        assert_eq!(starts, ["103", "102", "200"], "{client:?} to {task:?}");
        assert_eq!(got[0], hints, "{client:?} to {task:?}");
        assert_eq!(got[2].body, "hi");
    }
}

#[test]
fn too_many_informational_responses_are_502_and_the_next_request_is_unaffected() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        let mut answers = vec![Message::new("103").field("link", "</a>"); 33];
        answers.push(Message::new("200"));
        let (origin, _seen) = application(task, [127, HOST, 3, number], answers);
        let sidecar = sidecar(task, [127, HOST, 4, number], origin);
        for _ in 0..2 {
            // POST, so that it is not tried again.
            let asked = Message::new("POST /")
                .field("content-length", "2")
                .body("hi");
            let got = ask(client, sidecar.listener, &asked);
            let last = got.last().expect("there is an answer");
            assert_eq!(last.start, "502", "{client:?} to {task:?}");
            assert!(last.body.contains("UPE"), "{last:?}");
            assert_eq!(got.len(), 33, "{client:?} to {task:?}");
        }
    }
}

/// An application that reads the body only after it has said `before`, and ends with a 201 if that was a 100.
fn hesitant(task: Http, host: [u8; 4], before: &'static str) -> std::net::SocketAddr {
    let socket = TcpListener::bind((std::net::IpAddr::from(host), 0)).expect("it can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            match task {
                Http::V1 => hesitant_v1(stream, before),
                Http::V2 => serve_v2(stream, async |request, mut respond| {
                    assert_eq!(request.headers()["expect"], "100-continue");
                    let head = response(&Message::new(before));
                    if before != "100" {
                        respond.send_response(head, true).expect("it is open");
                        return;
                    }
                    respond.send_informational(head).expect("it is open");
                    let (body, _) = drain(request.into_body()).await;
                    assert_eq!(body, "body");
                    let created = response(&Message::new("201"));
                    respond.send_response(created, true).expect("it is open");
                }),
            }
        }
    });
    address
}

fn hesitant_v1(stream: std::net::TcpStream, before: &str) {
    use std::io::{BufRead, BufReader, Read};
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
    let mut stream = stream;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let head = head.to_ascii_lowercase();
    assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head:?}");
    let first = format!("HTTP/1.1 {before} As It Is\r\n");
    if before != "100" {
        let _ = stream.write_all((first + "content-length: 0\r\n\r\n").as_bytes());
        return;
    }
    let _ = stream.write_all((first + "\r\n").as_bytes());
    let mut body = [0; 4];
    reader.read_exact(&mut body).expect("the body comes");
    assert_eq!(&body, b"body");
    let created = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n";
    let _ = stream.write_all(created);
}

/// Sends the head with `Expect`, and the body once a 100 has come; the statuses in order.
fn expectant(client: Http, address: std::net::SocketAddr) -> Vec<String> {
    let head = Message::new("PUT /")
        .field("expect", "100-continue")
        .field("content-length", "4");
    match client {
        Http::V1 => {
            let mut stream = connect(address);
            let head =
                "PUT / HTTP/1.1\r\nhost: app\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
            stream.write_all(head.as_bytes()).expect("it is written");
            let mut statuses = Vec::new();
            let mut reader = std::io::BufReader::new(stream.try_clone().expect("it can be cloned"));
            loop {
                let answer = crate::peers::read_v1(&mut reader, false).expect("there is an answer");
                statuses.push(answer.start.clone());
                if answer.start != "100" {
                    let closes = answer.values("connection") == ["close"];
                    // The body that was not sent can come no more.
                    assert_eq!(closes, statuses.len() == 1, "{answer:?}");
                    return statuses;
                }
                stream.write_all(b"body").expect("it is written");
            }
        }
        Http::V2 => runtime().block_on(async {
            let mut client = connect_v2(address).await;
            let sent = client.send_request(request(&head), false);
            let (mut answer, mut stream) = sent.expect("the stream can be opened");
            let mut statuses = Vec::new();
            let all = async {
                while let Some(head) =
                    std::future::poll_fn(|cx| answer.poll_informational(cx)).await
                {
                    let head = head.expect("the stream is open");
                    statuses.push(head.status().as_str().to_owned());
                    stream
                        .send_data(bytes::Bytes::from_static(b"body"), true)
                        .expect("the stream is open");
                }
                let head = answer.await.expect("there is an answer");
                statuses.push(head.status().as_str().to_owned());
            };
            let all = tokio::time::timeout(PATIENCE, all).await;
            all.expect("there is an answer in time");
            statuses
        }),
    }
}

#[test]
fn a_client_that_waits_for_100_hears_the_applications_own_on_every_combination() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        let origin = hesitant(task, [127, HOST, 5, number], "100");
        let sidecar = sidecar(task, [127, HOST, 6, number], origin);
        let statuses = expectant(client, sidecar.listener);
        assert_eq!(statuses, ["100", "201"], "{client:?} to {task:?}");
    }
}

#[test]
fn a_final_answer_instead_of_100_comes_through_before_any_body() {
    for status in ["401", "417"] {
        for (number, (client, task)) in (1..).zip(COMBINATIONS) {
            let origin = hesitant(task, [127, HOST, 7, number], status);
            let sidecar = sidecar(task, [127, HOST, 8, number], origin);
            let statuses = expectant(client, sidecar.listener);
            assert_eq!(statuses, [status], "{client:?} to {task:?}");
        }
    }
}

#[test]
fn nothing_of_the_sidecars_own_answers_an_expectation() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        let (origin, _seen) = application(task, [127, HOST, 9, number], vec![Message::new("200")]);
        let sidecar = sidecar(task, [127, HOST, 10, number], origin);
        let asked = Message::new("PUT /")
            .field("expect", "100-continue")
            .field("content-length", "4")
            .body("body");
        let got = ask(client, sidecar.listener, &asked);
        assert_eq!(got.len(), 1, "{client:?} to {task:?}: {got:?}");
    }
}

#[test]
fn a_connection_that_is_answered_before_its_body_is_closed_in_order() {
    let origin = hesitant(Http::V1, [127, HOST, 11, 1], "401");
    let sidecar = sidecar(Http::V1, [127, HOST, 11, 2], origin);
    let mut stream = connect(sidecar.listener);
    let head = "PUT / HTTP/1.1\r\nhost: app\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("it is written");
    let got = answers_v1(&stream, false);
    assert_eq!(got.len(), 1);
    // Its body, sent all the same, is taken in and resets nothing.
    stream.write_all(b"body").expect("it is written");
    let mut rest = Vec::new();
    let end = std::io::Read::read_to_end(&mut stream, &mut rest);
    assert_eq!(end.expect("the end comes without a reset"), 0);
}
