//! How often the sidecar allocates for one request on warm HTTP/1.1 connections: the number is named here, and may not grow.
//!
//! The sidecar runs in this process under a counting allocator; the client and the application are threads with fixed
//! buffers, which allocate nothing once they are connected.

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use clap::Parser;
use outrigger_proxy::app;
use outrigger_proxy::config::{Args, Config};
use stats_alloc::{Region, StatsAlloc};

#[global_allocator]
static ALLOCATIONS: StatsAlloc<System> = StatsAlloc::system();

/// One kind of request, and the most allocations it may cost.
struct Case {
    name: &'static str,
    request: &'static str,
    limit: usize,
}

const CASES: [Case; 3] = [
    Case {
        name: "GET, three headers",
        request: "GET /orders/7 HTTP/1.1\r\nhost: orders\r\naccept: */*\r\nuser-agent: test\r\n\r\n",
        limit: 5,
    },
    Case {
        name: "GET, ten headers",
        request: "GET /orders/7?full=1 HTTP/1.1\r\nHost: orders\r\nConnection: keep-alive\r\n\
                  User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: text/html,application/json;q=0.9\r\n\
                  Accept-Encoding: gzip, br\r\nAccept-Language: en\r\nCookie: session=c0ffee; theme=dark\r\n\
                  Cache-Control: no-cache\r\nX-Request-Id: 6ba7b810-9dad-11d1-80b4-00c04fd430c8\r\n\
                  X-Forwarded-For: 10.0.0.1\r\n\r\n",
        limit: 5,
    },
    Case {
        name: "POST, 16 bytes",
        request: "POST /orders HTTP/1.1\r\nhost: orders\r\ncontent-type: application/json\r\n\
                  content-length: 16\r\n\r\n{\"quantity\":1.0}",
        limit: 8,
    },
];

/// The same through two sidecars, both in this process, with a hop of HTTP/2 between them: each of a head's fields is made one of
/// HTTP/2's and back, request and response alike. (With plain HTTP/2 between them: 32, 45 and 37.)
const BY_HOP: [Case; 3] = [
    Case {
        name: "by a hop: GET, three headers",
        request: CASES[0].request,
        limit: 30,
    },
    Case {
        name: "by a hop: GET, ten headers",
        request: CASES[1].request,
        limit: 35,
    },
    Case {
        name: "by a hop: POST, 16 bytes",
        request: CASES[2].request,
        limit: 34,
    },
];

/// The same with mutual TLS between them. What it adds is rustls' own: the record it makes of each write, and the plaintext it makes
/// of each record, by either end.
const BY_TLS: [Case; 3] = [
    Case {
        name: "by a hop with TLS: GET, three headers",
        request: CASES[0].request,
        limit: 34,
    },
    Case {
        name: "by a hop with TLS: GET, ten headers",
        request: CASES[1].request,
        limit: 39,
    },
    Case {
        name: "by a hop with TLS: POST, 16 bytes",
        request: CASES[2].request,
        limit: 38,
    },
];

/// Requests counted at once.
const REQUESTS: usize = 200;
/// Counts taken; the least has the least of what happens once a second.
const COUNTS: usize = 10;
const BODY: usize = 1024;
/// No read waits longer: a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_request_allocates_no_more_often_than_it_is_known_to() {
    let [plain, hop, tls] = sidecar(application());
    let mut grown = Vec::new();
    let both = CASES.into_iter().map(|case| (case, plain));
    let all = both.chain(BY_HOP.into_iter().map(|case| (case, hop)));
    for (case, sidecar) in all.chain(BY_TLS.into_iter().map(|case| (case, tls))) {
        let mut client = connected(sidecar);
        exchange(&mut client, case.request, REQUESTS);
        let counts = (0..COUNTS).map(|_| {
            let region = Region::new(&ALLOCATIONS);
            exchange(&mut client, case.request, REQUESTS);
            let change = region.change();
            change.allocations + change.reallocations
        });
        let least = counts.min().unwrap_or_default();
        // Less than one per request is what a connection costs from time to time.
        let per_request = least / REQUESTS;
        println!(
            "{}: {per_request} allocations ({least} in {REQUESTS} requests), at most {}",
            case.name, case.limit
        );
        if per_request > case.limit {
            grown.push(format!(
                "{}: {per_request}, at most {}",
                case.name, case.limit
            ));
        }
    }
    assert!(
        grown.is_empty(),
        "more allocations per request:\n{}",
        grown.join("\n")
    );
}

fn free(host: &str) -> SocketAddr {
    let probe = TcpListener::bind((host, 0)).expect("loopback can be bound");
    probe.local_addr().expect("a bound socket has an address")
}

/// A sidecar in this process, one worker; it ends with the process. It has a listener straight to the application, and two that
/// go by a hop to its own ingress, one of them with TLS.
fn sidecar(application: SocketAddr) -> [SocketAddr; 3] {
    const HOP: &str = "hop = { namespace = \"n\", service = \"s\", instance = \"i\", request = \
        \"00112233445566778899aabbccddeeff\", verdict = \"ffeeddccbbaa99887766554433221100\" }";
    let (listener, egress, ingress) = (free("127.74.0.2"), free("127.74.0.3"), free("127.74.0.4"));
    let (secure, secured) = (free("127.74.0.5"), free("127.74.0.6"));
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let files = certificate(folder.path());
    let file = folder.path().join("static.toml");
    let text = format!(
        "[[listener]]\nname = \"in\"\ndirection = \"egress\"\naddress = \"{listener}\"\nprotocol = \"http\"\n\
         cluster = \"orders\"\n[[cluster]]\nname = \"orders\"\nprotocol = \"http\"\noutlier_detection = {{}}\n\
         endpoints = [{{ address = \"{application}\" }}]\n\
         [[listener]]\nname = \"egress\"\ndirection = \"egress\"\naddress = \"{egress}\"\nprotocol = \"http\"\n\
         cluster = \"far\"\n[[cluster]]\nname = \"far\"\nprotocol = \"http\"\n\
         endpoints = [{{ address = \"{ingress}\", {HOP} }}]\n\
         [[listener]]\nname = \"ingress\"\ndirection = \"ingress\"\naddress = \"{ingress}\"\nprotocol = \"http\"\n\
         cluster = \"orders\"\n{HOP}\n\
         [[listener]]\nname = \"secure\"\ndirection = \"egress\"\naddress = \"{secure}\"\nprotocol = \"http\"\n\
         cluster = \"secured\"\n[[cluster]]\nname = \"secured\"\nprotocol = \"http\"\n\
         endpoints = [{{ address = \"{secured}\", {HOP} }}]\ntls = {{ {files}, peer = \"{ID}\" }}\n\
         [[listener]]\nname = \"secured\"\ndirection = \"ingress\"\naddress = \"{secured}\"\nprotocol = \"http\"\n\
         cluster = \"orders\"\n{HOP}\ntls = {{ {files} }}\n"
    );
    std::fs::write(&file, text).expect("the folder is ours");
    let file = file.to_string_lossy();
    let words = [
        "outrigger-proxy",
        "--static",
        &file,
        "--admin",
        "127.0.0.1:0",
        "--workers",
        "1",
    ];
    let config = Config::from_args(Args::parse_from(words)).expect("the flags are valid");
    std::thread::spawn(move || {
        let ended = app::run(config);
        panic!("the sidecar ended: {ended:?}");
    });
    // Read at the start, which is over once the listener is bound.
    drop(connected(listener));
    // Read again for as long as it runs.
    std::mem::forget(folder);
    [listener, egress, secure]
}

const ID: &str = "spiffe://test.internal/ns/n/svc/s";

/// A certificate and its root, for both ends, as the fields of a `tls` table.
fn certificate(folder: &std::path::Path) -> String {
    let mut params = rcgen::CertificateParams::default();
    let id = ID.try_into().expect("it is ASCII");
    params.subject_alt_names = vec![rcgen::SanType::URI(id)];
    let mut root = rcgen::CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = || rcgen::KeyPair::generate().expect("a key can be made");
    let ca = rcgen::CertifiedIssuer::self_signed(root, key()).expect("it signs itself");
    let own = key();
    let leaf = params.signed_by(&own, &ca).expect("it is signed");
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path.display().to_string()
    };
    let (cert, key) = (
        write("cert.pem", leaf.pem()),
        write("key.pem", own.serialize_pem()),
    );
    let ca = write("ca.pem", ca.pem());
    format!("cert = \"{cert}\", key = \"{key}\", ca = \"{ca}\"")
}

fn connected(address: SocketAddr) -> TcpStream {
    let start = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream
                    .set_read_timeout(Some(PATIENCE))
                    .expect("a timeout can be set");
                stream
                    .set_nodelay(true)
                    .expect("a TCP socket has the option");
                return stream;
            }
            Err(error) => assert!(start.elapsed() < PATIENCE, "{address}: {error}"),
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// So many requests, each with its complete answer.
fn exchange(client: &mut TcpStream, request: &str, times: usize) {
    let mut buffer = [0; 4 * BODY];
    for _ in 0..times {
        client
            .write_all(request.as_bytes())
            .expect("the sidecar reads");
        let answer = message(client, &mut buffer).expect("the sidecar answers");
        assert!(
            answer.starts_with(b"HTTP/1.1 200 "),
            "{}",
            String::from_utf8_lossy(answer)
        );
    }
}

/// An application that answers every request on every connection with the same bytes.
fn application() -> SocketAddr {
    let socket = TcpListener::bind("127.74.0.1:0").expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n");
    let answer = [head.into_bytes(), vec![b'a'; BODY]].concat();
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || answer_all(stream, &answer));
        }
    });
    address
}

fn answer_all(mut stream: TcpStream, answer: &[u8]) {
    let mut buffer = [0; 4 * BODY];
    while message(&mut stream, &mut buffer).is_some() && stream.write_all(answer).is_ok() {}
}

/// Reads one message to the end of its body; `None` when the other side is gone.
fn message<'a>(stream: &mut TcpStream, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut filled = 0;
    loop {
        if length(&buffer[..filled]).is_some_and(|length| filled >= length) {
            return Some(&buffer[..filled]);
        }
        filled += stream
            .read(&mut buffer[filled..])
            .ok()
            .filter(|read| *read > 0)?;
    }
}

/// Bytes of a message whose head is complete.
fn length(message: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let head = message.windows(4).position(|end| end == b"\r\n\r\n")?;
    let mut lines = message[..head].split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then_some(value)
    });
    let body = value.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
    Some(head + 4 + body.unwrap_or(0))
}
