//! The zone border, seen through a real sidecar process: what stays in the zone, what crosses it, and that it is counted.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};

use crate::common::{Sidecar, application, exchange, free};

const CLOSE: &str = "GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n";

/// A sidecar in zone a before endpoints of these zones.
fn sidecar(listener: [u8; 4], protocol: [&str; 2], endpoints: &[(SocketAddr, &str)]) -> Sidecar {
    let listener = free(listener);
    let endpoint = |(address, zone): &(SocketAddr, &str)| {
        format!("{{ address = \"{address}\", zone = \"{zone}\" }}")
    };
    let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
    let [downstream, upstream] = protocol;
    let text = format!(
        "[[listener]]\nname = \"in\"\ndirection = \"egress\"\naddress = \"{listener}\"\nprotocol = \"{downstream}\"\n\
         cluster = \"app\"\n[[cluster]]\nname = \"app\"\nprotocol = \"{upstream}\"\nendpoints = [{}]\n",
        endpoints.join(", ")
    );
    Sidecar::start_on(listener, &text, |command| {
        command.args(["--zone", "a"]);
    })
}

/// (all bytes, bytes that crossed the border, requests that did)
fn counts(sidecar: &Sidecar) -> [u64; 3] {
    [
        "TargetProcessedBytes_total",
        "outrigger_cross_zone_bytes_total",
        "outrigger_cross_zone_requests_total",
    ]
    .map(|name| sidecar.metric(name, &[]))
}

/// One request of 5 bytes that is answered with 3.
fn origin(host: [u8; 4]) -> SocketAddr {
    let socket = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for mut stream in socket.incoming().flatten() {
            let mut seen = Vec::new();
            while !seen.ends_with(b"12345") {
                let mut some = [0; 1024];
                match stream.read(&mut some) {
                    Ok(read) if read > 0 => seen.extend_from_slice(&some[..read]),
                    _ => break,
                }
            }
            // Whoever has gone is not waited for.
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc");
        }
    });
    address
}

const POST: &str =
    "POST / HTTP/1.1\r\nhost: app\r\nconnection: close\r\ncontent-length: 5\r\n\r\n12345";

#[test]
fn bytes_that_cross_the_border_are_counted_for_http_1_1() {
    for (n, zone, crossed) in [(1, "a", [8, 0, 0]), (3, "b", [8, 8, 1]), (5, "", [8, 0, 0])] {
        let task = origin([127, 81, 0, n]);
        let sidecar = sidecar([127, 81, 0, n + 1], ["http", "http"], &[(task, zone)]);
        let answer = exchange(sidecar.listener, POST);
        assert!(answer.ends_with("abc"), "{answer:?}");
        sidecar.until_metric("TargetProcessedBytes_total", &[], 8);
        assert_eq!(counts(&sidecar), crossed, "a task in zone {zone:?}");
    }
}

#[test]
fn bytes_that_cross_the_border_are_counted_for_http_2() {
    let task = origin([127, 81, 0, 7]);
    let far = Sidecar::start(free([127, 81, 0, 8]), "", &task.to_string(), "");
    let near = sidecar([127, 81, 0, 9], ["http", "http2"], &[(far.listener, "b")]);
    let answer = exchange(near.listener, POST);
    assert!(answer.ends_with("abc"), "{answer:?}");
    near.until_metric("TargetProcessedBytes_total", &[], 8);
    assert_eq!(counts(&near), [8, 8, 1]);
}

#[test]
fn bytes_that_cross_the_border_are_counted_for_opaque_connections() {
    let task = TcpListener::bind("127.81.0.10:0").expect("loopback can be bound");
    let address = task.local_addr().expect("a bound socket has an address");
    let sidecar = sidecar([127, 81, 0, 11], ["tcp", "tcp"], &[(address, "b")]);
    let mut client = sidecar.connect();
    client.write_all(b"12345").expect("it fits the socket");
    client.shutdown(Shutdown::Write).expect("it is open");
    let (mut stream, _) = task.accept().expect("the sidecar connects");
    let mut seen = String::new();
    stream.read_to_string(&mut seen).expect("it is passed on");
    stream.write_all(b"abc").expect("it fits the socket");
    drop(stream);
    client.read_to_string(&mut seen).expect("it is passed on");
    assert_eq!(seen, "12345abc");
    sidecar.until_metric("TargetProcessedBytes_total", &[], 8);
    assert_eq!(counts(&sidecar), [8, 8, 1]);
}

#[test]
fn of_two_tasks_the_one_in_the_own_zone_gets_all_and_the_other_when_it_is_gone() {
    let (near, far) = (free([127, 81, 0, 12]), application([127, 81, 0, 13]));
    let socket = TcpListener::bind(near).expect("it was free a moment ago");
    let answering = std::thread::spawn(move || {
        for _ in 0..50 {
            let (mut stream, _) = socket.accept().expect("the sidecar connects");
            let read = stream.read(&mut [0; 1024]);
            assert!(read.expect("a request comes") > 0);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .expect("the sidecar waits for it");
        }
    });
    let sidecar = sidecar(
        [127, 81, 0, 14],
        ["http", "http"],
        &[(near, "a"), (far, "b")],
    );
    let target = |address: SocketAddr| {
        let label = format!("Target=\"{address}\"");
        sidecar.metric("RequestCountPerTarget_total", &[&label])
    };
    for _ in 0..50 {
        let answer = exchange(sidecar.listener, CLOSE);
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
    }
    assert_eq!((target(near), target(far)), (50, 0));
    answering.join().expect("it has answered fifty");
    for _ in 0..10 {
        let answer = exchange(sidecar.listener, CLOSE);
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
    }
    assert_eq!(target(far), 10);
    sidecar.until_metric("outrigger_cross_zone_requests_total", &[], 10);
}
