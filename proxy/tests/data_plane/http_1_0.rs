//! Clients and applications of HTTP/1.0, with and without keep-alive (RFC 9112 section 9.3).

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::common::{connect, exchange};
use crate::peers::{Http, Message, application, ask, read_v1, sidecar};

const HOST: u8 = 69;

/// An application of HTTP/1.0; whether it keeps connections; how many it was given.
fn old(host: [u8; 4], answer: &'static str, keeps: bool) -> (SocketAddr, Arc<AtomicU32>) {
    let socket = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    let connections = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&connections);
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            counted.fetch_add(1, Relaxed);
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("it can be cloned"));
                let mut stream = stream;
                while read_v1(&mut reader, false).is_some() {
                    let sent = stream.write_all(answer.as_bytes());
                    if sent.is_err() || !keeps {
                        return;
                    }
                }
            });
        }
    });
    (address, connections)
}

#[test]
fn an_answer_of_http_1_0_that_ends_with_its_connection_is_framed_for_every_client() {
    let answer = "HTTP/1.0 200 Old\r\nX-A: 1\r\n\r\nhi";
    let (origin, _) = old([127, HOST, 1, 1], answer, false);
    let sidecar = sidecar(Http::V1, [127, HOST, 1, 2], origin);
    for http in [Http::V1, Http::V2] {
        let got = ask(http, sidecar.listener, &Message::new("GET /"));
        assert_eq!(got[0].body, "hi");
        let framing = match http {
            Http::V1 => "chunked",
            Http::V2 => "",
        };
        assert_eq!(got[0].values("transfer-encoding").concat(), framing);
        assert!(got[0].values("content-length").is_empty(), "{got:?}");
    }
    let got = exchange(sidecar.listener, "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(got, "HTTP/1.1 200 Old\r\nX-A: 1\r\n\r\nhi");
}

#[test]
fn a_connection_that_an_application_of_http_1_0_keeps_is_used_again() {
    let kept = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi";
    let closed = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    for (number, (answer, keeps, expected)) in (1..).zip([(kept, true, 1), (closed, false, 3)]) {
        let (origin, connections) = old([127, HOST, 2, number], answer, keeps);
        let sidecar = sidecar(Http::V1, [127, HOST, 3, number], origin);
        for _ in 0..3 {
            let got = ask(Http::V1, sidecar.listener, &Message::new("GET /"));
            assert_eq!((got[0].start.as_str(), got[0].body.as_str()), ("200", "hi"));
            assert!(got[0].values("connection").is_empty(), "{got:?}");
        }
        assert_eq!(connections.load(Relaxed), expected);
    }
}

#[test]
fn a_client_of_http_1_0_keeps_its_connection_only_if_it_asks_and_the_length_is_known() {
    let answers = vec![Message::new("200").field("content-length", "2").body("hi")];
    for (number, task) in (1..).zip([Http::V1, Http::V2]) {
        let host = [127, HOST, 4, number];
        let (origin, seen) = application(task, host, answers.clone());
        let sidecar = sidecar(task, [127, HOST, 5, number], origin);
        let mut stream = connect(sidecar.listener);
        let asks = "GET / HTTP/1.0\r\nHost: app\r\nConnection: Keep-Alive\r\n\r\n";
        let mut reader = BufReader::new(stream.try_clone().expect("it can be cloned"));
        for _ in 0..2 {
            stream.write_all(asks.as_bytes()).expect("it is written");
            let got = read_v1(&mut reader, false).expect("there is an answer");
            assert_eq!(got.body, "hi");
            assert_eq!(got.values("connection"), ["keep-alive"]);
            let request = seen.recv().expect("the request came");
            assert_eq!(
                request.sorted(),
                [("host", "app")].map(|(n, v)| named(n, v, task))
            );
        }
        let last = "GET / HTTP/1.0\r\nHost: app\r\n\r\n";
        stream.write_all(last.as_bytes()).expect("it is written");
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("it ends in order");
        assert!(rest.ends_with("\r\n\r\nhi"), "{rest:?}");
        assert!(!rest.to_lowercase().contains("connection:"), "{rest:?}");
    }
}

/// The spelling of the name is the client's own by HTTP/1.1.
fn named(name: &'static str, value: &'static str, task: Http) -> (&'static str, &'static str) {
    match (name, task) {
        ("host", Http::V1) => ("Host", value),
        _ => (name, value),
    }
}

#[test]
fn a_request_of_http_1_0_without_a_host_gets_the_tasks_address() {
    for (number, task) in (1..).zip([Http::V1, Http::V2]) {
        let host = [127, HOST, 6, number];
        let (origin, seen) = application(task, host, vec![Message::new("200")]);
        let sidecar = sidecar(task, [127, HOST, 7, number], origin);
        let got = exchange(sidecar.listener, "GET /a HTTP/1.0\r\n\r\n");
        assert!(got.starts_with("HTTP/1.1 200 "), "{got:?}");
        let request = seen.recv().expect("the request came");
        assert_eq!(request.start, "GET /a");
        assert_eq!(request.values("host"), [origin.to_string()]);
    }
}

#[test]
fn a_head_by_http_1_0_hears_nothing_of_a_coding_it_does_not_know() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: 1\r\n\r\n";
    let (origin, _) = old([127, HOST, 8, 1], answer, true);
    let sidecar = sidecar(Http::V1, [127, HOST, 8, 2], origin);
    let got = exchange(sidecar.listener, "HEAD / HTTP/1.0\r\n\r\n");
    assert_eq!(got, "HTTP/1.1 200 OK\r\nX: 1\r\n\r\n");
}
