//! Each circuit breaker filled by real clients against a real sidecar process: who is refused, what says so, and that its places are
//! given back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use crate::common::{GET, PATIENCE, Sidecar, exchange, free, head};

const OVERFLOW: &str = "outrigger_overflow_total";

/// An application that answers nothing by itself: each request's connection comes out here once its head is read.
fn held(host: [u8; 4]) -> (SocketAddr, Receiver<TcpStream>) {
    let socket = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    let (tell, requests) = channel();
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            let tell = tell.clone();
            std::thread::spawn(move || {
                let reading = stream.try_clone().expect("a socket can be cloned");
                for line in BufReader::new(reading).lines().map_while(Result::ok) {
                    if line.is_empty() {
                        let stream = stream.try_clone().expect("a socket can be cloned");
                        // The test has what it wanted, and is gone.
                        let _ = tell.send(stream);
                    }
                }
            });
        }
    });
    (address, requests)
}

fn next(requests: &Receiver<TcpStream>) -> TcpStream {
    requests
        .recv_timeout(PATIENCE)
        .expect("the request comes to the task")
}

fn answer(mut request: &TcpStream, status: &str, fields: &str) {
    let answer = format!("HTTP/1.1 {status}\r\n{fields}content-length: 0\r\n\r\n");
    request
        .write_all(answer.as_bytes())
        .expect("the sidecar waits for it");
}

/// A client that has sent its request.
fn ask(sidecar: &Sidecar) -> TcpStream {
    let mut client = sidecar.connect();
    client
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    client
}

fn sidecar(listener: [u8; 4], origin: SocketAddr, breakers: &str) -> Sidecar {
    let breakers = format!("circuit_breakers = {{ {breakers} }}");
    Sidecar::start(free(listener), "", &origin.to_string(), &breakers)
}

fn assert_refused(sidecar: &Sidecar, breaker: &str) {
    let close = "GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n";
    let refused = exchange(sidecar.listener, close);
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("(UO"),
        "{refused:?}"
    );
    for one in [
        "requests",
        "retries",
        "pending",
        "connections",
        "concurrency",
    ] {
        let label = format!("breaker=\"{one}\"");
        let count = sidecar.metric(OVERFLOW, &[&label]);
        assert_eq!(count, u64::from(one == breaker), "{one}");
    }
}

/// Waits until so many places of the breaker are taken.
fn until_in_use(sidecar: &Sidecar, breaker: &str, in_use: u32) {
    let wanted = format!("\"{breaker}\":{{\"in_use\":{in_use},");
    sidecar.until("/clusters", |page| page.contains(&wanted));
}

#[test]
fn a_request_over_the_limit_of_requests_is_refused_until_one_has_ended() {
    let (origin, requests) = held([127, 80, 0, 1]);
    let sidecar = sidecar([127, 80, 0, 2], origin, "max_requests = 1");
    let first = ask(&sidecar);
    let request = next(&requests);
    assert_refused(&sidecar, "requests");
    answer(&request, "200 OK", "");
    assert_eq!(head(&first), "HTTP/1.1 200 OK");
    until_in_use(&sidecar, "requests", 0);
    let second = ask(&sidecar);
    answer(&next(&requests), "200 OK", "");
    assert_eq!(head(&second), "HTTP/1.1 200 OK");
}

#[test]
fn a_request_that_needs_a_connection_over_the_limit_is_refused_and_one_that_finds_a_kept_one_is_not()
 {
    let (origin, requests) = held([127, 80, 0, 3]);
    let sidecar = sidecar([127, 80, 0, 4], origin, "max_connections = 1");
    let first = ask(&sidecar);
    let request = next(&requests);
    assert_refused(&sidecar, "connections");
    answer(&request, "200 OK", "");
    assert_eq!(head(&first), "HTTP/1.1 200 OK");
    until_in_use(&sidecar, "requests", 0);
    until_in_use(&sidecar, "connections", 1);
    let second = ask(&sidecar);
    answer(&next(&requests), "200 OK", "connection: close\r\n");
    assert_eq!(head(&second), "HTTP/1.1 200 OK");
    until_in_use(&sidecar, "connections", 0);
}

#[test]
fn an_http2_connection_holds_one_place_for_all_its_requests_until_it_closes() {
    let socket = TcpListener::bind("127.80.0.5:0").expect("loopback can be bound");
    let origin = socket.local_addr().expect("a bound socket has an address");
    let fields = "circuit_breakers = { max_connections = 1 }\nretries = 0";
    let sidecar = Sidecar::start_with(
        free([127, 80, 0, 6]),
        "http2",
        ["", fields],
        &origin.to_string(),
        &["--workers", "1"],
    );
    let first = ask(&sidecar);
    let (mut task, _) = socket.accept().expect("the sidecar connects");
    task.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .expect("SETTINGS fit the socket");
    until_in_use(&sidecar, "pending", 0);
    let second = ask(&sidecar);
    until_in_use(&sidecar, "requests", 2);
    until_in_use(&sidecar, "connections", 1);
    assert_eq!(sidecar.metric(OVERFLOW, &[]), 0);
    drop(task);
    for client in [first, second] {
        assert!(head(&client).starts_with("HTTP/1.1 50"));
    }
    until_in_use(&sidecar, "connections", 0);
}

#[test]
fn an_opaque_connection_over_the_limit_is_closed_until_one_has_ended() {
    let socket = TcpListener::bind("127.80.0.7:0").expect("loopback can be bound");
    let origin = socket.local_addr().expect("a bound socket has an address");
    let sidecar = Sidecar::start_with(
        free([127, 80, 0, 8]),
        "tcp",
        ["", "circuit_breakers = { max_connections = 1 }"],
        &origin.to_string(),
        &[],
    );
    let first = sidecar.connect();
    let task = socket.accept().expect("the sidecar connects");
    let mut refused = sidecar.connect();
    assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0);
    let label = ["breaker=\"connections\""];
    assert_eq!(sidecar.metric(OVERFLOW, &label), 1);
    drop((first, task));
    until_in_use(&sidecar, "connections", 0);
    let mut second = sidecar.connect();
    let (mut task, _) = socket.accept().expect("the sidecar connects");
    task.write_all(b"!").expect("the connection is open");
    second.read_exact(&mut [0]).expect("it is passed on");
}

#[test]
fn an_upgraded_connection_keeps_its_place_until_the_tunnel_ends() {
    let (origin, requests) = held([127, 80, 0, 9]);
    let sidecar = sidecar([127, 80, 0, 10], origin, "max_connections = 1");
    let mut client = sidecar.connect();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: app\r\nconnection: upgrade\r\nupgrade: talk\r\n\r\n")
        .expect("the request fits the socket");
    let mut task = next(&requests);
    task.write_all(b"HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: talk\r\n\r\n")
        .expect("the sidecar waits for it");
    assert!(head(&client).starts_with("HTTP/1.1 101 "));
    assert_refused(&sidecar, "connections");
    until_in_use(&sidecar, "connections", 1);
    for end in [&client, &task] {
        end.shutdown(std::net::Shutdown::Both).expect("it is open");
    }
    until_in_use(&sidecar, "connections", 0);
}

#[test]
fn a_request_over_the_limit_of_pending_connects_is_refused_while_another_waits() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
        .expect("a socket can be made");
    let any: SocketAddr = "127.80.0.11:0".parse().expect("it is an address");
    socket.bind(&any.into()).expect("loopback can be bound");
    socket.listen(0).expect("it is bound");
    let origin = TcpListener::from(socket);
    let origin = &origin;
    let address = origin.local_addr().expect("a bound socket has an address");
    // The queue of a listener that accepts nobody is full after one: whoever comes then waits.
    let _queued = TcpStream::connect(address).expect("there is one place");
    let fields = "circuit_breakers = { max_pending_requests = 1 }\nconnect_timeout = \"20s\"";
    let sidecar = Sidecar::start(free([127, 80, 0, 12]), "", &address.to_string(), fields);
    let _first = ask(&sidecar);
    until_in_use(&sidecar, "pending", 1);
    assert_refused(&sidecar, "pending");
}

#[test]
fn a_retry_over_the_budget_is_not_made_and_the_answer_passed_on() {
    let (origin, requests) = held([127, 80, 0, 13]);
    let budget = "min_retry_concurrency = 1, retry_budget_percent = 0";
    let sidecar = sidecar([127, 80, 0, 14], origin, budget);
    let first = ask(&sidecar);
    answer(&next(&requests), "503 Later", "");
    let retried = next(&requests);
    until_in_use(&sidecar, "retries", 1);
    let second = ask(&sidecar);
    answer(&next(&requests), "503 No budget", "");
    assert!(head(&second).starts_with("HTTP/1.1 503 "));
    assert_eq!(sidecar.metric(OVERFLOW, &["breaker=\"retries\""]), 1);
    answer(&retried, "200 OK", "");
    assert_eq!(head(&first), "HTTP/1.1 200 OK");
    until_in_use(&sidecar, "retries", 0);
}

#[test]
fn a_request_over_what_the_service_was_found_to_take_is_refused() {
    let (origin, requests) = held([127, 80, 0, 15]);
    let adaptive =
        "adaptive_concurrency = { min_concurrency = 1, max_concurrency = 1, min_rtt_requests = 1 }";
    let sidecar = sidecar([127, 80, 0, 16], origin, adaptive);
    let first = ask(&sidecar);
    let request = next(&requests);
    assert_refused(&sidecar, "concurrency");
    assert_eq!(sidecar.metric("outrigger_concurrency_limit", &[]), 1);
    assert!(
        !sidecar
            .page("/metrics")
            .contains("outrigger_min_rtt_seconds{")
    );
    answer(&request, "200 OK", "");
    assert_eq!(head(&first), "HTTP/1.1 200 OK");
    sidecar.until("/metrics", |page| {
        page.contains("outrigger_min_rtt_seconds{")
    });
}
