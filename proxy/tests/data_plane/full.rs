//! More connections and requests than a listener takes: what the first ones too many are told, and that there is room afterwards.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::common::{GET, Sidecar, application, exchange, free, head, read_all};

const ERRORS: &str = "outrigger_errors_total";
const REFUSED: &str = "outrigger_refused_connections_total";
const OVERFLOW: &[&str] = &["flag=\"UO\"", "kind=\"Overflow\""];
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A sidecar that takes one connection, and that connection, which has had an answer.
fn full(origin: u8, listener: u8) -> (Sidecar, TcpStream) {
    let origin = application([127, 66, 0, origin]);
    let sidecar = Sidecar::start(
        free([127, 66, 0, listener]),
        "max_connections = 1",
        &origin.to_string(),
        "",
    );
    let mut first = sidecar.connect();
    first
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    assert_eq!(head(&first), "HTTP/1.1 200 OK");
    (sidecar, first)
}

#[test]
fn a_connection_over_the_limit_is_answered_503_and_the_first_one_lives() {
    let (sidecar, mut first) = full(1, 2);
    let answer = exchange(sidecar.listener, GET);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
    for part in ["connection: close", "date: ", "(UO, "] {
        assert!(answer.contains(part), "{part:?} is not in {answer:?}");
    }
    let only_head = exchange(sidecar.listener, "HEAD / HTTP/1.1\r\nhost: app\r\n\r\n");
    assert!(
        only_head.starts_with("HTTP/1.1 503 ") && only_head.ends_with("\r\n\r\n"),
        "{only_head:?}"
    );
    first
        .write_all(GET.as_bytes())
        .expect("the first connection is still open");
    assert_eq!(head(&first), "HTTP/1.1 200 OK");
    assert_eq!(sidecar.metric(REFUSED, &[]), 2);
    assert_eq!(sidecar.metric(ERRORS, OVERFLOW), 2);
}

#[test]
fn the_next_client_is_served_when_a_connection_has_left() {
    let (sidecar, first) = full(3, 4);
    assert!(exchange(sidecar.listener, GET).starts_with("HTTP/1.1 503 "));
    drop(first);
    sidecar.until("/metrics", |page| {
        let open = page
            .lines()
            .find(|line| line.starts_with("ActiveConnectionCount"));
        open.is_some_and(|line| line.ends_with(" 0"))
    });
    let mut next = sidecar.connect();
    next.write_all(GET.as_bytes())
        .expect("the request fits the socket");
    assert_eq!(head(&next), "HTTP/1.1 200 OK");
}

#[test]
fn an_http2_connection_over_the_limit_gets_goaway_before_any_stream() {
    let (sidecar, _first) = full(5, 6);
    let mut stream = sidecar.connect();
    stream
        .write_all(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat())
        .expect("the preface fits the socket");
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .expect("the connection is closed in order");
    let (settings, goaway) = answer.split_at(9);
    assert_eq!(settings, [0, 0, 0, 4, 0, 0, 0, 0, 0]);
    assert_eq!(goaway[3], 7, "a GOAWAY frame follows: {goaway:?}");
    assert_eq!(goaway[9..17], [0; 8], "last stream 0, NO_ERROR");
    let reason = String::from_utf8_lossy(&goaway[17..]);
    assert!(reason.contains("(UO, "), "{reason:?}");
    assert_eq!(usize::from(goaway[2]), goaway.len() - 9);
    assert_eq!(sidecar.metric(ERRORS, OVERFLOW), 1);
}

/// The SETTINGS_INITIAL_WINDOW_SIZE that a new HTTP/2 connection is told, and that connection.
fn window(sidecar: &Sidecar) -> (u32, TcpStream) {
    let mut stream = sidecar.connect();
    stream
        .write_all(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat())
        .expect("the preface fits the socket");
    let mut head = [0; 9];
    stream.read_exact(&mut head).expect("a server begins");
    assert_eq!(head[3], 4, "with SETTINGS");
    let mut settings = vec![0; usize::from(head[2])];
    stream
        .read_exact(&mut settings)
        .expect("the frame is whole");
    let mut of_window = settings.chunks_exact(6).filter(|one| one[..2] == [0, 4]);
    let value = of_window.next().expect("the window is not the default");
    let value = [value[2], value[3], value[4], value[5]];
    (u32::from_be_bytes(value), stream)
}

#[test]
fn sixteen_http2_clients_get_wide_windows_and_the_next_one_when_one_has_left() {
    let origin = application([127, 66, 0, 15]);
    let sidecar = Sidecar::start_with(
        free([127, 66, 0, 16]),
        "http",
        ["", ""],
        &origin.to_string(),
        &["--workers", "1"],
    );
    let mut wide: Vec<TcpStream> = (0..16)
        .map(|_| {
            let (size, stream) = window(&sidecar);
            assert_eq!(size, 256 * 1024);
            stream
        })
        .collect();
    assert_eq!(window(&sidecar).0, 64 * 1024);
    wide.pop();
    sidecar.until("/metrics", |page| {
        let open = page
            .lines()
            .find(|line| line.starts_with("ActiveConnectionCount"));
        open.is_some_and(|line| line.ends_with(" 15"))
    });
    assert_eq!(window(&sidecar).0, 256 * 1024);
}

#[test]
fn a_client_over_the_limit_that_says_nothing_is_closed_without_a_word() {
    let (sidecar, _first) = full(7, 8);
    assert_eq!(read_all(sidecar.connect()), "");
    assert_eq!(sidecar.metric(REFUSED, &[]), 1);
    assert_eq!(sidecar.metric(ERRORS, OVERFLOW), 0);
}

#[test]
fn no_more_than_64_clients_over_the_limit_are_told_at_once() {
    let origin = application([127, 66, 0, 9]);
    let sidecar = Sidecar::start_with(
        free([127, 66, 0, 10]),
        "http",
        ["max_connections = 1", ""],
        &origin.to_string(),
        &["--workers", "1"],
    );
    let mut first = sidecar.connect();
    first
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    assert_eq!(head(&first), "HTTP/1.1 200 OK");
    // Half a head each: they hold their places until the second that they are given is over.
    let crowd: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = sidecar.connect();
            // The sidecar may have closed it already.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: ");
            stream
        })
        .collect();
    let answers: Vec<String> = crowd.into_iter().map(read_all).collect();
    let told = answers
        .iter()
        .filter(|answer| answer.starts_with("HTTP/1.1 503 "))
        .count();
    let closed = answers.iter().filter(|answer| answer.is_empty()).count();
    assert_eq!(told + closed, 100, "{answers:?}");
    assert_eq!(sidecar.metric(REFUSED, &[]), 100);
    assert_eq!(sidecar.metric(ERRORS, OVERFLOW), told as u64);
    assert!(told >= 64 && closed > 0, "{told} told, {closed} closed");
}

#[test]
fn an_opaque_connection_over_the_limit_is_closed_without_a_word() {
    let origin = application([127, 66, 0, 11]);
    let fields = ["max_connections = 1", ""];
    let sidecar = Sidecar::start_with(
        free([127, 66, 0, 12]),
        "tcp",
        fields,
        &origin.to_string(),
        &[],
    );
    let mut first = sidecar.connect();
    first
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    assert_eq!(head(&first), "HTTP/1.1 200 OK");
    assert_eq!(exchange(sidecar.listener, GET), "");
    assert_eq!(sidecar.metric(REFUSED, &[]), 1);
    assert_eq!(sidecar.metric(ERRORS, OVERFLOW), 0);
}

/// An application that says when a request is there, and answers it when it is told to.
fn held(host: u8) -> (SocketAddr, Receiver<()>, Sender<()>) {
    let socket = TcpListener::bind(SocketAddr::from(([127, 66, 0, host], 0)))
        .expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    let (arrived, arrivals) = channel();
    let (answer, answers) = channel::<()>();
    std::thread::spawn(move || {
        let (stream, _) = socket.accept().expect("the sidecar connects");
        let mut lines = BufReader::new(stream.try_clone().expect("a socket can be cloned")).lines();
        let mut stream = stream;
        while let Some(Ok(line)) = lines.next() {
            if !line.is_empty() {
                continue;
            }
            // Both fail when the test is over.
            if arrived.send(()).is_err() || answers.recv().is_err() {
                return;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    (address, arrivals, answer)
}

#[test]
fn a_request_over_the_limit_is_answered_503_and_the_next_one_is_served() {
    let (origin, arrivals, answer) = held(13);
    let sidecar = Sidecar::start(
        free([127, 66, 0, 14]),
        "max_requests = 1",
        &origin.to_string(),
        "",
    );
    let mut first = sidecar.connect();
    first
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    arrivals.recv().expect("the request arrives");
    let mut second = sidecar.connect();
    second
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    second
        .shutdown(Shutdown::Write)
        .expect("the connection is open");
    let refused = read_all(second);
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("(UO, "),
        "{refused:?}"
    );
    assert!(refused.contains("date: "), "{refused:?}");
    assert_eq!(grpc_status(&sidecar), "8");
    assert_eq!(sidecar.metric(ERRORS, OVERFLOW), 2);
    answer.send(()).expect("the application waits");
    assert_eq!(head(&first), "HTTP/1.1 200 OK");
    sidecar.until_metric("HTTPCode_Target_2XX_Count_total", &[], 1);
    first
        .write_all(GET.as_bytes())
        .expect("the connection is open");
    arrivals.recv().expect("the request arrives");
    answer.send(()).expect("the application waits");
    assert_eq!(head(&first), "HTTP/1.1 200 OK");
}

/// What a gRPC client is told.
fn grpc_status(sidecar: &Sidecar) -> String {
    let asks = async {
        let stream = tokio::net::TcpStream::connect(sidecar.listener).await?;
        let (mut client, connection) = h2::client::handshake(stream)
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        let request = http::Request::post("http://app/shop.Orders/List")
            .header("content-type", "application/grpc")
            .body(())
            .expect("it is valid");
        let (response, _) = client
            .send_request(request, true)
            .map_err(std::io::Error::other)?;
        response.await.map_err(std::io::Error::other)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let response = runtime.block_on(asks).expect("the sidecar answers");
    let status = response.headers().get("grpc-status").cloned();
    let status = status.expect("the answer is trailers alone");
    status.to_str().expect("a status is a number").to_owned()
}
