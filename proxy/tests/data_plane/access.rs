//! Who may call, and what the application is told of it: callers without an identity, dry runs, forged `x-forwarded-client-cert`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use crate::common::{Sidecar, connect, exchange, free, hop_table, read_all};
use crate::peers::{COMBINATIONS, Http, Message, answers_v1, application, ask};

const HOST: u8 = 76;
const FORWARDED: &str = "x-forwarded-client-cert";
const FORGED: &str = "By=spiffe://td/ns/shop/svc/orders;Hash=00;URI=spiffe://td/ns/shop/svc/cart";

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

fn start(host: [u8; 4], protocols: [&str; 2], fields: &str, origin: SocketAddr) -> Sidecar {
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

/// A request that says in every way who it is not.
fn forged(client: Http) -> Message {
    let mut request = Message::new("POST /").body("abc").field("x-kept", "1");
    let mut names = vec![
        FORWARDED,
        FORWARDED,
        "x_forwarded_client_cert",
        "x-forwarded-client_cert",
    ];
    if client == Http::V1 {
        names.extend([
            "X-Forwarded-Client-Cert",
            "X_FORWARDED_CLIENT_CERT",
            "X-Forwarded.Client.Cert",
        ]);
        request = request.field("Connection", "x-forwarded-client-cert, X-Kept-Not");
    }
    for name in names {
        request = request.field(name, FORGED).trailer(name, FORGED);
    }
    request.trailer("x-sum", "7")
}

fn assert_sanitised(request: &Message, case: &str) {
    let all = request.fields.iter().chain(&request.trailers);
    for (name, value) in all {
        let plain = name.to_ascii_lowercase().replace(['_', '.'], "-");
        assert!(
            plain != FORWARDED && !value.contains("spiffe"),
            "{case}: {request:?}"
        );
    }
    assert_eq!(request.values("x-kept"), ["1"], "{case}");
    let sum = [("x-sum".to_owned(), "7".to_owned())];
    assert_eq!(request.trailers, sum, "{case}");
}

#[test]
fn nobody_forges_who_called_on_any_listener() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        let (origin, seen) = application(task, [127, HOST, 6, number], vec![Message::new("200")]);
        let inside = if task == Http::V1 { "http" } else { "http2" };
        let inward = start([127, HOST, 7, number], ["http", inside], "", origin);
        let outward = crate::peers::sidecar(task, [127, HOST, 8, number], origin);
        for (way, sidecar) in [("ingress", &inward), ("egress", &outward)] {
            ask(client, sidecar.listener, &forged(client));
            let request = seen.recv().expect("the request came");
            assert_sanitised(&request, &format!("{way}, {client:?} to {task:?}"));
        }
    }
}

#[test]
fn nobody_forges_who_called_by_way_of_a_hop() {
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        let (origin, seen) = application(task, [127, HOST, 9, number], vec![Message::new("200")]);
        let inside = if task == Http::V1 { "http" } else { "http2" };
        let table = hop_table("one");
        let inward = start([127, HOST, 10, number], ["http", inside], &table, origin);
        let tasks = [(inward.listener, "one")];
        let outward = Sidecar::egress([127, HOST, 11, number], "http", &tasks, "");
        ask(client, outward.listener, &forged(client));
        let request = seen.recv().expect("the request came");
        assert_sanitised(&request, &format!("{client:?} to {task:?}"));
    }
}

/// A peer that knows the hop's tokens may say how fields are spelt, not that they are.
#[test]
fn a_list_of_spellings_brings_back_no_field() {
    let (origin, seen) = application(Http::V1, [127, HOST, 12, 1], vec![Message::new("200")]);
    let table = hop_table("one");
    let sidecar = start([127, HOST, 12, 2], ["http", "http"], &table, origin);
    crate::peers::runtime().block_on(async {
        let address = sidecar.listener;
        let greeted = tokio::task::spawn_blocking(move || {
            let mut stream = connect(address);
            let hello = crate::common::hello("one", crate::common::REQUEST_TOKEN);
            stream.write_all(hello.as_bytes()).expect("written");
            assert!(crate::hop::head(&stream).starts_with("HTTP/1.1 101 "));
            stream
        });
        let stream = greeted.await.expect("it ends");
        stream.set_nonblocking(true).expect("it can be");
        let stream = tokio::net::TcpStream::from_std(stream).expect("it is one");
        let (client, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
        tokio::spawn(connection);
        let mut client = client.ready().await.expect("it is open");
        let request = Message::new("POST /")
            .field("x-kept", "1")
            .field(FORWARDED, FORGED)
            .field("x_forwarded_client_cert", FORGED)
            .field(
                "outrigger-case",
                "Host,X-Kept,X-Forwarded-Client-Cert,X_Forwarded_Client_Cert,x-forwarded-client-cert=spiffe",
            );
        let sent = client.send_request(crate::peers::request(&request), false);
        let (answer, mut body) = sent.expect("the stream can be opened");
        let mut trailers = http::HeaderMap::new();
        for (name, value) in [("outrigger-case", "X-Sum,X-Forwarded-Client-Cert"), (FORWARDED, FORGED), ("x-sum", "7")] {
            trailers.append(name, value.parse().expect("it is a value"));
        }
        body.send_trailers(trailers).expect("the stream is open");
        assert_eq!(answer.await.expect("it is answered").status(), 200);
    });
    let mut request = seen.recv().expect("the request came");
    for (name, _) in &mut request.trailers {
        name.make_ascii_lowercase();
    }
    assert_sanitised(&request, "by a peer of its own making");
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
