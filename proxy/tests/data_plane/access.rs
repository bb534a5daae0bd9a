//! Who may call, by real processes: callers without an identity, callers that are not listed, dry runs, and what is shown of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use crate::certificates::{Authority, Leaf, id};
use crate::common::{Sidecar, connect, exchange, free, hop_table, read_all};
use crate::peers::{Http, Message, answers_v1, application, ask};

const HOST: u8 = 76;

/// A static file with one ingress listener before one application.
fn ingress(
    listener: SocketAddr,
    [protocol, inside]: [&str; 2],
    fields: &str,
    origin: SocketAddr,
) -> String {
    format!(
        "[[listener]]\nname = \"in\"\ndirection = \"ingress\"\naddress = \"{listener}\"\nprotocol = \"{protocol}\"\n\
         cluster = \"app\"\n{fields}\n[[cluster]]\nname = \"app\"\nprotocol = \"{inside}\"\n\
         endpoints = [{{ address = \"{origin}\" }}]\n"
    )
}

pub(crate) fn start(
    host: [u8; 4],
    protocols: [&str; 2],
    fields: &str,
    origin: SocketAddr,
) -> Sidecar {
    let listener = free(host);
    let text = ingress(listener, protocols, fields, origin);
    Sidecar::start_on(listener, &text, |_| ())
}

const CART: &str = "authorization = { allow = [{ from = [\"shop/cart\"] }] }";
const DENIED: [&str; 2] = ["verdict=\"denied\"", "reason=\"no_identity\""];

#[test]
fn who_has_no_identity_is_refused_without_a_reason_in_the_words_of_its_protocol() {
    let (origin, seen) = application(Http::V1, [127, HOST, 1, 1], vec![Message::new("200")]);
    let sidecar = start([127, HOST, 1, 2], ["http", "http"], CART, origin);
    for http in [Http::V1, Http::V2] {
        for request in ["GET /a?b", "POST /", "OPTIONS *"] {
            if (http, request) == (Http::V2, "OPTIONS *") {
                continue;
            }
            let answer = ask(http, sidecar.listener, &Message::new(request)).remove(0);
            assert_eq!(answer.start, "403", "{http:?} {request}");
            assert_eq!(
                answer.body,
                "outrigger: in: access denied (RBAC, Downstream)\n"
            );
        }
        let grpc = Message::new("POST /shop.Orders/Get").field("content-type", "application/grpc");
        let answer = ask(http, sidecar.listener, &grpc).remove(0);
        assert_eq!(answer.start, "200", "trailers-only");
        assert_eq!(answer.values("grpc-status"), ["7"]);
        assert_eq!(
            answer.values("grpc-message"),
            ["outrigger: access denied (RBAC, Downstream)"]
        );
    }
    let upgrade =
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n";
    assert!(exchange(sidecar.listener, upgrade).starts_with("HTTP/1.1 403 "));
    let plain_connect = "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n";
    assert!(exchange(sidecar.listener, plain_connect).starts_with("HTTP/1.1 403 "));
    assert!(seen.try_recv().is_err(), "the application hears of none");
    assert_eq!(sidecar.metric("outrigger_authorization_total", &DENIED), 9);
    let errors = ["flag=\"RBAC\"", "kind=\"Unauthorized\""];
    assert_eq!(sidecar.metric("outrigger_errors_total", &errors), 9);
}

#[test]
fn a_connection_that_was_refused_a_request_goes_on() {
    let (origin, _seen) = application(Http::V1, [127, HOST, 2, 1], vec![Message::new("200")]);
    let sidecar = start([127, HOST, 2, 2], ["http", "http"], CART, origin);
    let mut client = sidecar.connect();
    for _ in 0..3 {
        let request = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request).expect("it is open");
        assert_eq!(answers_v1(&client, false)[0].start, "403");
    }
}

#[test]
fn what_is_allowed_changes_under_open_connections() {
    let (origin, _seen) = application(Http::V1, [127, HOST, 14, 1], vec![Message::new("200")]);
    let listener = free([127, HOST, 14, 2]);
    let text = |default: &str| {
        let fields = format!("authorization = {{ default = \"{default}\" }}");
        ingress(listener, ["http", "http"], &fields, origin)
    };
    let sidecar = Sidecar::start_on(listener, &text("allow"), |_| ());
    let mut client = sidecar.connect();
    let runtime = crate::peers::runtime();
    let mut http2 = runtime.block_on(crate::peers::connect_v2(listener));
    for (default, status) in [("allow", "200"), ("deny", "403"), ("allow", "200")] {
        let shown = format!("\"default\":\"{default}\"");
        sidecar.reload(&text(default), |page| page.contains(&shown));
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request).expect("it is open");
        assert_eq!(answers_v1(&client, false)[0].start, status);
        let answer = runtime.block_on(async {
            let request = crate::peers::request(&Message::new("GET /"));
            let (answer, _) = http2.send_request(request, true).expect("it is open");
            answer.await.expect("it is answered")
        });
        assert_eq!(answer.status().as_str(), status);
    }
    assert_eq!(sidecar.metric("NewConnectionCount_total", &[]), 2);
}

#[test]
fn an_opaque_connection_is_closed_before_the_application_hears_of_it() {
    let socket = TcpListener::bind((std::net::Ipv4Addr::new(127, HOST, 3, 1), 0)).expect("free");
    let origin = socket.local_addr().expect("bound");
    let sidecar = start([127, HOST, 3, 2], ["tcp", "tcp"], CART, origin);
    let mut client = sidecar.connect();
    let mut nothing = [0];
    assert_eq!(client.read(&mut nothing).expect("closed, not reset"), 0);
    assert_eq!(sidecar.metric("outrigger_authorization_total", &DENIED), 1);
    socket.set_nonblocking(true).expect("it can be");
    assert!(socket.accept().is_err(), "nobody dialled");
}

#[test]
fn a_dry_run_passes_and_says_what_it_would_refuse() {
    let (origin, seen) = application(Http::V1, [127, HOST, 4, 1], vec![Message::new("200")]);
    let listener = free([127, HOST, 4, 2]);
    let fields =
        "authorization = { dry_run = true, allow = [{ from = [\"*\"], paths = [\"/v1\"] }] }";
    let text = ingress(listener, ["http", "http"], fields, origin);
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let log = dir.path().join("log");
    let file = std::fs::File::create(&log).expect("the folder is ours");
    let sidecar = Sidecar::start_on(listener, &text, |command| {
        command.stderr(Stdio::from(file));
    });
    for _ in 0..50 {
        let answer = ask(
            Http::V1,
            sidecar.listener,
            &Message::new("GET /v1/jo%20doe?key=s3cret"),
        );
        assert_eq!(answer[0].start, "200");
        seen.recv().expect("it came");
    }
    let would = ["verdict=\"would_deny\"", "reason=\"no_identity\""];
    assert_eq!(sidecar.metric("outrigger_authorization_total", &would), 50);
    assert_eq!(
        sidecar.metric("outrigger_authorization_total", &["verdict=\"denied\""]),
        0
    );
    let log = std::fs::read_to_string(log).expect("it is written");
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("not allowed"))
        .collect();
    assert!((10..50).contains(&lines.len()), "{log}");
    for part in [
        "no identity",
        "no_identity",
        "dry_run",
        "/v1/…",
        "GET",
        "\"in\"",
    ] {
        assert!(lines[0].contains(part), "{part} is not in {}", lines[0]);
    }
    assert!(!log.contains("doe") && !log.contains("s3cret"), "{log}");
}

#[test]
fn who_is_let_in_by_default_is_let_in_without_an_identity() {
    let (origin, _seen) = application(Http::V1, [127, HOST, 5, 1], vec![Message::new("200")]);
    let fields = "authorization = { default = \"allow\" }";
    let sidecar = start([127, HOST, 5, 2], ["http", "http"], fields, origin);
    assert_eq!(
        ask(Http::V1, sidecar.listener, &Message::new("GET /"))[0].start,
        "200"
    );
    assert_eq!(
        sidecar.metric("outrigger_authorization_total", &["verdict=\"allowed\""]),
        1
    );
}

#[test]
fn a_hop_is_told_that_a_refusal_is_final() {
    let (origin, _seen) = application(Http::V1, [127, HOST, 13, 1], vec![Message::new("200")]);
    let fields = format!("{}\n{CART}", hop_table("one"));
    let inward = start([127, HOST, 13, 2], ["http", "http"], &fields, origin);
    let tasks = [(inward.listener, "one")];
    let outward = Sidecar::egress([127, HOST, 13, 3], "http", &tasks, "");
    let answer = exchange(
        outward.listener,
        "GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(
        !answer.to_ascii_lowercase().contains("outrigger-verdict"),
        "{answer}"
    );
    assert_eq!(
        inward.metric("outrigger_authorization_total", &DENIED),
        1,
        "it is asked once"
    );

    let mut peer = connect(inward.listener);
    let hello = crate::common::hello("one", crate::common::REQUEST_TOKEN);
    peer.write_all(hello.as_bytes()).expect("written");
    assert!(crate::hop::head(&peer).starts_with("HTTP/1.1 101 "));
    peer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .expect("written");
    let answer = read_all(peer);
    assert!(
        answer.contains("\r\noutrigger-verdict: final RBAC\r\n"),
        "{answer}"
    );
}

/// An egress that is `leaf`, to the orders task at this address.
pub(crate) fn caller(
    host: [u8; 4],
    leaf: &Leaf,
    protocol: &str,
    task: SocketAddr,
    hop: bool,
) -> Sidecar {
    let instance = hop.then_some("one");
    crate::tls::egress(host, protocol, &[(task, instance)], leaf, &id("orders"))
}

#[test]
fn a_compromised_service_calls_nobody_who_does_not_list_it() {
    let ca = Authority::new();
    let (orders, cart, stock) = (
        ca.service("orders"),
        ca.service("cart"),
        ca.service("stock"),
    );
    let (origin, seen) = application(Http::V1, [127, HOST, 20, 1], vec![Message::new("200")]);
    let rules = "authorization = { allow = [{ from = [\"cart\"], methods = [\"GET\"], paths = [\"/v1\"] }] }";
    let fields = format!(
        "{rules}\n{}\n{}",
        hop_table("one"),
        orders.listener("strict")
    );
    let sidecar = start([127, HOST, 20, 2], ["http", "http"], &fields, origin);
    for (number, hop) in [(1, false), (2, true)] {
        let listed = caller(
            [127, HOST, 21, number],
            &cart,
            "http",
            sidecar.listener,
            hop,
        );
        let other = caller(
            [127, HOST, 22, number],
            &stock,
            "http",
            sidecar.listener,
            hop,
        );
        for client in [Http::V1, Http::V2] {
            for (from, start, status) in [
                (&listed, "GET /v1/a", "200"),
                (&listed, "POST /v1/a", "403"),
                (&listed, "GET /v2", "403"),
                (&listed, "GET /v1/../v2", "403"),
                (&other, "GET /v1/a", "403"),
            ] {
                let answer = ask(client, from.listener, &Message::new(start)).remove(0);
                assert_eq!(answer.start, status, "{client:?} {start}, by a hop: {hop}");
                let reached = seen.try_recv().is_ok();
                assert_eq!(reached, status == "200", "{client:?} {start}");
            }
        }
    }
    let count = |verdict: &str, reason: &str| {
        let labels = [
            format!("verdict=\"{verdict}\""),
            format!("reason=\"{reason}\""),
        ];
        let labels = labels.each_ref().map(String::as_str);
        sidecar.metric("outrigger_authorization_total", &labels)
    };
    assert_eq!((count("allowed", ""), count("denied", "no_rule")), (4, 16));
}

#[test]
fn an_opaque_connection_is_for_those_who_are_listed() {
    let ca = Authority::new();
    let (orders, cart, stock) = (
        ca.service("orders"),
        ca.service("cart"),
        ca.service("stock"),
    );
    let socket = TcpListener::bind((std::net::Ipv4Addr::new(127, HOST, 23, 1), 0)).expect("free");
    let origin = socket.local_addr().expect("bound");
    let fields = format!("{CART}\n{}", orders.listener("strict"));
    let sidecar = start([127, HOST, 23, 2], ["tcp", "tcp"], &fields, origin);
    let other = caller([127, HOST, 23, 3], &stock, "tcp", sidecar.listener, false);
    let mut client = other.connect();
    let mut word = [0; 2];
    assert_eq!(client.read(&mut word).expect("closed, not reset"), 0);
    let listed = caller([127, HOST, 23, 4], &cart, "tcp", sidecar.listener, false);
    let mut client = listed.connect();
    // The first that the application hears of.
    let (mut task, _) = socket.accept().expect("it is dialled");
    task.write_all(b"hi").expect("it is open");
    client.read_exact(&mut word).expect("it passes");
    assert_eq!(&word, b"hi");
    let denied = ["verdict=\"denied\"", "reason=\"no_rule\""];
    assert_eq!(sidecar.metric("outrigger_authorization_total", &denied), 1);
}

#[test]
fn a_plaintext_connection_gets_no_request_through_once_the_mode_is_strict() {
    let ca = Authority::new();
    let orders = ca.service("orders");
    let (origin, _seen) = application(Http::V1, [127, HOST, 28, 1], vec![Message::new("200")]);
    let listener = free([127, HOST, 28, 2]);
    let text = |mode| ingress(listener, ["http", "http"], &orders.listener(mode), origin);
    let sidecar = Sidecar::start_on(listener, &text("permissive"), |_| ());
    let mut client = sidecar.connect();
    for (mode, status) in [("permissive", "200"), ("strict", "403")] {
        let shown = format!("\"mode\":\"{mode}\"");
        sidecar.reload(&text(mode), |page| page.contains(&shown));
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request).expect("it is open");
        assert_eq!(answers_v1(&client, false)[0].start, status);
    }
}

#[test]
fn modes_identities_and_who_may_call_are_shown() {
    let ca = Authority::new();
    let orders = ca.service("orders");
    let (origin, _seen) = application(Http::V1, [127, HOST, 29, 1], vec![Message::new("200")]);
    for (number, mode, accepts) in [
        (2, "strict", "[\"tls\"]"),
        (3, "permissive", "[\"tls\",\"plaintext\"]"),
        (4, "disable", "[\"plaintext\"]"),
    ] {
        let fields = format!("{CART}\n{}", orders.listener(mode));
        let sidecar = start([127, HOST, 29, number], ["http", "http"], &fields, origin);
        let page = sidecar.page("/config");
        for part in [
            format!("\"accepts\":{accepts}"),
            format!("\"mode\":\"{mode}\""),
            format!("\"identity\":\"{}\"", id("orders")),
            "\"authorization\":{\"allow\":[{\"from\":[\"shop/cart\"]}],\"default\":\"deny\",\"dry_run\":false}".to_owned(),
        ] {
            assert!(page.contains(&part), "{part} is not in {page}");
        }
        let label = format!("mode=\"{mode}\"");
        assert_eq!(
            sidecar.metric("outrigger_listener_tls_mode", &["listener=\"in\"", &label]),
            1
        );
        let label = format!("identity=\"{}\"", id("orders"));
        let end = sidecar.metric("outrigger_certificate_expiry_seconds", &[&label]);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let left = end - now.expect("it is after 1970").as_secs();
        assert!((3000..=3600).contains(&left), "{left}");
        assert!(!page.contains("PRIVATE") && !sidecar.page("/metrics").contains("PRIVATE"));
    }
}
