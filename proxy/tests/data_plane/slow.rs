//! Clients that are slow: with their heads, with their bodies, with reading. Each is ended by its timeout, and the others notice nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{GET, PATIENCE, Sidecar, application, exchange, free, head, read_all};

const ERRORS: &str = "outrigger_errors_total";
const HEADER: &[&str] = &["flag=\"DPE\"", "kind=\"HeaderTimeout\""];
const BODY: &[&str] = &["flag=\"SI\"", "kind=\"BodyTimeout\""];
const IDLE: &[&str] = &["flag=\"SI\"", "kind=\"IdleTimeout\""];

fn sidecar(host: u8, origin: SocketAddr, fields: &str) -> Sidecar {
    Sidecar::start(free([127, 67, 0, host]), fields, &origin.to_string(), "")
}

fn assert_too_late(answer: &str) {
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("(DPE, "),
        "{answer:?}"
    );
    for part in ["connection: close", "date: "] {
        assert!(answer.contains(part), "{part:?} is not in {answer:?}");
    }
}

#[test]
fn half_a_head_is_answered_408_after_the_header_timeout() {
    let origin = application([127, 67, 0, 1]);
    let sidecar = sidecar(2, origin, "header_timeout = \"200ms\"");
    // The first is too short to tell what it will be.
    for (sent, begun) in ["G", "GET / HTTP/1.1\r\nhost: app\r\n"].iter().enumerate() {
        assert_too_late(&exchange(sidecar.listener, begun));
        assert_eq!(sidecar.metric(ERRORS, HEADER), sent as u64 + 1);
    }
}

#[test]
fn half_of_a_second_head_is_answered_408_too() {
    let origin = application([127, 67, 0, 3]);
    let sidecar = sidecar(4, origin, "header_timeout = \"200ms\"");
    let answer = exchange(sidecar.listener, &format!("{GET}GET / HTTP/1.1\r\n"));
    let second = answer.strip_prefix("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    assert_too_late(second.unwrap_or(&answer));
}

#[test]
fn a_client_that_sends_nothing_is_closed_without_a_word() {
    let origin = application([127, 67, 0, 5]);
    let sidecar = sidecar(6, origin, "header_timeout = \"200ms\"");
    assert_eq!(read_all(sidecar.connect()), "");
    assert_eq!(sidecar.metric(ERRORS, &[]), 0);
}

#[test]
fn a_head_that_trickles_is_answered_408_however_often_a_byte_comes() {
    let origin = application([127, 67, 0, 7]);
    let sidecar = sidecar(8, origin, "header_timeout = \"300ms\"");
    let stream = sidecar.connect();
    let mut trickle = stream.try_clone().expect("a socket can be cloned");
    trickle
        .write_all(b"GET / HTTP/1.1\r\nx-")
        .expect("the connection is open");
    let closed = std::thread::spawn(move || read_all(stream));
    // One byte after the other until the sidecar has closed: each byte alone must not extend the time.
    while !closed.is_finished() {
        if trickle.write_all(b"x").is_err() {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert_too_late(&closed.join().expect("the reader ends"));
}

#[test]
fn a_line_end_behind_a_body_is_not_half_a_head() {
    let origin = application([127, 67, 0, 33]);
    let fields = "header_timeout = \"100ms\"\nidle_timeout = \"300ms\"";
    let sidecar = sidecar(34, origin, fields);
    let asked = "GET / HTTP/1.1\r\nhost: app\r\ncontent-length: 2\r\n\r\nhi\r\n";
    let answer = exchange(sidecar.listener, asked);
    assert_eq!(answer, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(sidecar.metric(ERRORS, &[]), 0);
}

#[test]
fn an_http2_header_block_that_does_not_end_ends_its_connection() {
    let origin = application([127, 67, 0, 31]);
    let sidecar = sidecar(32, origin, "header_timeout = \"200ms\"");
    // The preface, SETTINGS, and HEADERS: cut off in its payload, or whole without END_HEADERS (RFC 9113 section 6.2).
    let begun = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &[0, 0, 0, 4, 0, 0, 0, 0, 0],
    ]
    .concat();
    let headers = [0, 0, 3, 1, 0, 0, 0, 0, 1, 0x82, 0x86, 0x84];
    for (told, sent) in [11, headers.len()].into_iter().enumerate() {
        let mut stream = sidecar.connect();
        let sent = [&begun[..], &headers[..sent]].concat();
        stream.write_all(&sent).expect("the connection is open");
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .expect("it is closed in order");
        let calm = [0, 0, 0, 0xb];
        let goodbye = answer
            .windows(17)
            .any(|frame| frame[..4] == [0, 0, 8, 7] && frame[13..] == calm);
        assert!(goodbye, "{answer:?}");
        assert_eq!(sidecar.metric(ERRORS, HEADER), told as u64 + 1);
    }
}

#[test]
fn a_body_that_stands_still_is_answered_408_and_the_connection_closed() {
    let sidecar = sidecar(10, silent(11), "body_timeout = \"200ms\"");
    let answer = exchange(
        sidecar.listener,
        "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 10\r\n\r\nabc",
    );
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("(SI, "),
        "{answer:?}"
    );
    assert!(answer.contains("connection: close"), "{answer:?}");
    assert_eq!(sidecar.metric(ERRORS, BODY), 1);
}

/// An application that takes connections and never says anything.
fn silent(host: u8) -> SocketAddr {
    let socket = TcpListener::bind(SocketAddr::from(([127, 67, 0, host], 0)))
        .expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        let streams: Vec<TcpStream> = socket.incoming().flatten().collect();
        drop(streams);
    });
    address
}

/// An application that answers each connection at once with `answer`, whatever comes, and keeps it open until the sidecar closes.
fn eager(host: u8, answer: Vec<u8>) -> SocketAddr {
    let socket = TcpListener::bind(SocketAddr::from(([127, 67, 0, host], 0)))
        .expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for mut stream in socket.incoming().flatten() {
            let mut first = [0; 1024];
            // They fail when the sidecar gives up, which is what this waits for.
            let _ = stream.read(&mut first);
            let _ = stream.write_all(&answer);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    address
}

#[test]
fn a_body_that_stands_still_after_the_answer_began_ends_the_connection() {
    let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab";
    let sidecar = sidecar(12, eager(13, begun.to_vec()), "body_timeout = \"300ms\"");
    let answer = exchange(
        sidecar.listener,
        "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 10\r\n\r\nabc",
    );
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
    assert!(answer.ends_with("\r\n\r\nab"), "{answer:?}");
    assert_eq!(sidecar.metric(ERRORS, BODY), 1);
}

#[test]
fn a_client_that_does_not_read_its_answer_is_closed_after_the_idle_timeout() {
    const LENGTH: usize = 64 << 20;
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + LENGTH, b'x');
    let sidecar = sidecar(14, eager(15, answer), "idle_timeout = \"300ms\"");
    let before = sidecar.resident();
    let mut stream = sidecar.connect();
    stream
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    sidecar.until_metric(ERRORS, IDLE, 1);
    let grown = sidecar.resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes are kept for one client");
    let received = read_all(stream).len();
    assert!(received < LENGTH, "the answer came whole");
}

#[test]
fn three_hundred_trickling_clients_cost_the_good_ones_no_request() {
    const SLOW: usize = 300;
    let origin = application([127, 67, 0, 17]);
    let sidecar = sidecar(18, origin, "header_timeout = \"1s\"");
    let listener = sidecar.listener;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let slow: Vec<_> = (0..SLOW)
        .map(|_| {
            runtime.spawn(async move { tokio::time::timeout(PATIENCE, trickle(listener)).await })
        })
        .collect();
    let mut good = 0;
    while good < 50 || slow.iter().any(|client| !client.is_finished()) {
        let answer = exchange(
            listener,
            "GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n",
        );
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
        good += 1;
    }
    for client in slow {
        let answer = runtime.block_on(client).expect("the client does not panic");
        let answer = answer.expect("it is ended in time");
        assert_too_late(&String::from_utf8_lossy(&answer.expect("it is answered")));
    }
    assert_eq!(sidecar.metric(ERRORS, HEADER), SLOW as u64);
}

#[test]
fn five_thousand_heads_under_way_stay_within_the_stated_memory() {
    /// What the README's "Limits and bounds" says of a connection with a head under way, beyond the head.
    const BOUND: u64 = 32 * 1024;
    let limit = getrlimit(Resource::Nofile);
    let (current, maximum) = (limit.maximum, limit.maximum);
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("the hard limit is allowed");
    let count = maximum.map_or(5000, |most| most.saturating_sub(1000).clamp(10, 5000));
    let origin = application([127, 67, 0, 19]);
    let sidecar = sidecar(20, origin, "header_timeout = \"60s\"");
    assert_eq!(good(&sidecar), "HTTP/1.1 200 OK");
    let before = sidecar.resident();
    let slow: Vec<TcpStream> = (0..count)
        .map(|_| {
            let mut stream = sidecar.connect();
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: app\r\nx-")
                .expect("the connection is open");
            stream
        })
        .collect();
    sidecar.until_metric("ActiveConnectionCount", &[], count);
    assert_eq!(good(&sidecar), "HTTP/1.1 200 OK");
    let grown = sidecar.resident().saturating_sub(before);
    let each = grown / count;
    assert!(
        each <= BOUND,
        "{each} bytes for each of {count} connections"
    );
    assert!(each > 1024, "{each} bytes: were the heads read?");
    drop(slow);
}

fn good(sidecar: &Sidecar) -> String {
    let mut stream = sidecar.connect();
    stream
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    head(&stream)
}

/// Sends a head byte by byte for as long as it may, and returns what it is told.
async fn trickle(listener: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = tokio::net::TcpStream::connect(listener).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: app\r\nx-")
        .await?;
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let mut told = std::pin::pin!(read.read_to_end(&mut answer));
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tokio::select! {
            read = &mut told => {
                read?;
                return Ok(answer);
            }
            _ = tick.tick() => {
                // It fails when the sidecar has closed; what it said comes from the other half.
                let _ = write.write_all(b"x").await;
            }
        }
    }
}
