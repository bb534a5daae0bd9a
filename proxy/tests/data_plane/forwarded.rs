//! Who called, as the application hears it: `x-forwarded-client-cert` from the handshake, and never from anybody's words.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use outrigger_xds::tls::{Connector, Credentials, Identity, Peer, Roots, alpn};
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use crate::access::{caller, start};
use crate::certificates::{Authority, Leaf, id};
use crate::common::{Sidecar, connect, hop_table};
use crate::peers::{COMBINATIONS, Http, Message, application, ask, read_v1};

const HOST: u8 = 78;
const FORWARDED: &str = "x-forwarded-client-cert";
const FORGED: &str = "By=spiffe://td/ns/shop/svc/orders;Hash=00;URI=spiffe://td/ns/shop/svc/cart";

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
        let outward = crate::peers::sidecar(task, [127, HOST, 18, number], origin);
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

/// What `openssl x509 -fingerprint -sha256` says of a leaf, in lower case and without colons.
fn fingerprint(leaf: &Leaf) -> String {
    let pem = std::fs::read(&leaf.cert).expect("it was written");
    let der = rustls_pki_types::CertificateDer::from_pem_slice(&pem).expect("it is PEM");
    let digest = Sha256::digest(&der);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_application_hears_who_called_and_nothing_that_the_caller_says_of_it() {
    let ca = Authority::new();
    let (orders, cart) = (ca.service("orders"), ca.service("cart"));
    let truth = format!(
        "By={};Hash={};URI={}",
        id("orders"),
        fingerprint(&cart),
        id("cart")
    );
    for (number, (client, task)) in (1..).zip(COMBINATIONS) {
        let (origin, seen) = application(task, [127, HOST, 24, number], vec![Message::new("200")]);
        let inside = if task == Http::V1 { "http" } else { "http2" };
        let fields = format!("{}\n{}", hop_table("one"), orders.listener("permissive"));
        let sidecar = start([127, HOST, 25, number], ["http", inside], &fields, origin);
        for (way, hop) in [(26, false), (27, true)] {
            let from = caller(
                [127, HOST, way, number],
                &cart,
                "http",
                sidecar.listener,
                hop,
            );
            ask(client, from.listener, &forged(client));
            let mut request = seen.recv().expect("the request came");
            assert_eq!(
                request.values(FORWARDED),
                [truth.as_str()],
                "{client:?} to {task:?}"
            );
            request.fields.retain(|(name, _)| name != FORWARDED);
            assert_sanitised(
                &request,
                &format!("{client:?} to {task:?}, by a hop: {hop}"),
            );
        }
        // The same port by plaintext, where nobody has proved anything.
        ask(client, sidecar.listener, &forged(client));
        let request = seen.recv().expect("the request came");
        assert_sanitised(&request, &format!("plaintext, {client:?} to {task:?}"));
        for (security, count) in [("tls", 2), ("plaintext", 1)] {
            let label = format!("security=\"{security}\"");
            assert_eq!(
                sidecar.metric("outrigger_tls_connections_total", &[&label]),
                count
            );
        }
    }
}

/// A client that is no sidecar, by HTTP/1.1.
fn dial(leaf: &Leaf, address: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
    let read = |path| std::fs::read(path).expect("it was written");
    let identity = Identity::default();
    let credentials = Credentials::from_pem(&read(&leaf.cert), &read(&leaf.key));
    identity.set_credentials(credentials.expect("they belong together"));
    identity.set_roots(Roots::from_pem(&read(&leaf.ca)).expect("it is PEM"));
    let connector = Connector::new(Arc::new(identity), Peer::Anybody, &[alpn::HTTP1], &[]);
    let config = connector.config().expect("it has all it needs");
    let name = ServerName::from(address.ip());
    let session = ClientConnection::new(config, name).expect("it can begin");
    StreamOwned::new(session, connect(address))
}

#[test]
fn no_client_takes_out_who_it_is() {
    let ca = Authority::new();
    let (orders, cart) = (ca.service("orders"), ca.service("cart"));
    let (origin, seen) = application(Http::V1, [127, HOST, 8, 1], vec![Message::new("200")]);
    let sidecar = start(
        [127, HOST, 8, 2],
        ["http", "http"],
        &orders.listener("strict"),
        origin,
    );
    let mut client = dial(&cart, sidecar.listener);
    for connection in [
        FORWARDED,
        "keep-alive, X_Forwarded_Client_Cert, te",
        "X-Forwarded-Client-Cert",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n{FORWARDED}: {FORGED}\r\n\
             Transfer-Encoding: chunked\r\n\r\n0\r\n{FORWARDED}: {FORGED}\r\n\r\n"
        );
        client.write_all(request.as_bytes()).expect("it is open");
        let answer = read_v1(
            &mut std::io::BufReader::with_capacity(1, &mut client),
            false,
        );
        assert_eq!(answer.expect("it is answered").start, "200");
        let request = seen.recv().expect("the request came");
        let told = request.values(FORWARDED);
        assert_eq!(told.len(), 1, "{request:?}");
        assert!(
            told[0].ends_with(&format!("URI={}", id("cart"))),
            "{request:?}"
        );
        assert!(request.trailers.is_empty(), "{request:?}");
    }
}
