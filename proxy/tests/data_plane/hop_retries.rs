//! What the far sidecar says of a request that failed decides whether it is sent again: nothing is lost, and nothing sent twice.

use std::io::Write;
use std::net::SocketAddr;

use crate::common::{
    PATIENCE, REQUEST_TOKEN, Sidecar, VERDICT_TOKEN, connect, exchange, free, hello, proof,
    read_all,
};
use crate::hop::{Does, OK, Task, head, post};

const HOST: u8 = 70;

/// Two tasks behind an egress that ejects none: of one the application is at `first`.
fn two(number: u8, first: SocketAddr, second: &Task) -> [Sidecar; 3] {
    let one = Sidecar::ingress([127, HOST, number, 11], "one", first);
    let two = Sidecar::ingress([127, HOST, number, 12], "two", second.address);
    let tasks = [(one.listener, "one"), (two.listener, "two")];
    let fields = "lb = \"round_robin\"\noutlier_detection = false";
    let egress = Sidecar::egress([127, HOST, number, 13], "http", &tasks, fields);
    [one, two, egress]
}

#[test]
fn a_post_that_no_application_saw_is_delivered_by_another_task_once() {
    let nobody = free([127, HOST, 1, 1]);
    let right = Task::start([127, HOST, 1, 2], Does::Answer(OK));
    let [one, _two, egress] = two(1, nobody, &right);
    for sent in 1..=20 {
        let answer = post(egress.listener);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(right.heads().len(), sent);
    }
    let refused = one.metric("outrigger_errors_total", &["flag=\"UF\""]);
    assert!(refused >= 5, "the other one was asked {refused} times");
}

#[test]
fn a_post_that_an_application_read_is_not_sent_again_and_a_get_is() {
    let resetting = Task::start([127, HOST, 2, 1], Does::Reset);
    let right = Task::start([127, HOST, 2, 2], Does::Answer(OK));
    let [_one, _two, egress] = two(2, resetting.address, &right);
    let mut good = 0;
    for sent in 1..=20 {
        let answer = post(egress.listener);
        good += usize::from(answer.starts_with("HTTP/1.1 200 "));
        if !answer.starts_with("HTTP/1.1 200 ") {
            // As the far sidecar says it.
            assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
            assert!(answer.contains("(UC, Upstream)"), "{answer}");
            assert!(!answer.contains("outrigger-"), "{answer}");
        }
        assert_eq!(
            resetting.heads().len() + right.heads().len(),
            sent,
            "sent twice"
        );
    }
    assert!(good < 20 && good == right.heads().len(), "{good}");
    for _ in 0..10 {
        let get = "GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
        let answer = exchange(egress.listener, get);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

/// A hop of HTTP/1.1, as an egress makes one.
fn by_hop(ingress: &Sidecar, request: &str) -> String {
    let mut stream = connect(ingress.listener);
    stream
        .write_all(hello("one", REQUEST_TOKEN).as_bytes())
        .expect("written");
    assert_eq!(head(&stream), proof(VERDICT_TOKEN));
    stream.write_all(request.as_bytes()).expect("written");
    read_all(stream)
}

#[test]
fn an_ingress_says_how_far_a_request_came_and_repeats_none_that_came_by_a_hop() {
    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let nobody = free([127, HOST, 3, 1]);
    let resetting = Task::start([127, HOST, 3, 2], Does::Reset);
    let garbage = Task::start([127, HOST, 3, 3], Does::Answer("nonsense\r\n\r\n"));
    let busy = Task::start(
        [127, HOST, 3, 4],
        Does::Answer("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"),
    );
    for (address, verdict, status) in [
        (nobody, Some("undelivered UF"), "503"),
        (resetting.address, Some("unknown UC"), "502"),
        (garbage.address, Some("unknown UPE"), "502"),
        (busy.address, None, "503"),
    ] {
        let ingress = Sidecar::ingress([127, HOST, 3, 5], "one", address);
        let answer = by_hop(&ingress, GET);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        match verdict {
            Some(verdict) => {
                let line = format!("\r\noutrigger-verdict: {verdict}\r\n");
                assert!(answer.contains(&line), "{answer}");
            }
            None => assert!(!answer.contains("outrigger"), "{answer}"),
        }
        // Nobody else is told.
        let answer = exchange(ingress.listener, GET);
        assert!(!answer.contains("outrigger-verdict"), "{answer}");
    }
    // Once by the hop; the static file's two retries are for the other client.
    assert_eq!(resetting.heads().len(), 1 + 3);
}

#[test]
fn an_ingress_waits_no_longer_than_the_egress_does() {
    let mute = Task::start([127, HOST, 4, 1], Does::Nothing);
    let ingress = Sidecar::ingress([127, HOST, 4, 2], "one", mute.address);
    for told in ["1 50", "2 50 head"] {
        let begun = std::time::Instant::now();
        let get = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\noutrigger-try: {told}\r\n\r\n"
        );
        let answer = by_hop(&ingress, &get);
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        assert!(
            answer.contains("outrigger-verdict: final UT\r\n"),
            "{answer}"
        );
        assert!(begun.elapsed() < PATIENCE / 2, "its own 15 s have passed");
    }
    assert_eq!(mute.heads()[0], "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn each_attempt_says_which_it_is_and_what_is_left() {
    // The egress meets a task that answers 503 by hops of HTTP/1.1: its target is one that HTTP/2 does not carry.
    let socket = std::net::TcpListener::bind((std::net::Ipv4Addr::new(127, HOST, 5, 1), 0));
    let socket = socket.expect("loopback can be bound");
    let address = socket.local_addr().expect("bound");
    let tasks = [(address, "one")];
    let fields = "per_request_timeout = \"60s\"\noutlier_detection = false";
    let egress = Sidecar::egress([127, HOST, 5, 2], "http", &tasks, fields);
    let mut client = egress.connect();
    client
        .write_all(b"GET /{a} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .expect("written");
    for attempt in 1..=3 {
        // What an attempt leaves unread is closed.
        let (mut peer, _) = socket.accept().expect("it connects");
        peer.set_read_timeout(Some(PATIENCE))
            .expect("it can be set");
        assert_eq!(head(&peer), hello("one", REQUEST_TOKEN));
        peer.write_all(proof(VERDICT_TOKEN).as_bytes())
            .expect("written");
        let head = head(&peer);
        let told = head
            .lines()
            .find_map(|line| line.strip_prefix("outrigger-try: "));
        let told = told.expect("it is told");
        let (number, left) = told.split_once(' ').expect("two words");
        assert_eq!(number, attempt.to_string(), "{head}");
        assert!(
            (30_000..=60_000).contains(&left.parse().expect("a number")),
            "{told}"
        );
        let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
        peer.write_all(busy.as_bytes()).expect("written");
    }
    let answer = read_all(client);
    assert!(answer.starts_with("HTTP/1.1 503 Busy\r\n"), "{answer}");
    assert!(!answer.contains("outrigger"), "{answer}");
}

#[test]
fn what_an_ingress_refuses_by_itself_is_final() {
    let task = Task::start([127, HOST, 6, 1], Does::Answer(OK));
    let ingress = Sidecar::ingress([127, HOST, 6, 2], "one", task.address);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(60_000));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
        (&long, "414"),
    ] {
        let answer = by_hop(&ingress, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(
            answer.contains("\r\noutrigger-verdict: final DPE\r\n"),
            "{answer}"
        );
        let answer = exchange(ingress.listener, request);
        assert!(!answer.contains("outrigger-verdict"), "{answer}");
    }
    assert!(task.heads().is_empty());
}

#[test]
fn a_task_that_is_full_is_passed_over_and_not_blamed() {
    let full = Task::start([127, HOST, 7, 1], Does::Answer(OK));
    let right = Task::start([127, HOST, 7, 2], Does::Answer(OK));
    let fields = format!("max_connections = 1\n{}", crate::common::hop_table("one"));
    let one = free([127, HOST, 7, 11]);
    let one = Sidecar::start(one, &fields, &full.address.to_string(), "");
    let two = Sidecar::ingress([127, HOST, 7, 12], "two", right.address);
    let mut only = connect(one.listener);
    only.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("written");
    assert!(head(&only).starts_with("HTTP/1.1 200 "));
    let tasks = [(one.listener, "one"), (two.listener, "two")];
    let egress = Sidecar::egress([127, HOST, 7, 13], "http", &tasks, "lb = \"round_robin\"");
    for sent in 1..=20 {
        let answer = post(egress.listener);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(right.heads().len(), sent);
    }
    let page = egress.page("/clusters").replace(' ', "");
    assert!(
        page.contains("\"ejected\":false") && !page.contains("\"ejected\":true"),
        "{page}"
    );
    assert!(one.metric("outrigger_errors_total", &["flag=\"UO\""]) >= 5);
}
