//! Connections to the application that it closes while they idle (DESIGN section 4: retries; RFC 9112 section 9.5).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use crate::common::{PATIENCE, Sidecar, free};

const POST: &str = "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 5\r\n\r\norder";

/// Reads one request with its body of five bytes; `false` at the end of the connection.
fn request(stream: &mut TcpStream) -> bool {
    let mut read = Vec::new();
    let mut piece = [0; 1024];
    while !read.ends_with(b"\r\n\r\norder") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return false,
            Ok(n) => read.extend_from_slice(&piece[..n]),
        }
    }
    true
}

/// An application that answers one request on each connection and closes it after that without having said so. Each close that has
/// happened is told, with the number of requests on that connection.
fn closing(fields: &'static str) -> (SocketAddr, Receiver<()>) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    let (told, closed) = channel();
    std::thread::spawn(move || {
        for mut stream in socket.incoming().flatten() {
            if !request(&mut stream) {
                continue;
            }
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{fields}\r\n");
            stream
                .write_all(answer.as_bytes())
                .expect("the sidecar reads");
            stream
                .shutdown(Shutdown::Write)
                .expect("the connection is open");
            if told.send(()).is_err() {
                return;
            }
        }
    });
    (address, closed)
}

/// On loopback the end is with the sidecar's kernel when `shutdown` returns: from then on no request may go by that connection.
#[test]
fn a_post_never_meets_the_end_of_a_connection_that_the_application_has_closed() {
    let (application, closed) = closing("");
    let sidecar = Sidecar::start(free([127, 0, 0, 1]), "", &application.to_string(), "");
    let mut client = sidecar.connect();
    let mut answer = [0; 1024];
    for n in 0..300 {
        client
            .write_all(POST.as_bytes())
            .expect("the sidecar reads");
        let length = client.read(&mut answer).expect("an answer comes");
        let text = String::from_utf8_lossy(&answer[..length]);
        assert!(text.starts_with("HTTP/1.1 200"), "POST {n}: {text}");
        closed
            .recv_timeout(PATIENCE)
            .expect("the application closes");
    }
    assert_eq!(sidecar.metric("outrigger_retries_total", &[]), 0);
}

/// It says that it would close at once, and keeps the connection: no request follows on it.
#[test]
fn a_connection_is_not_used_beyond_the_timeout_that_the_application_announces() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let application = socket.local_addr().expect("a bound socket has an address");
    let (told, requests) = channel();
    std::thread::spawn(move || {
        for (n, mut stream) in socket.incoming().flatten().enumerate() {
            let told = told.clone();
            std::thread::spawn(move || {
                while request(&mut stream) {
                    let answer =
                        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nkeep-alive: timeout=0\r\n\r\n";
                    stream
                        .write_all(answer.as_bytes())
                        .expect("the sidecar reads");
                    told.send(n).expect("the test listens");
                }
            });
        }
    });
    let sidecar = Sidecar::start(free([127, 0, 0, 1]), "", &application.to_string(), "");
    let mut client = sidecar.connect();
    let mut answer = [0; 1024];
    let connections: Vec<_> = (0..5)
        .map(|_| {
            client
                .write_all(POST.as_bytes())
                .expect("the sidecar reads");
            let _ = client.read(&mut answer).expect("an answer comes");
            requests.recv_timeout(PATIENCE).expect("a request comes")
        })
        .collect();
    assert_eq!(connections, [0, 1, 2, 3, 4]);
}
