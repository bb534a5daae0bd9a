//! The hop between two sidecars: who is believed, and who is not. Forged fields, forged verdicts, other tasks at a known address.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::common::{
    PATIENCE, REQUEST_TOKEN, Sidecar, VERDICT_TOKEN, connect, exchange, free, hello, proof,
};
use crate::peers::{Http, Message, application, runtime};

const HOST: u8 = 69;

/// What a task does with a request once it has read its head.
#[derive(Clone, Copy)]
pub(crate) enum Does {
    Answer(&'static str),
    /// Closes with a reset.
    Reset,
    Nothing,
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that keeps a ledger of the heads it read.
pub(crate) struct Task {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Task {
    pub(crate) fn start(host: [u8; 4], does: Does) -> Self {
        let socket = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
        let address = socket.local_addr().expect("a bound socket has an address");
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let ledger = Arc::clone(&heads);
        std::thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                let ledger = Arc::clone(&ledger);
                std::thread::spawn(move || serve(stream, does, &ledger));
            }
        });
        Self { address, heads }
    }

    /// The heads so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("nobody panics").clone()
    }
}

fn serve(mut stream: TcpStream, does: Does, ledger: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|read| read > 0) {
        if !head.ends_with("\r\n\r\n") {
            continue;
        }
        ledger
            .lock()
            .expect("nobody panics")
            .push(std::mem::take(&mut head));
        match does {
            Does::Answer(text) if stream.write_all(text.as_bytes()).is_ok() => {}
            Does::Answer(_) => return,
            Does::Reset => {
                let socket = socket2::SockRef::from(&stream);
                let now = Some(std::time::Duration::ZERO);
                socket.set_linger(now).expect("it is a TCP socket");
                return;
            }
            Does::Nothing => {}
        }
    }
}

/// A head, to its empty line.
pub(crate) fn head(stream: &TcpStream) -> String {
    let mut reader = BufReader::with_capacity(1, stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).expect("in time") > 0 {}
    head
}

pub(crate) fn post(egress: SocketAddr) -> String {
    exchange(
        egress,
        "POST /order HTTP/1.1\r\nHost: orders\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    )
}

#[test]
fn a_hop_is_http2_behind_a_hello() {
    let socket = TcpListener::bind((std::net::Ipv4Addr::new(127, HOST, 1, 1), 0)).expect("free");
    let address = socket.local_addr().expect("bound");
    let egress = Sidecar::egress([127, HOST, 1, 2], "http", &[(address, "one")], "");
    let mut client = egress.connect();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n")
        .expect("written");
    let (mut peer, _) = socket.accept().expect("it connects");
    peer.set_read_timeout(Some(PATIENCE))
        .expect("it can be set");
    assert_eq!(head(&peer), hello("one", REQUEST_TOKEN));
    peer.write_all(proof(VERDICT_TOKEN).as_bytes())
        .expect("written");
    let mut preface = [0; 24];
    peer.read_exact(&mut preface).expect("it goes on");
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
}

#[test]
fn an_ingress_knows_those_who_know_it_and_tells_others_apart() {
    let task = Task::start([127, HOST, 2, 1], Does::Answer(OK));
    let ingress = Sidecar::ingress([127, HOST, 2, 2], "one", task.address);
    for (instance, token) in [
        ("two", REQUEST_TOKEN),
        ("one", VERDICT_TOKEN),
        ("one", "0"),
        ("", ""),
    ] {
        let answer = exchange(ingress.listener, &hello(instance, token));
        assert!(
            answer.starts_with("HTTP/1.1 421 "),
            "{instance} {token}: {answer}"
        );
        assert!(
            answer.contains("outrigger-verdict: undelivered\r\n"),
            "{answer}"
        );
        assert!(!answer.contains(VERDICT_TOKEN), "{answer}");
    }
    assert!(task.heads().is_empty(), "no application is asked");
    let mut known = connect(ingress.listener);
    known
        .write_all(hello("one", REQUEST_TOKEN).as_bytes())
        .expect("written");
    assert_eq!(head(&known), proof(VERDICT_TOKEN));
    known
        .write_all(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .expect("written");
    let answer = crate::common::read_all(known);
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"),
        "{answer}"
    );
    // Plain HTTP is taken on the same port, and an OPTIONS that is no hello is a request.
    let options = "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert!(exchange(ingress.listener, options).starts_with("HTTP/1.1 200 "));
    assert_eq!(task.heads().len(), 2);
}

#[test]
fn a_foreign_client_says_nothing_by_the_fields_of_a_hop() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nOutrigger-Verdict: undelivered UF\r\nX: 1\r\n\r\n\
        0\r\nOutrigger-Case: a\r\nX-Sum: 1\r\n\r\n";
    let task = Task::start([127, HOST, 3, 1], Does::Answer(ANSWER));
    let ingress = Sidecar::ingress([127, HOST, 3, 2], "one", task.address);
    let egress = Sidecar::egress([127, HOST, 3, 3], "http", &[(ingress.listener, "one")], "");
    let plain = Sidecar::start(free([127, HOST, 3, 4]), "", &task.address.to_string(), "");
    for (name, listener) in [
        ("ingress", ingress.listener),
        ("egress", egress.listener),
        ("one without hops", plain.listener),
    ] {
        let answer = exchange(
            listener,
            "GET / HTTP/1.1\r\nHost: a\r\nOutrigger-Try: 9 1\r\noutrigger-case: x\r\nConnection: close\r\nOUTRIGGER-X: 1\r\nY: 1\r\n\r\n",
        );
        let head = task.heads().pop().expect("it was asked");
        assert_eq!(head, "GET / HTTP/1.1\r\nHost: a\r\nY: 1\r\n\r\n", "{name}");
        let said = answer.to_ascii_lowercase();
        assert!(!said.contains("outrigger"), "{name}: {answer}");
        assert!(
            said.contains("x: 1") && said.contains("x-sum: 1"),
            "{name}: {answer}"
        );
    }
}

#[test]
fn an_application_cannot_say_that_a_request_was_not_delivered_to_it() {
    const LIE: &str =
        "HTTP/1.1 503 Busy\r\nOutrigger-Verdict: undelivered UF\r\ncontent-length: 0\r\n\r\n";
    let liar = Task::start([127, HOST, 4, 1], Does::Answer(LIE));
    let ingress = Sidecar::ingress([127, HOST, 4, 2], "one", liar.address);
    let egress = Sidecar::egress([127, HOST, 4, 3], "http", &[(ingress.listener, "one")], "");
    let answer = post(egress.listener);
    assert!(answer.starts_with("HTTP/1.1 503 Busy\r\n"), "{answer}");
    assert!(!answer.contains("utrigger"), "{answer}");
    assert_eq!(liar.heads().len(), 1, "sent again: {:?}", liar.heads());
}

/// Sends POSTs until the endpoint at `wrong` is ejected, all of which must reach the right task, once.
fn all_reach(right: &Task, egress: &Sidecar, wrong: SocketAddr) {
    let ejected = || {
        let page = egress.page("/clusters");
        let body = page.split("\r\n\r\n").nth(1).expect("there is a body");
        let page: serde_json::Value = serde_json::from_str(body).expect("it is JSON");
        let endpoints = page[0]["endpoints"].as_array().expect("a list").clone();
        let wrong = wrong.to_string();
        endpoints
            .iter()
            .any(|one| one["address"] == wrong && one["ejected"] == true)
    };
    let start = std::time::Instant::now();
    let mut sent = 0;
    while sent < 20 || !ejected() {
        let answer = post(egress.listener);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        sent += 1;
        assert!(
            start.elapsed() < PATIENCE,
            "never ejected: {}",
            egress.page("/clusters")
        );
    }
    assert_eq!(right.heads().len(), sent);
}

#[test]
fn a_foreign_server_at_a_reused_address_never_sees_a_request() {
    // It tells whoever asks what it has heard, and that nothing was delivered.
    const LIE: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: outrigger-hop/1\r\n\
        Outrigger-Token: 4f1c4f1c4f1c4f1c4f1c4f1c4f1c4f1c\r\n\r\n";
    assert!(LIE.contains(REQUEST_TOKEN));
    for (number, lie) in [(5, LIE), (6, OK), (7, "SSH-2.0-x\r\n\r\n\r\n")] {
        let foreign = Task::start([127, HOST, number, 1], Does::Answer(lie));
        let right = Task::start([127, HOST, number, 2], Does::Answer(OK));
        let ingress = Sidecar::ingress([127, HOST, number, 3], "two", right.address);
        let tasks = [(foreign.address, "one"), (ingress.listener, "two")];
        let egress = Sidecar::egress([127, HOST, number, 4], "http", &tasks, "");
        all_reach(&right, &egress, foreign.address);
        let heads = foreign.heads();
        assert!(!heads.is_empty(), "it was never tried");
        assert!(
            heads
                .iter()
                .all(|head| *head == hello("one", REQUEST_TOKEN)),
            "{heads:?}"
        );
    }
}

#[test]
fn another_task_at_a_reused_address_never_answers_and_is_ejected() {
    let other = Task::start(
        [127, HOST, 8, 1],
        Does::Answer("HTTP/1.1 200 Wrong\r\ncontent-length: 0\r\n\r\n"),
    );
    let right = Task::start([127, HOST, 8, 2], Does::Answer(OK));
    let there = Sidecar::ingress([127, HOST, 8, 3], "newcomer", other.address);
    let ingress = Sidecar::ingress([127, HOST, 8, 4], "two", right.address);
    let tasks = [(there.listener, "one"), (ingress.listener, "two")];
    let egress = Sidecar::egress([127, HOST, 8, 5], "http", &tasks, "");
    all_reach(&right, &egress, there.listener);
    assert_eq!(other.heads(), Vec::<String>::new());
    // Where it is all there is, the client hears of it.
    let egress = Sidecar::egress([127, HOST, 8, 6], "http", &tasks[..1], "");
    let answer = post(egress.listener);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains("not at its address any more (UF, Upstream)"),
        "{answer}"
    );
    assert_eq!(other.heads(), Vec::<String>::new());
}

#[test]
fn an_upgrade_crosses_a_hop_as_it_was_asked_for() {
    const GRANTED: &str =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x-own\r\nconnection: upgrade\r\n\r\n";
    let task = Task::start([127, HOST, 9, 1], Does::Answer(GRANTED));
    let ingress = Sidecar::ingress([127, HOST, 9, 2], "one", task.address);
    let egress = Sidecar::egress([127, HOST, 9, 3], "http", &[(ingress.listener, "one")], "");
    let mut client = egress.connect();
    let asked =
        "GET / HTTP/1.1\r\nHost: a\r\nX-Key: 1\r\nUpgrade: x-own\r\nconnection: upgrade\r\n\r\n";
    client.write_all(asked.as_bytes()).expect("written");
    assert_eq!(head(&client), GRANTED);
    assert_eq!(task.heads(), [asked]);
    // What looks like a head to the task is answered like one: bytes pass both ways.
    client.write_all(b"bytes\r\n\r\n").expect("written");
    client.shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(head(&client), GRANTED);
}

/// Sends a POST of two bytes by a hop of HTTP/2, with these fields; its answer's status.
fn posted(ingress: &Sidecar, fields: &[(&str, &str)]) -> u16 {
    let mut stream = connect(ingress.listener);
    stream
        .write_all(hello("one", REQUEST_TOKEN).as_bytes())
        .expect("written");
    assert_eq!(head(&stream), proof(VERDICT_TOKEN));
    runtime().block_on(async {
        stream.set_nonblocking(true).expect("a socket can be so");
        let stream = tokio::net::TcpStream::from_std(stream).expect("the runtime takes it");
        let handshake = h2::client::handshake(stream).await;
        let (mut client, connection) = handshake.expect("it speaks HTTP/2");
        tokio::spawn(connection);
        let mut request = http::Request::post("http://orders/x");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let sent = client.send_request(request.body(()).expect("it is valid"), false);
        let (answer, mut body) = sent.expect("the stream can be opened");
        body.send_data("hi".into(), true).expect("it is open");
        answer.await.expect("there is an answer").status().as_u16()
    })
}

#[test]
fn whoever_speaks_the_hop_does_not_say_how_a_body_is_framed() {
    let answers = vec![Message::new("200")];
    let (task, seen) = application(Http::V1, [127, HOST, 10, 1], answers);
    let ingress = Sidecar::ingress([127, HOST, 10, 2], "one", task);
    const CASE: &str = "outrigger-case";
    const LENGTH: (&str, &str) = ("content-length", "2");
    for (fields, framing) in [
        (
            &[(CASE, "Host,Transfer-Encoding,Content-Length"), LENGTH][..],
            &["Content-Length: 2"][..],
        ),
        (
            &[(CASE, "Host,Content-Length,Content-Length"), LENGTH, LENGTH],
            &["Content-Length: 2"],
        ),
        (&[(CASE, "Host"), LENGTH, LENGTH], &["content-length: 2"]),
        (
            &[(CASE, "Host,Host,Transfer-Encoding,transfer-encoding")],
            &["Transfer-Encoding: chunked"],
        ),
        (
            &[(CASE, "Host,Transfer-Encoding=CHUNKED")],
            &["Transfer-Encoding: CHUNKED"],
        ),
        (
            &[(CASE, "Host,Transfer-Encoding=identity")],
            &["transfer-encoding: chunked"],
        ),
    ] {
        assert_eq!(posted(&ingress, fields), 200, "{fields:?}");
        let request = seen.recv_timeout(PATIENCE).expect("it was asked");
        let framed = |name: &str| {
            let name = name.to_ascii_lowercase();
            name == "content-length" || name == "transfer-encoding"
        };
        let told = request.fields.iter().filter(|(name, _)| framed(name));
        let told: Vec<_> = told
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        assert_eq!(told, framing, "{fields:?}");
        assert_eq!(request.values("host"), ["orders"]);
        assert_eq!(request.body, "hi");
    }
}
