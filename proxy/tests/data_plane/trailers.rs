//! Trailers pass both ways, announced or not, whatever the two sides speak (RFC 9110 section 6.5).

use crate::peers::{COMBINATIONS, Http, Message, application, ask, sidecar};

const HOST: u8 = 65;

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn trailers_that_nobody_announced_pass_both_ways_on_every_combination() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        let answer = Message::new("200").body("hi").trailer("x-sum", "7");
        let answer = answer.trailer("x-sum", "8").trailer("x-empty", "");
        let (origin, seen) = application(task, [127, HOST, 1, number], vec![answer.clone()]);
        let sidecar = sidecar(task, [127, HOST, 2, number], origin);
        let asked = Message::new("POST /").body("abc").trailer("x-check", "1");
        let got = ask(client, sidecar.listener, &asked);
        assert_eq!(got[0].body, "hi", "{client:?} to {task:?}");
        assert_eq!(got[0].trailers, answer.trailers, "{client:?} to {task:?}");
        let request = seen.recv().expect("the request came");
        assert_eq!(request.body, "abc", "{client:?} to {task:?}");
        assert_eq!(request.trailers, asked.trailers, "{client:?} to {task:?}");
    }
}

#[test]
fn announced_trailers_outlive_a_content_length_that_http_1_1_could_not_keep_beside_them() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        if client == task {
            continue;
        }
        let say = |start, http| {
            let message = Message::new(start).field("trailer", "x-sum");
            let message = message.body("abc").trailer("x-sum", "7");
            // HTTP/1.1 cannot say it so.
            match http {
                Http::V1 => message,
                Http::V2 => message.field("content-length", "3"),
            }
        };
        let answer = say("200", task);
        let (origin, seen) = application(task, [127, HOST, 3, number], vec![answer]);
        let sidecar = sidecar(task, [127, HOST, 4, number], origin);
        let got = ask(client, sidecar.listener, &say("POST /", client));
        let request = seen.recv().expect("the request came");
        for message in [&got[0], &request] {
            assert_eq!(message.body, "abc", "{client:?} to {task:?}");
            assert_eq!(message.values("trailer"), ["x-sum"]);
            assert_eq!(message.trailers, [pair("x-sum", "7")], "{message:?}");
        }
        let chunked = if client == Http::V1 {
            &got[0]
        } else {
            &request
        };
        assert_eq!(chunked.values("transfer-encoding"), ["chunked"]);
        assert!(chunked.values("content-length").is_empty(), "{chunked:?}");
    }
}

#[test]
fn a_content_length_without_announced_trailers_stays_on_every_combination() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        let say = |start| Message::new(start).field("content-length", "3").body("abc");
        let (origin, seen) = application(task, [127, HOST, 5, number], vec![say("200")]);
        let sidecar = sidecar(task, [127, HOST, 6, number], origin);
        let got = ask(client, sidecar.listener, &say("POST /"));
        let request = seen.recv().expect("the request came");
        for message in [&got[0], &request] {
            assert_eq!(message.body, "abc", "{client:?} to {task:?}");
            assert_eq!(message.values("content-length"), ["3"]);
            assert!(message.values("transfer-encoding").is_empty());
        }
    }
}

#[test]
fn grpc_status_comes_in_trailers_and_in_trailers_only_answers() {
    let (client, task) = (Http::V2, Http::V2);
    let head = || Message::new("200").field("content-type", "application/grpc");
    let only = head()
        .field("grpc-status", "5")
        .field("grpc-message", "no%20such%20order");
    let usual = head().body("\0\0\0\0\0").trailer("grpc-status", "0");
    for (number, answer) in (1..).zip([only, usual]) {
        let (origin, seen) = application(task, [127, HOST, 7, number], vec![answer.clone()]);
        let sidecar = sidecar(task, [127, HOST, 8, number], origin);
        let asked = Message::new("POST /orders.Orders/Get")
            .field("content-type", "application/grpc")
            .field("te", "trailers")
            .body("\0\0\0\0\0");
        assert_eq!(ask(client, sidecar.listener, &asked), [answer]);
        let request = seen.recv().expect("the request came");
        assert_eq!(
            request.sorted(),
            [
                ("content-type", "application/grpc"),
                ("host", "app"),
                ("te", "trailers")
            ]
        );
    }
}

#[test]
fn trailers_have_nothing_that_says_how_a_message_travels_or_is_for_one_hop() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        let say = |start, http| {
            let message = Message::new(start).body("abc");
            let message = match http {
                Http::V1 => message.field("connection", "x-secret"),
                Http::V2 => message,
            };
            let message = message.trailer("x-sum", "7").trailer("content-length", "9");
            match http {
                Http::V1 => message.trailer("x-secret", "1").trailer("host", "other"),
                Http::V2 => message.trailer("trailer", "x").trailer("host", "other"),
            }
        };
        let (origin, seen) = application(task, [127, HOST, 9, number], vec![say("200", task)]);
        let sidecar = sidecar(task, [127, HOST, 10, number], origin);
        let got = ask(client, sidecar.listener, &say("POST /", client));
        let request = seen.recv().expect("the request came");
        for message in [&got[0], &request] {
            let kept = [pair("x-sum", "7")];
            assert_eq!(message.trailers, kept, "{client:?} to {task:?}");
        }
    }
}

#[test]
fn a_hop_of_http_2_between_two_of_http_1_1_loses_neither_hints_nor_trailers() {
    let hints = Message::new("103").field("link", "</a>");
    let answer = Message::new("200").body("hi").trailer("x-sum", "7");
    let answers = vec![hints.clone(), answer];
    let (origin, seen) = application(Http::V1, [127, HOST, 11, 1], answers);
    let ingress = sidecar(Http::V1, [127, HOST, 11, 2], origin);
    let egress = sidecar(Http::V2, [127, HOST, 11, 3], ingress.listener);
    let asked = Message::new("POST /").body("abc").trailer("x-check", "1");
    let got = ask(Http::V1, egress.listener, &asked);
    assert_eq!(got[0], hints);
    assert_eq!(got[1].trailers, [pair("x-sum", "7")]);
    let request = seen.recv().expect("the request came");
    assert_eq!(request.trailers, [pair("x-check", "1")]);
    assert_eq!(
        request.sorted(),
        [("host", "app"), ("transfer-encoding", "chunked")]
    );
}
