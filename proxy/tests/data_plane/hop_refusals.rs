//! An application that answers something and then refuses: what was begun is not said to be undelivered, and runs once.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;

use crate::common::{Sidecar, exchange};
use crate::hop::{head, post};

const HOST: u8 = 92;

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
const INTERNAL_ERROR: [u8; 4] = [0, 0, 0, 2];
/// `:status: 200`, and `:status: 103` as a literal.
const OK: &[u8] = &[0x88];
const EARLY_HINTS: &[u8] = &[0x08, 3, b'1', b'0', b'3'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("it is short");
    let head = [0, 0, length, kind, flags];
    [&head, &stream.to_be_bytes()[..], payload].concat()
}

/// What an application says to each request, by the request's stream.
type Says = fn(u32) -> Vec<u8>;

/// One of HTTP/2 that counts the requests it got, each of them executed.
struct Refusing {
    address: SocketAddr,
    executed: Arc<AtomicUsize>,
}

impl Refusing {
    fn start(host: [u8; 4], says: Says) -> Self {
        let socket = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
        let address = socket.local_addr().expect("a bound socket has an address");
        let executed = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&executed);
        std::thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                let count = Arc::clone(&count);
                std::thread::spawn(move || serve(stream, says, &count));
            }
        });
        Self { address, executed }
    }

    fn executed(&self) -> usize {
        self.executed.load(SeqCst)
    }
}

/// Ends when the peer does.
fn serve(mut stream: TcpStream, says: Says, executed: &AtomicUsize) -> Option<()> {
    stream.read_exact(&mut [0; 24]).ok()?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).ok()?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let [_, high, low, kind, flags, id @ ..] = head;
        let mut payload = vec![0; usize::from(u16::from_be_bytes([high, low]))];
        stream.read_exact(&mut payload).ok()?;
        if kind == SETTINGS && flags == 0 {
            stream.write_all(&frame(SETTINGS, 1, 0, &[])).ok()?;
        }
        if kind == HEADERS {
            executed.fetch_add(1, SeqCst);
            stream.write_all(&says(u32::from_be_bytes(id))).ok()?;
        }
    }
}

/// Two such applications behind two sidecars, and an egress that meets both by hops and ejects none.
fn two(number: u8, says: Says) -> ([Refusing; 2], [Sidecar; 3]) {
    let tasks = [1, 2].map(|task| Refusing::start([127, HOST, number, task], says));
    let ingress = |place: usize, instance| {
        let table = crate::common::hop_table(instance);
        let listener = crate::common::free([127, HOST, number, 11]);
        let origin = tasks[place].address.to_string();
        Sidecar::speaking("http2", listener, &table, &origin, "")
    };
    let (one, two) = (ingress(0, "one"), ingress(1, "two"));
    let endpoints = [(one.listener, "one"), (two.listener, "two")];
    let fields = "lb = \"round_robin\"\noutlier_detection = false";
    let egress = Sidecar::egress([127, HOST, number, 12], "http", &endpoints, fields);
    (tasks, [one, two, egress])
}

fn executed(tasks: &[Refusing; 2]) -> usize {
    tasks.iter().map(Refusing::executed).sum()
}

#[test]
fn an_answer_that_is_reset_behind_its_head_is_neither_undelivered_nor_repeated() {
    let says = |id| {
        let reset = frame(RST_STREAM, 0, id, &REFUSED_STREAM);
        [frame(HEADERS, 4, id, OK), reset].concat()
    };
    let (tasks, [_one, _two, egress]) = two(1, says);
    for sent in 1..=10 {
        let answer = if sent % 2 == 0 {
            post(egress.listener)
        } else {
            let get = "GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
            exchange(egress.listener, get)
        };
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(executed(&tasks), sent, "sent twice");
    }
}

#[test]
fn a_request_that_was_refused_after_an_informational_response_was_delivered() {
    let resets: Says = |id| {
        let reset = frame(RST_STREAM, 0, id, &REFUSED_STREAM);
        [frame(HEADERS, 4, id, EARLY_HINTS), reset].concat()
    };
    let leaves: Says = |id| {
        let goaway = [&[0; 4], &[0; 4][..]].concat();
        let goaway = frame(GOAWAY, 0, 0, &goaway);
        [frame(HEADERS, 4, id, EARLY_HINTS), goaway].concat()
    };
    for (number, says) in [(2, resets), (3, leaves)] {
        let (tasks, [_one, _two, egress]) = two(number, says);
        for sent in 1..=5 {
            let answer = post(egress.listener);
            assert!(answer.contains("HTTP/1.1 502 "), "{number}: {answer}");
            assert_eq!(executed(&tasks), sent, "{number}: sent twice");
        }
    }
}

#[test]
fn what_a_goaway_declares_unprocessed_is_sent_elsewhere_whatever_its_code() {
    let says: Says = |_| frame(GOAWAY, 0, 0, &[&[0; 4], &INTERNAL_ERROR[..]].concat());
    let leaving = Refusing::start([127, HOST, 4, 1], says);
    let right = Refusing::start([127, HOST, 4, 2], |id| frame(HEADERS, 5, id, OK));
    let listener = crate::common::free([127, HOST, 4, 3]);
    let origins = format!("{}\" }}, {{ address = \"{}", leaving.address, right.address);
    let fields = "lb = \"round_robin\"\noutlier_detection = false";
    let sidecar = Sidecar::speaking("http2", listener, "", &origins, fields);
    for sent in 1..=10 {
        let answer = post(sidecar.listener);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(right.executed(), sent);
    }
    assert!(leaving.executed() > 0, "it was never asked");
}

/// Sends a POST on a connection that stays.
fn post_on(client: &mut TcpStream) {
    let post = "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n";
    client.write_all(post.as_bytes()).expect("written");
}

#[test]
fn a_post_is_not_sent_on_a_connection_whose_end_nobody_has_heard() {
    let goaway = frame(GOAWAY, 0, 0, &[[0, 0, 0, 1], [0; 4]].concat());
    for (number, last_words) in [(5, Vec::new()), (6, goaway)] {
        let socket = TcpListener::bind(SocketAddr::from(([127, HOST, number, 1], 0)));
        let socket = socket.expect("loopback can be bound");
        let origin = socket.local_addr().expect("bound").to_string();
        let listener = crate::common::free([127, HOST, number, 2]);
        let sidecar = Sidecar::speaking("http2", listener, "", &origin, "");
        let executed = Arc::<AtomicUsize>::default();
        let (accepted, connections) = channel();
        let count = Arc::clone(&executed);
        std::thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                let (count, own) = (Arc::clone(&count), stream.try_clone().expect("cloned"));
                std::thread::spawn(move || serve(own, |id| frame(HEADERS, 5, id, OK), &count));
                let _ = accepted.send(stream);
            }
        });
        let mut client = sidecar.connect();
        post_on(&mut client);
        let mut first = connections.recv().expect("it connects");
        assert!(head(&client).starts_with("HTTP/1.1 200 "));
        sidecar.freeze();
        post_on(&mut client);
        first.write_all(&last_words).expect("written");
        first.shutdown(Shutdown::Both).expect("it is open");
        sidecar.thaw();
        assert!(head(&client).starts_with("HTTP/1.1 200 "));
        assert_eq!(executed.load(SeqCst), 2);
    }
}
