//! HTTP/1.1 passes as it came: order, case, informational responses, trailers, bodies of every framing; what is ambiguous does not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::sync::mpsc::{Receiver, channel};

use crate::common::{PATIENCE, Sidecar, exchange, free, read_all};

/// An application that reads one head and what `more` asks for, answers with `answer`, and tells what it read.
fn scripted(
    host: [u8; 4],
    more: fn(&mut BufReader<TcpStream>, &str) -> String,
    answer: &'static str,
) -> (SocketAddr, Receiver<String>) {
    let socket = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    let (told, seen) = channel();
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            stream
                .set_read_timeout(Some(PATIENCE))
                .expect("a timeout can be set");
            let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
            let mut stream = stream;
            while let Some(head) = read_head(&mut reader) {
                let body = more(&mut reader, &head);
                let told = told.send(head + &body);
                if told.is_err() || stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
    });
    (address, seen)
}

fn read_head(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

fn nothing(_: &mut BufReader<TcpStream>, _: &str) -> String {
    String::new()
}

/// A chunked body with its trailers, as it is on the wire.
fn chunked(reader: &mut BufReader<TcpStream>, _: &str) -> String {
    let mut body = String::new();
    while !body.contains("\r\n0\r\n") || !body.ends_with("\r\n\r\n") {
        let read = reader.read_line(&mut body).expect("the body comes whole");
        assert!(read > 0, "cut off after {body:?}");
    }
    body
}

fn sidecar(octet: u8, origin: SocketAddr) -> Sidecar {
    Sidecar::start(free([127, 63, 0, octet]), "", &origin.to_string(), "")
}

#[test]
fn fields_keep_their_order_and_case_both_ways() {
    let (origin, seen) = scripted(
        [127, 63, 0, 1],
        nothing,
        "HTTP/1.1 200 Quite OK\r\nX-B: 1\r\nSet-Cookie: a\r\nx-a: 2\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nhi",
    );
    let sidecar = sidecar(2, origin);
    let request =
        "GET /a?b=%20 HTTP/1.1\r\nHOST: app\r\nX-B: 1\r\naccept: x\r\nX-a: 2\r\nx-b: 3\r\n\r\n";
    let mut client = sidecar.connect();
    client.write_all(request.as_bytes()).expect("it is written");
    let mut reader = BufReader::new(client);
    let head = read_head(&mut reader).expect("there is an answer");
    assert_eq!(
        head,
        "HTTP/1.1 200 Quite OK\r\nX-B: 1\r\nSet-Cookie: a\r\nx-a: 2\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\n"
    );
    assert_eq!(seen.recv_timeout(PATIENCE).as_deref(), Ok(request));
}

#[test]
fn informational_responses_and_trailers_pass() {
    let (origin, seen) = scripted(
        [127, 63, 0, 3],
        chunked,
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
         HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    let sidecar = sidecar(4, origin);
    let answer = exchange(
        sidecar.listener,
        "POST / HTTP/1.1\r\nHost: app\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Check: 1\r\n\r\n",
    );
    assert_eq!(
        answer,
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
         HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nconnection: close\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n"
    );
    let request = seen.recv_timeout(PATIENCE).expect("the request came");
    assert!(
        request.ends_with("\r\n\r\n3\r\nabc\r\n0\r\nX-Check: 1\r\n\r\n"),
        "{request:?}"
    );
}

#[test]
fn a_client_that_waits_for_100_hears_it_before_it_sends() {
    fn continued(reader: &mut BufReader<TcpStream>, head: &str) -> String {
        assert!(head.contains("Expect: 100-continue"), "{head:?}");
        let mut stream = reader.get_ref();
        stream
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
            .expect("it is written");
        let mut body = [0; 4];
        reader.read_exact(&mut body).expect("the body comes whole");
        String::from_utf8_lossy(&body).into_owned()
    }
    let (origin, seen) = scripted(
        [127, 63, 0, 5],
        continued,
        "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
    );
    let sidecar = sidecar(6, origin);
    let client = sidecar.connect();
    let head = "PUT / HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    (&client).write_all(head.as_bytes()).expect("it is written");
    let mut reader = BufReader::new(&client);
    let told = read_head(&mut reader);
    assert_eq!(told.as_deref(), Some("HTTP/1.1 100 Continue\r\n\r\n"));
    (&client).write_all(b"body").expect("it is written");
    let answer = read_head(&mut reader).expect("there is an answer");
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer:?}");
    let request = seen.recv_timeout(PATIENCE).expect("the request came");
    assert!(request.ends_with("body"), "{request:?}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (origin, seen) = scripted(
        [127, 63, 0, 7],
        nothing,
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    );
    let sidecar = sidecar(8, origin);
    let get = |path: &str, close: &str| format!("GET {path} HTTP/1.1\r\nHost: app\r\n{close}\r\n");
    let requests = get("/1", "") + &get("/2", "") + &get("/3", "Connection: close\r\n");
    let answers = exchange(sidecar.listener, &requests);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers:?}");
    for path in ["/1", "/2", "/3"] {
        let request = seen.recv_timeout(PATIENCE).expect("the request came");
        assert!(request.starts_with(&format!("GET {path} ")), "{request:?}");
    }
}

#[test]
fn a_client_of_http_1_0_gets_a_body_that_ends_with_the_connection() {
    let (origin, _seen) = scripted(
        [127, 63, 0, 9],
        nothing,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    );
    let sidecar = sidecar(10, origin);
    let answer = exchange(sidecar.listener, "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(answer, "HTTP/1.1 200 OK\r\n\r\nhi");
}

#[test]
fn a_head_says_what_it_would_and_has_no_body() {
    let (origin, _seen) = scripted(
        [127, 63, 0, 11],
        nothing,
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
    );
    let sidecar = sidecar(12, origin);
    let answer = exchange(
        sidecar.listener,
        "HEAD / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nconnection: close\r\n\r\n"
    );
}

#[test]
fn a_response_that_is_not_http_is_502_and_its_connection_is_not_used_again() {
    let (origin, _seen) = scripted(
        [127, 63, 0, 13],
        nothing,
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
    );
    let sidecar = sidecar(14, origin);
    for _ in 0..2 {
        let answer = exchange(
            sidecar.listener,
            "POST / HTTP/1.1\r\nHost: app\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        );
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer:?}");
    }
}

#[test]
fn an_ambiguous_request_is_400_and_nothing_of_it_is_forwarded() {
    let (origin, seen) = scripted([127, 63, 0, 15], nothing, "HTTP/1.1 200 OK\r\n\r\n");
    let sidecar = sidecar(16, origin);
    for head in [
        "Host: app\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
        "Host: app\r\nContent-Length: 3\r\nContent-Length: 4",
        "Host: app\r\nHost: other",
    ] {
        let mut client = sidecar.connect();
        let request = format!("POST / HTTP/1.1\r\n{head}\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n");
        client.write_all(request.as_bytes()).expect("it is written");
        let answer = read_all(client);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer:?}");
    }
    assert!(seen.try_recv().is_err(), "a request was forwarded");
}

#[test]
fn a_head_request_is_refused_without_a_body() {
    let nobody = free([127, 63, 0, 17]);
    let sidecar = sidecar(18, nobody);
    let request = "HEAD / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";
    let answer = exchange(sidecar.listener, request);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
    assert!(answer.contains("content-length: "), "{answer:?}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer:?}");
}

#[test]
fn an_answer_that_breaks_off_does_not_look_whole_to_a_client_of_http_1_0() {
    /// The client has a part of the answer: before that it would be a 502.
    static READ: Barrier = Barrier::new(2);
    fn breaks_off(reader: &mut BufReader<TcpStream>, _: &str) -> String {
        let mut stream = reader.get_ref();
        let half = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf \r\n";
        stream.write_all(half.as_bytes()).expect("it is written");
        READ.wait();
        stream
            .shutdown(std::net::Shutdown::Both)
            .expect("it is open");
        String::new()
    }
    let (origin, _seen) = scripted([127, 63, 0, 19], breaks_off, "");
    let sidecar = sidecar(20, origin);
    let mut client = sidecar.connect();
    client
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .expect("it is written");
    let mut first = [0; 1];
    client.read_exact(&mut first).expect("there is an answer");
    READ.wait();
    let end = client.read_to_end(&mut Vec::new());
    let reset = end.expect_err("the end of the connection is the end of the body");
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_client_of_http_1_0_hears_no_informational_response() {
    let (origin, _seen) = scripted(
        [127, 63, 0, 21],
        nothing,
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    );
    let sidecar = sidecar(22, origin);
    let answer = exchange(sidecar.listener, "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
}
