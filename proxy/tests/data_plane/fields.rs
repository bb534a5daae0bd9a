//! A message that passes has not a field more or less than the README says, whatever the two sides speak.

use std::io::{BufReader, Write};

use crate::common::{PATIENCE, connect};
use crate::peers::{
    COMBINATIONS, Http, Message, application, ask, connect_v2, drain, read_v1, request, runtime,
    sidecar,
};

const HOST: u8 = 70;

/// Fields that a message may have on its way, beside those that every message has here.
type Framing = &'static [(&'static str, &'static str)];

const NONE: Framing = &[];
const LENGTH: Framing = &[("content-length", "2")];
const ZERO: Framing = &[("content-length", "0")];
const CHUNKED: Framing = &[("transfer-encoding", "chunked")];

fn with(start: &str, framing: Framing, body: &str) -> Message {
    let mut message = Message::new(start).field("x-b", "1").field("accept", "a");
    message = message.field("x-b", "2").body(body);
    for (name, value) in framing {
        message = message.field(name, value);
    }
    message
}

/// What is left when the fields that every message has here are taken out.
fn added(message: &Message) -> Vec<(String, String)> {
    let sorted = message.sorted();
    let (own, mut others): (Vec<_>, Vec<_>) = sorted
        .into_iter()
        .partition(|(name, _)| ["x-b", "accept"].contains(name));
    assert_eq!(own, [("accept", "a"), ("x-b", "1"), ("x-b", "2")]);
    others.retain(|(name, value)| (*name, *value) != ("host", "app"));
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    others.into_iter().map(owned).collect()
}

fn is(framing: Framing) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    framing.iter().map(owned).collect()
}

#[test]
fn a_request_has_only_the_framing_that_its_version_needs() {
    use Http::{V1, V2};
    let requests: [(Http, Http, &str, Framing, &str, Framing); 14] = [
        (V1, V1, "GET /", NONE, "", NONE),
        (V1, V1, "POST /", NONE, "", NONE),
        (V1, V1, "POST /", LENGTH, "hi", LENGTH),
        (V1, V1, "POST /", CHUNKED, "hi", CHUNKED),
        (V1, V2, "POST /", NONE, "", NONE),
        (V1, V2, "POST /", ZERO, "", ZERO),
        (V1, V2, "POST /", LENGTH, "hi", LENGTH),
        (V1, V2, "POST /", CHUNKED, "hi", NONE),
        (V2, V1, "GET /", NONE, "", NONE),
        (V2, V1, "POST /", NONE, "", ZERO),
        (V2, V1, "POST /", LENGTH, "hi", LENGTH),
        (V2, V1, "POST /", NONE, "hi", CHUNKED),
        (V2, V2, "POST /", NONE, "", NONE),
        (V2, V2, "POST /", LENGTH, "hi", LENGTH),
    ];
    for (client, task) in COMBINATIONS {
        let number = if client == V1 { 1 } else { 2 };
        let host = if task == V1 { 1 } else { 2 };
        let (origin, seen) =
            application(task, [127, HOST, host, number], vec![Message::new("200")]);
        let sidecar = sidecar(task, [127, HOST, 2 + host, number], origin);
        let those = requests
            .iter()
            .filter(|one| (one.0, one.1) == (client, task));
        for (_, _, start, framing, body, kept) in those {
            ask(client, sidecar.listener, &with(start, framing, body));
            let got = seen.recv_timeout(PATIENCE).expect("the request came");
            let told = format!("{client:?} to {task:?}: {start} {framing:?} {body:?}");
            assert_eq!(added(&got), is(kept), "{told}");
            assert_eq!(
                (got.start.as_str(), got.body.as_str()),
                (*start, *body),
                "{told}"
            );
            assert_eq!(got.values("host"), ["app"], "{told}");
        }
    }
}

#[test]
fn an_answer_has_only_the_framing_that_its_version_needs() {
    use Http::{V1, V2};
    let answers: [(Http, Http, &str, Framing, &str, Framing); 15] = [
        (V1, V1, "200", ZERO, "", ZERO),
        (V1, V1, "200", LENGTH, "hi", LENGTH),
        (V1, V1, "200", CHUNKED, "hi", CHUNKED),
        (V1, V1, "204", NONE, "", NONE),
        (V1, V2, "200", ZERO, "", ZERO),
        (V1, V2, "200", LENGTH, "hi", LENGTH),
        (V1, V2, "200", CHUNKED, "hi", NONE),
        (V1, V2, "204", NONE, "", NONE),
        (V2, V1, "200", NONE, "", ZERO),
        (V2, V1, "200", LENGTH, "hi", LENGTH),
        (V2, V1, "200", NONE, "hi", CHUNKED),
        (V2, V1, "304", NONE, "", NONE),
        (V2, V2, "200", NONE, "", NONE),
        (V2, V2, "200", NONE, "hi", NONE),
        (V2, V2, "200", LENGTH, "hi", LENGTH),
    ];
    for (number, (task, client, start, framing, body, kept)) in (1..).zip(answers) {
        let answer = with(start, framing, body);
        let (origin, _seen) = application(task, [127, HOST, 5, number], vec![answer]);
        let sidecar = sidecar(task, [127, HOST, 6, number], origin);
        let got = ask(client, sidecar.listener, &Message::new("GET /"));
        let told = format!("{task:?} to {client:?}: {start} {framing:?} {body:?}");
        assert_eq!(added(&got[0]), is(kept), "{told}");
        assert_eq!(got[0].body, body, "{told}");
    }
}

#[test]
fn a_connection_that_ends_after_the_answer_says_so_and_no_other_does() {
    let answers = vec![Message::new("200").field("x", "1")];
    for (number, task) in (1..).zip([Http::V1, Http::V2]) {
        let host = [127, HOST, 7, number];
        let (origin, _seen) = application(task, host, answers.clone());
        let sidecar = sidecar(task, [127, HOST, 8, number], origin);
        let mut stream = connect(sidecar.listener);
        let mut reader = BufReader::new(stream.try_clone().expect("it can be cloned"));
        for (asks, says) in [("", ""), ("connection: close\r\n", "close")] {
            let request = format!("GET / HTTP/1.1\r\nhost: app\r\n{asks}\r\n");
            stream.write_all(request.as_bytes()).expect("it is written");
            let got = read_v1(&mut reader, false).expect("there is an answer");
            assert_eq!(got.values("connection").concat(), says, "{got:?}");
            assert_eq!(got.fields.len(), 2 + usize::from(!says.is_empty()));
        }
        assert!(read_v1(&mut reader, false).is_none(), "it is open");
    }
}

#[test]
fn cookies_are_one_field_by_http_1_1_and_stay_crumbs_by_http_2() {
    for (number, task) in (1..).zip([Http::V1, Http::V2]) {
        let host = [127, HOST, 9, number];
        let (origin, seen) = application(task, host, vec![Message::new("200")]);
        let sidecar = sidecar(task, [127, HOST, 10, number], origin);
        let asked = Message::new("GET /").field("cookie", "a=1");
        let asked = asked.field("cookie", "b=2").field("cookie", "c=3");
        ask(Http::V2, sidecar.listener, &asked);
        let got = seen.recv_timeout(PATIENCE).expect("the request came");
        match task {
            Http::V1 => assert_eq!(got.values("cookie"), ["a=1; b=2; c=3"]),
            Http::V2 => assert_eq!(got.values("cookie"), ["a=1", "b=2", "c=3"]),
        }
    }
}

#[test]
fn any_scheme_is_taken_by_http_2_and_none_is_told_to_http_1_1() {
    let (origin, seen) = application(Http::V1, [127, HOST, 11, 1], vec![Message::new("200")]);
    let sidecar = sidecar(Http::V1, [127, HOST, 11, 2], origin);
    for scheme in ["http", "https"] {
        runtime().block_on(async {
            let mut client = connect_v2(sidecar.listener).await;
            let mut head = request(&Message::new("GET /a?b"));
            let uri = format!("{scheme}://app:8443/a?b");
            *head.uri_mut() = uri.parse().expect("it is valid");
            let (answer, _) = client.send_request(head, true).expect("it is open");
            let answer = answer.await.expect("there is an answer");
            drain(answer.into_body()).await;
        });
        let got = seen.recv_timeout(PATIENCE).expect("the request came");
        assert_eq!(got.start, "GET /a?b");
        assert_eq!(got.sorted(), [("host", "app:8443")]);
    }
}

#[test]
fn options_for_the_whole_server_pass_on_every_combination() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        let (origin, seen) = application(task, [127, HOST, 12, number], vec![Message::new("200")]);
        let sidecar = sidecar(task, [127, HOST, 13, number], origin);
        let got = match client {
            Http::V1 => ask(client, sidecar.listener, &Message::new("OPTIONS *")),
            Http::V2 => runtime().block_on(async {
                let mut client = connect_v2(sidecar.listener).await;
                let mut head = request(&Message::new("OPTIONS /"));
                let uri = http::Uri::builder().scheme("http").authority("app");
                *head.uri_mut() = uri.path_and_query("*").build().expect("it is valid");
                let (answer, _) = client.send_request(head, true).expect("it is open");
                let answer = answer.await.expect("there is an answer");
                vec![Message::new(answer.status().as_str())]
            }),
        };
        assert_eq!(got[0].start, "200", "{client:?} to {task:?}");
        let got = seen.recv_timeout(PATIENCE).expect("the request came");
        assert_eq!(got.start, "OPTIONS *", "{client:?} to {task:?}");
    }
}

#[test]
fn an_empty_host_stays_empty() {
    for (number, task) in (1..).zip([Http::V1, Http::V2]) {
        let host = [127, HOST, 14, number];
        let (origin, seen) = application(task, host, vec![Message::new("200")]);
        let sidecar = sidecar(task, [127, HOST, 15, number], origin);
        let mut stream = connect(sidecar.listener);
        let request = "GET /a HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it is written");
        let got = read_v1(&mut BufReader::new(stream), false);
        assert_eq!(got.expect("there is an answer").start, "200");
        let got = seen.recv_timeout(PATIENCE).expect("the request came");
        assert_eq!(got.sorted(), [("host", "")], "{task:?}");
    }
}
