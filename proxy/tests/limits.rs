//! Each bound of the data plane, filled by a real client against a real sidecar process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// No read waits longer: a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(20);

struct Sidecar {
    process: Child,
    listener: SocketAddr,
    admin: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.process.kill().expect("the child is ours to kill");
        self.process.wait().expect("a killed child ends");
    }
}

/// A port that was free a moment ago.
fn free(host: [u8; 4]) -> SocketAddr {
    let probe = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
    probe.local_addr().expect("a bound socket has an address")
}

impl Sidecar {
    fn start(
        listener: SocketAddr,
        listener_fields: &str,
        origin: SocketAddr,
        cluster_fields: &str,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let file = dir.path().join("static.toml");
        let text = format!(
            "[[listener]]\nname = \"in\"\ndirection = \"egress\"\naddress = \"{listener}\"\nprotocol = \"http\"\n\
             cluster = \"app\"\n{listener_fields}\n[[cluster]]\nname = \"app\"\nprotocol = \"http\"\n\
             endpoints = [{{ address = \"{origin}\" }}]\n{cluster_fields}\n"
        );
        std::fs::write(&file, text).expect("the folder is ours");
        let mut process = Command::new(env!("CARGO_BIN_EXE_outrigger-proxy"))
            .arg("--static")
            .arg(&file)
            .args(["--admin", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary was built");
        let stdout = process.stdout.take().expect("standard output is piped");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("the sidecar says where its admin page is");
        let admin = line
            .trim()
            .rsplit('/')
            .next()
            .and_then(|address| address.parse().ok());
        let admin = admin.expect("the line ends in the address");
        let sidecar = Self {
            process,
            listener,
            admin,
            _dir: dir,
        };
        while !sidecar.page("/ready").starts_with("HTTP/1.1 200") {}
        sidecar
    }

    fn page(&self, path: &str) -> String {
        exchange(
            self.admin,
            &format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
        )
    }

    fn connect(&self) -> TcpStream {
        connect(self.listener)
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the listener is bound");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout can be set");
    stream
}

fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    stream
        .write_all(request.as_bytes())
        .expect("the request fits the socket");
    read_all(stream)
}

fn read_all(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no answer within {PATIENCE:?}: {error}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads one response head.
fn head(stream: &TcpStream) -> String {
    let mut lines = BufReader::new(stream).lines();
    lines.next().and_then(Result::ok).unwrap_or_default()
}

/// An application that answers 200 to every request on every connection.
fn application(host: [u8; 4]) -> SocketAddr {
    let socket = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            std::thread::spawn(move || {
                let mut lines =
                    BufReader::new(stream.try_clone().expect("a socket can be cloned")).lines();
                let mut stream = stream;
                while let Some(Ok(line)) = lines.next() {
                    if line.is_empty() {
                        let answered =
                            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                        if answered.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

const GET: &str = "GET / HTTP/1.1\r\nhost: app\r\n\r\n";

#[test]
fn a_connection_over_the_limit_is_closed_and_counted_and_the_first_one_lives() {
    let origin = application([127, 61, 0, 1]);
    let sidecar = Sidecar::start(free([127, 61, 0, 2]), "max_connections = 1", origin, "");
    let mut first = sidecar.connect();
    first
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    assert_eq!(head(&first), "HTTP/1.1 200 OK");
    assert_eq!(
        read_all(sidecar.connect()),
        "",
        "the second connection is closed without a byte"
    );
    first
        .write_all(GET.as_bytes())
        .expect("the first connection is still open");
    assert_eq!(head(&first), "HTTP/1.1 200 OK");
    let metrics = sidecar.page("/metrics");
    let refused = metrics
        .lines()
        .find(|line| line.starts_with("outrigger_refused_connections_total"));
    assert!(
        refused.is_some_and(|line| line.ends_with(" 1")),
        "{refused:?}"
    );
}

#[test]
fn a_head_over_the_limit_is_answered_431() {
    let origin = application([127, 61, 0, 3]);
    let sidecar = Sidecar::start(free([127, 61, 0, 4]), "max_header_bytes = 8192", origin, "");
    let request = format!(
        "GET / HTTP/1.1\r\nhost: app\r\nx-long: {}\r\n\r\n",
        "a".repeat(20_000)
    );
    let answer = exchange(sidecar.listener, &request);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
}

#[test]
fn a_head_that_does_not_come_to_its_end_is_closed_however_slowly_it_trickles() {
    let origin = application([127, 61, 0, 5]);
    let sidecar = Sidecar::start(
        free([127, 61, 0, 6]),
        "header_timeout = \"300ms\"",
        origin,
        "",
    );
    let stream = sidecar.connect();
    let mut trickle = stream.try_clone().expect("a socket can be cloned");
    trickle
        .write_all(b"GET / HTTP/1.1\r\n")
        .expect("the connection is open");
    let closed = std::thread::spawn(move || read_all(stream));
    // One byte after the other until the sidecar has closed: each byte alone must not extend the time.
    while !closed.is_finished() {
        if trickle.write_all(b"x").is_err() {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert!(!closed.join().expect("the reader ends").contains("200 OK"));
}

#[test]
fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let origin = application([127, 61, 0, 7]);
    let sidecar = Sidecar::start(
        free([127, 61, 0, 8]),
        "idle_timeout = \"200ms\"",
        origin,
        "",
    );
    let mut stream = sidecar.connect();
    stream
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    let answer = read_all(stream);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
}

#[test]
fn a_task_that_never_answers_is_a_504_with_its_reason() {
    let silent = TcpListener::bind("127.61.0.9:0").expect("loopback can be bound");
    let origin = silent.local_addr().expect("a bound socket has an address");
    let sidecar = Sidecar::start(
        free([127, 61, 0, 10]),
        "",
        origin,
        "per_request_timeout = \"200ms\"",
    );
    let mut stream = sidecar.connect();
    stream
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    stream
        .shutdown(Shutdown::Write)
        .expect("the connection is open");
    let answer = read_all(stream);
    assert!(
        answer.starts_with("HTTP/1.1 504 ") && answer.contains("(UT"),
        "{answer:?}"
    );
}

#[test]
fn a_service_without_a_reachable_task_is_a_503_with_its_reason() {
    let sidecar = Sidecar::start(free([127, 61, 0, 11]), "", free([127, 61, 0, 12]), "");
    let mut stream = sidecar.connect();
    stream
        .write_all(GET.as_bytes())
        .expect("the request fits the socket");
    stream
        .shutdown(Shutdown::Write)
        .expect("the connection is open");
    let answer = read_all(stream);
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("(UF"),
        "{answer:?}"
    );
}

#[test]
fn plain_connect_is_refused() {
    let origin = application([127, 61, 0, 13]);
    let sidecar = Sidecar::start(free([127, 61, 0, 14]), "", origin, "");
    let answer = exchange(
        sidecar.listener,
        "CONNECT app:80 HTTP/1.1\r\nhost: app:80\r\nconnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer:?}");
}
