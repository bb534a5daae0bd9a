//! Through both sidecars, egress and ingress, HTTP/1.1 arrives byte for byte as it was sent: by HTTP/1.1 between them and by the hop,
//! which is HTTP/2, each with mutual TLS and without.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use crate::certificates::{Authority, id};
use crate::common::{PATIENCE, Sidecar, connect, free, hop_table};
use crate::tls;

const HOST: u8 = 68;

/// Reads to the empty line.
fn read_head(reader: &mut impl BufRead) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let read = reader.read_until(b'\n', &mut head);
        assert!(read.expect("it comes in time") > 0, "cut off: {head:?}");
    }
    head
}

/// An application that answers one request with these bytes, and tells the head that it was sent.
fn application(host: [u8; 4], answer: &'static [u8]) -> (SocketAddr, Receiver<Vec<u8>>) {
    let socket = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    let (told, seen) = channel();
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            stream
                .set_read_timeout(Some(PATIENCE))
                .expect("a timeout can be set");
            let mut reader = BufReader::new(stream.try_clone().expect("it can be cloned"));
            let told = told.send(read_head(&mut reader));
            let mut stream = stream;
            if told.is_err() || stream.write_all(answer).is_err() {
                return;
            }
        }
    });
    (address, seen)
}

/// What is between the two sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Plain,
    Hop,
    Tls,
    HopByTls,
}

const BETWEEN: [Between; 4] = [
    Between::Plain,
    Between::Hop,
    Between::Tls,
    Between::HopByTls,
];

/// The two sidecars between a client and the application.
fn hops(number: u8, application: SocketAddr, between: Between) -> [Sidecar; 2] {
    let [at_ingress, at_egress] = [[127, HOST, number, 2], [127, HOST, number, 3]];
    match between {
        Between::Plain => {
            let ingress = Sidecar::start(free(at_ingress), "", &application.to_string(), "");
            let task = ingress.listener.to_string();
            let egress = Sidecar::start(free(at_egress), "", &task, "");
            [ingress, egress]
        }
        Between::Hop => {
            let ingress = Sidecar::ingress(at_ingress, "one", application);
            let tasks = [(ingress.listener, "one")];
            let egress = Sidecar::egress(at_egress, "http", &tasks, "");
            [ingress, egress]
        }
        Between::Tls | Between::HopByTls => {
            let instance = (between == Between::HopByTls).then_some("one");
            let ca = Authority::new();
            let (orders, web) = (ca.service("orders"), ca.service("web"));
            let hop = instance.map(hop_table).unwrap_or_default();
            let ingress = tls::ingress(at_ingress, &hop, &orders, "strict", application);
            let tasks = [(ingress.listener, instance)];
            let egress = tls::egress(at_egress, "http", &tasks, &web, &id("orders"));
            [ingress, egress]
        }
    }
}

fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("it is written");
}

const REQUEST: &[u8] = b"M-SEARCH /a/../b;c=d,e?q=%20&r='()*!$~[]@:&&=?/ HTTP/1.1\r\nX-oDD-cASE: 1\r\nHOST: app\r\nx-Repeated: one\r\nAccept: */*\r\n\
X-Repeated: two\r\nX-Empty: \r\nX-Signs!#$%&'*+-.^_`|~09: \"quoted, (comment)\" \\ ; =?utf-8?q?x?=\r\nX-Bytes: caf\xe9 \xff\x80 \xe2\x82\xac\r\n\
X-Tab: a\tb  c\r\nx-repeated: three\r\nCookie: a=1\r\nCookie: b=2\r\nProxy-Authorization: Basic Zm9v\r\nVia: 1.1 other\r\n\
X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nX-Request-Id: 7\r\nExpect: something\r\nContent-Length: 0\r\n\r\n";

const ANSWER: &[u8] = b"HTTP/1.1 299 Quite (OK), \xe9t\xe9 !\r\nsErVeR: x\r\nX-B: 1\r\nSet-Cookie: a=1; Path=/\r\nX-a: 2\r\nset-cookie: b=2\r\nX-Empty: \r\n\
X-Bytes: caf\xe9 \xff\x80\r\nProxy-Authenticate: Basic realm=\"x\"\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nContent-LENGTH: 2\r\n\
x-b: 3\r\n\r\n";

#[test]
fn a_request_and_its_answer_arrive_byte_for_byte_through_both_hops() {
    for between in BETWEEN {
        let whole = [ANSWER, b"hi"].concat().leak();
        let (origin, seen) = application([127, HOST, 1, 1], whole);
        let [_ingress, egress] = hops(1, origin, between);
        let mut client = egress.connect();
        send(&mut client, REQUEST);
        let request = seen.recv_timeout(PATIENCE).expect("the request comes");
        assert_eq!(
            String::from_utf8_lossy(&request),
            String::from_utf8_lossy(REQUEST)
        );
        assert!(request == REQUEST);
        let mut reader = BufReader::new(client);
        let answer = read_head(&mut reader);
        assert_eq!(
            String::from_utf8_lossy(&answer),
            String::from_utf8_lossy(ANSWER)
        );
        assert!(answer == ANSWER);
        let mut body = [0; 2];
        reader.read_exact(&mut body).expect("the body comes whole");
        assert_eq!(&body, b"hi");
    }
}

#[test]
fn unknown_methods_pass_and_are_not_tried_again() {
    for between in BETWEEN {
        for (number, method) in (10..).zip(["PROPFIND", "x!#$%&'*+-.^_`|~", "get", "PATCH", "LINK"])
        {
            let answer = b"HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n";
            let (origin, seen) = application([127, HOST, number, 1], answer);
            let [_ingress, egress] = hops(number, origin, between);
            let mut client = egress.connect();
            let request = format!("{method} / HTTP/1.1\r\nHost: app\r\n\r\n");
            send(&mut client, request.as_bytes());
            let got = seen.recv_timeout(PATIENCE).expect("the request comes");
            assert_eq!(got, request.as_bytes());
            let head = read_head(&mut BufReader::new(client));
            assert_eq!(head, answer, "an empty reason stays empty");
        }
    }
}

#[test]
fn what_is_for_one_hop_does_not_pass_the_first_and_the_rest_keeps_its_place() {
    for between in BETWEEN {
        let answer = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: keep-alive, X-Hop\r\nx-hop: 1\r\nKeep-Alive: timeout=5\r\nX-B: 2\r\n\
            Proxy-Connection: x\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n";
        let (origin, seen) = application([127, HOST, 20, 1], answer);
        let [_ingress, egress] = hops(20, origin, between);
        let mut client = egress.connect();
        let request = b"GET / HTTP/1.1\r\nX-A: 1\r\nconnection: X-Secret\r\nHost: app\r\nConnection: Keep-Alive, TE ,upgrade, HTTP2-Settings,Cookie2\r\n\
            x-SECRET: 1\r\nX-B: 2\r\nTE: gzip, deflate\r\nKeep-Alive: 300\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\
            Proxy-Connection: keep-alive\r\nX-C: 3\r\nX-secret: 2\r\ncookie2: 1\r\n\r\n";
        send(&mut client, request);
        let got = seen.recv_timeout(PATIENCE).expect("the request comes");
        assert_eq!(
            String::from_utf8_lossy(&got),
            "GET / HTTP/1.1\r\nX-A: 1\r\nHost: app\r\nX-B: 2\r\nX-C: 3\r\n\r\n"
        );
        let head = read_head(&mut BufReader::new(client));
        assert_eq!(
            String::from_utf8_lossy(&head),
            "HTTP/1.1 200 OK\r\nX-A: 1\r\nX-B: 2\r\nContent-Length: 0\r\n\r\n"
        );
    }
}

#[test]
fn te_trailers_passes_and_says_at_each_hop_that_it_is_for_one() {
    for between in BETWEEN {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let (origin, seen) = application([127, HOST, 21, 1], answer);
        let [_ingress, egress] = hops(21, origin, between);
        let mut client = egress.connect();
        let request =
            b"GET / HTTP/1.1\r\nHost: app\r\nTE: trailers\r\nConnection: TE\r\nX: 1\r\n\r\n";
        send(&mut client, request);
        let got = seen.recv_timeout(PATIENCE).expect("the request comes");
        assert_eq!(
            String::from_utf8_lossy(&got),
            "GET / HTTP/1.1\r\nHost: app\r\nTE: trailers\r\nX: 1\r\nconnection: te\r\n\r\n"
        );
    }
}

#[test]
fn a_chunked_request_and_answer_with_trailers_pass_both_hops() {
    for between in BETWEEN {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\nx-LAST: \xe9\r\n\r\n";
        let (origin, seen) = application([127, HOST, 22, 1], answer);
        let [_ingress, egress] = hops(22, origin, between);
        let mut client = connect(egress.listener);
        let request = b"POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-Check: 1\r\n\r\n";
        send(&mut client, request);
        let head = seen.recv_timeout(PATIENCE).expect("the request comes");
        assert_eq!(
            String::from_utf8_lossy(&head),
            "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let mut reader = BufReader::new(client);
        let mut got = vec![0; answer.len()];
        reader.read_exact(&mut got).expect("the answer comes whole");
        assert_eq!(
            String::from_utf8_lossy(&got),
            String::from_utf8_lossy(answer)
        );
    }
}

#[test]
fn an_answer_that_wants_an_upgrade_says_which() {
    for between in BETWEEN {
        let answer = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: foo/2\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n";
        let (origin, _seen) = application([127, HOST, 23, 1], answer);
        let [_ingress, egress] = hops(23, origin, between);
        let mut client = egress.connect();
        send(&mut client, b"GET / HTTP/1.1\r\nHost: app\r\n\r\n");
        let head = read_head(&mut BufReader::new(client));
        assert_eq!(
            String::from_utf8_lossy(&head),
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: foo/2\r\nContent-Length: 0\r\nconnection: upgrade\r\n\r\n"
        );
    }
}
