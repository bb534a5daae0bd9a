//! Mutual TLS between two sidecars, and with others: who is let in, who is dialled, and what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::process::Command;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificates::{Authority, Leaf, id};
use crate::common::{PATIENCE, Sidecar, exchange, free, hop_table};
use crate::hop::{Does, OK, Task};
use crate::peers::BY_TLS;
use crate::tls_identity::{CLOSING, openssl};

pub(crate) const HOST: u8 = 77;

/// An ingress for `task` that takes TLS in this mode.
pub(crate) fn ingress(
    host: [u8; 4],
    more: &str,
    leaf: &Leaf,
    mode: &str,
    task: SocketAddr,
) -> Sidecar {
    let fields = format!("{more}\n{}", leaf.listener(mode));
    Sidecar::start(free(host), &fields, &task.to_string(), "")
}

/// An egress to `tasks`, which must be `peer`.
pub(crate) fn egress(
    host: [u8; 4],
    protocol: &str,
    tasks: &[(SocketAddr, Option<&str>)],
    leaf: &Leaf,
    peer: &str,
) -> Sidecar {
    let listener = free(host);
    let endpoint = |(address, instance): &(SocketAddr, Option<&str>)| match instance {
        Some(instance) => format!("{{ address = \"{address}\", {} }}", hop_table(instance)),
        None => format!("{{ address = \"{address}\" }}"),
    };
    let endpoints: Vec<String> = tasks.iter().map(endpoint).collect();
    let text = format!(
        "[[listener]]\nname = \"out\"\ndirection = \"egress\"\naddress = \"{listener}\"\nprotocol = \"{}\"\n\
         cluster = \"orders\"\n[[cluster]]\nname = \"orders\"\nprotocol = \"{protocol}\"\nendpoints = [{}]\n{}",
        if protocol == "tcp" { "tcp" } else { "http" },
        endpoints.join(", "),
        leaf.cluster(peer),
    );
    Sidecar::start_on(listener, &text, |_| ())
}

#[test]
fn a_request_passes_by_mutual_tls_with_a_hop_and_without() {
    let ca = Authority::new();
    let (orders, web) = (ca.service("orders"), ca.service("web"));
    let hop = hop_table("one");
    for (number, protocol, hop) in [
        (1, "http", None),
        (2, "http2", None),
        (3, "http", Some(hop.as_str())),
    ] {
        let task = Task::start([127, HOST, number, 1], Does::Answer(OK));
        let more = hop.unwrap_or_default();
        let ingress = ingress(
            [127, HOST, number, 2],
            more,
            &orders,
            "strict",
            task.address,
        );
        let tasks = [(ingress.listener, hop.map(|_| "one"))];
        let egress = egress(
            [127, HOST, number, 3],
            protocol,
            &tasks,
            &web,
            &id("orders"),
        );
        let mut client = egress.connect();
        for _ in 0..3 {
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n")
                .expect("written");
            let head = crate::hop::head(&client);
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            let mut body = [0; 2];
            client.read_exact(&mut body).expect("it is whole");
        }
        assert_eq!(task.heads().len(), 3);
        assert_eq!(
            ingress.metric("outrigger_tls_connections_total", &["security=\"tls\""]),
            1
        );
        let refused = exchange(ingress.listener, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(refused, "");
        assert_eq!(
            ingress.metric("ClientTLSNegotiationErrorCount_total", &[]),
            1
        );
    }
}

#[test]
fn what_passes_one_sidecar_passes_two_with_mutual_tls_between() {
    if std::env::var_os(BY_TLS).is_some() {
        return;
    }
    let mut again = Command::new(std::env::current_exe().expect("it runs"));
    again.args([
        "tunnels::",
        "trailers::",
        "informational::",
        "bodies::",
        "fields::",
    ]);
    // The sidecar that finds this out is the far one.
    again.args(["--skip", "data_after_a_head"]);
    let output = again.env(BY_TLS, "1").output().expect("it runs again");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("running 0 tests"), "{said}");
}

#[test]
fn permissive_tells_plaintext_from_tls_on_one_port() {
    let ca = Authority::new();
    let (orders, web) = (ca.service("orders"), ca.service("web"));
    let task = Task::start([127, HOST, 14, 1], Does::Answer(OK));
    let both = ingress(
        [127, HOST, 14, 2],
        &hop_table("one"),
        &orders,
        "permissive",
        task.address,
    );
    let secure = egress(
        [127, HOST, 14, 3],
        "http",
        &[(both.listener, Some("one"))],
        &web,
        &id("orders"),
    );
    let hop = Sidecar::egress([127, HOST, 14, 4], "http", &[(both.listener, "one")], "");
    for listener in [secure.listener, hop.listener, both.listener] {
        let answer = exchange(listener, CLOSING);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let taken = |security| both.metric("outrigger_tls_connections_total", &[security]);
    assert_eq!(taken("security=\"tls\""), 1);
    assert_eq!(taken("security=\"plaintext\""), 2);
}

/// A server that greets, then sends back what it is sent, to its end.
fn echo(host: [u8; 4]) -> SocketAddr {
    let socket = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for mut stream in socket.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().expect("it can be cloned");
                stream.write_all(b"220 hi\r\n").expect("it is open");
                let _ = std::io::copy(&mut reader, &mut stream);
                let _ = stream.write_all(b"bye");
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    address
}

#[test]
fn opaque_bytes_pass_with_the_server_first_and_each_direction_ends_for_itself() {
    let ca = Authority::new();
    let (orders, web) = (ca.service("orders"), ca.service("web"));
    let server = echo([127, HOST, 15, 1]);
    for (mode, last) in [("strict", 2), ("permissive", 3)] {
        let fields = ["", orders.listener(mode).as_str()].concat();
        let listener = free([127, HOST, 15, last]);
        let ingress = Sidecar::start_with(listener, "tcp", [&fields, ""], &server.to_string(), &[]);
        let tasks = [(ingress.listener, None)];
        let egress = egress([127, HOST, 15, 4], "tcp", &tasks, &web, &id("orders"));
        let mut clients = vec![egress.connect()];
        if mode == "permissive" {
            clients.push(ingress.connect());
        }
        for mut client in clients {
            // The server speaks first, though this client says nothing.
            let mut greeting = [0; 8];
            client.read_exact(&mut greeting).expect("it greets");
            assert_eq!(&greeting, b"220 hi\r\n");
            let sent: Vec<u8> = (0..8 << 20).map(|n: u32| ((n * 7) >> 3) as u8).collect();
            let mut writer = client.try_clone().expect("it can be cloned");
            let bytes = sent.clone();
            let writing = std::thread::spawn(move || {
                writer.write_all(&bytes).expect("it is taken");
                writer.shutdown(Shutdown::Write).expect("it is open");
            });
            let mut back = Vec::new();
            client.read_to_end(&mut back).expect("it ends in order");
            writing.join().expect("it does not panic");
            assert_eq!(back.len(), sent.len() + 3);
            assert!(back.starts_with(&sent) && back.ends_with(b"bye"));
        }
    }
}

/// The first byte of its handshake is that of ours.
#[test]
fn an_applications_own_tls_passes_a_permissive_opaque_port_untouched() {
    let ca = Authority::new();
    let (orders, own) = (ca.service("orders"), ca.service("database"));
    let answer = "HTTP/1.0 200 OK\r\n\r\nits own";
    let server = answers_once([127, HOST, 16, 1], &own, answer, true);
    let listener = free([127, HOST, 16, 2]);
    let fields = [&orders.listener("permissive"), ""];
    let ingress = Sidecar::start_with(listener, "tcp", fields, &server.to_string(), &[]);
    let said = openssl(ingress.listener, &["-alpn", "http/1.1"], CLOSING);
    assert!(said.contains("its own"), "{said}");
    let taken = |security| ingress.metric("outrigger_tls_connections_total", &[security]);
    let (tls, plaintext) = ("security=\"tls\"", "security=\"plaintext\"");
    assert_eq!((taken(tls), taken(plaintext)), (0, 1));
}

/// A TLS server that answers one request with these bytes and closes, `in_order` or as if it had been cut off.
fn answers_once(host: [u8; 4], leaf: &Leaf, answer: &'static str, in_order: bool) -> SocketAddr {
    let read = |file| std::fs::read(file).expect("it is there");
    let key = PrivateKeyDer::from_pem_slice(&read(&leaf.key)).expect("it is a key");
    let chain = CertificateDer::pem_slice_iter(&read(&leaf.cert)).collect::<Result<_, _>>();
    let config = rustls::ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_no_client_auth()
        .with_single_cert(chain.expect("it is a chain"), key);
    let mut config = config.expect("they belong together");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = std::sync::Arc::new(config);
    let socket = TcpListener::bind(SocketAddr::from((host, 0))).expect("loopback can be bound");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            let session = rustls::ServerConnection::new(config.clone()).expect("it can be made");
            let mut tls = rustls::StreamOwned::new(session, stream);
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                tls.read_exact(&mut byte).expect("it is asked");
                asked.extend(byte);
            }
            tls.write_all(answer.as_bytes()).expect("it is taken");
            if in_order {
                tls.conn.send_close_notify();
            }
            tls.flush().expect("it is taken");
            let _ = tls.sock.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut tls.sock, &mut std::io::sink());
        }
    });
    address
}

#[test]
fn a_body_that_ends_with_its_connection_is_whole_only_if_tls_says_so() {
    let ca = Authority::new();
    let (orders, web) = (ca.service("orders"), ca.service("web"));
    let answer = "HTTP/1.1 200 OK\r\n\r\nhalf";
    for (last, in_order) in [(1, true), (2, false)] {
        let server = answers_once([127, HOST, 16, last], &orders, answer, in_order);
        let tasks = [(server, None)];
        let egress = egress(
            [127, HOST, 16, 2 + last],
            "http",
            &tasks,
            &web,
            &id("orders"),
        );
        let said = exchange(egress.listener, CLOSING);
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        assert_eq!(said.ends_with("4\r\nhalf\r\n0\r\n\r\n"), in_order, "{said}");
    }
}

#[test]
fn files_that_change_under_load_lose_no_request_and_broken_ones_change_nothing() {
    let ca = Authority::new();
    let (orders, web) = (ca.service("orders"), ca.service("web"));
    let task = Task::start([127, HOST, 17, 1], Does::Answer(OK));
    let hop = hop_table("one");
    let ingress = ingress([127, HOST, 17, 2], &hop, &orders, "strict", task.address);
    let tasks = [(ingress.listener, Some("one"))];
    let egress = egress([127, HOST, 17, 3], "http", &tasks, &web, &id("orders"));
    let caller = ca.leaf("other", &[&id("other")], 0);
    let shown = || {
        let [cert, key] = [&caller.cert, &caller.key].map(|file| file.display().to_string());
        let said = openssl(ingress.listener, &["-cert", &cert, "-key", &key], CLOSING);
        let certificate = said.split("-----").nth(2).map(str::to_owned);
        certificate.expect("it shows a certificate")
    };
    let before = shown();
    std::fs::write(&orders.key, "no key").expect("the folder is ours");
    let answer = exchange(egress.listener, CLOSING);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(shown(), before);
    ca.service("orders");
    ca.service("web");
    let start = std::time::Instant::now();
    while shown() == before {
        for _ in 0..10 {
            let answer = exchange(egress.listener, CLOSING);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        assert!(start.elapsed() < PATIENCE, "it is never taken over");
    }
    assert_eq!(
        ingress.metric("ClientTLSNegotiationErrorCount_total", &[]),
        0
    );
}

#[test]
fn plaintext_connections_are_asked_to_go_when_a_listener_becomes_strict() {
    let ca = Authority::new();
    let orders = ca.service("orders");
    let task = Task::start([127, HOST, 18, 1], Does::Answer(OK));
    let listener = free([127, HOST, 18, 2]);
    let text = |mode: &str| {
        format!(
            "[[listener]]\nname = \"in\"\ndirection = \"ingress\"\naddress = \"{listener}\"\nprotocol = \"http\"\n\
             cluster = \"app\"\n{}[[cluster]]\nname = \"app\"\nprotocol = \"http\"\nendpoints = [{{ address = \"{}\" }}]\n",
            orders.listener(mode),
            task.address,
        )
    };
    let ingress = Sidecar::start_on(listener, &text("permissive"), |_| ());
    let mut client = ingress.connect();
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(get).expect("written");
    let head = crate::hop::head(&client);
    assert!(!head.contains("connection: close"), "{head}");
    client.read_exact(&mut [0; 2]).expect("it is whole");
    ingress.reload(&text("strict"), |page| page.contains("strict"));
    client.write_all(get).expect("written");
    let answer = crate::common::read_all(client);
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(exchange(ingress.listener, CLOSING), "");
}

#[test]
fn an_endpoint_that_takes_tls_is_probed_by_it() {
    const TLS: &str = "security=\"tls\"";
    let ca = Authority::new();
    let (orders, web) = (ca.service("orders"), ca.service("web"));
    let task = Task::start([127, HOST, 19, 1], Does::Answer(OK));
    let ingress = ingress([127, HOST, 19, 2], "", &orders, "strict", task.address);
    let taken = || ingress.metric("outrigger_tls_connections_total", &[TLS]);
    for (last, probe) in [(3, ", path = \"/\""), (4, "")] {
        let listener = free([127, HOST, 19, last]);
        let text = format!(
            "[[listener]]\nname = \"out\"\ndirection = \"egress\"\naddress = \"{listener}\"\nprotocol = \"http\"\n\
             cluster = \"orders\"\n[[cluster]]\nname = \"orders\"\nprotocol = \"http\"\nendpoints = [{{ address = \"{}\" }}]\n\
             health_check = {{ interval = \"1s\"{probe} }}\n{}",
            ingress.listener,
            web.cluster(&id("orders")),
        );
        let before = taken();
        let egress = Sidecar::start_on(listener, &text, |_| ());
        ingress.until_metric("outrigger_tls_connections_total", &[TLS], before + 3);
        let page = egress.page("/clusters");
        assert!(page.contains("\"probed_unhealthy\":false"), "{page}");
    }
    assert_eq!(
        ingress.metric("ClientTLSNegotiationErrorCount_total", &[]),
        0
    );
}
