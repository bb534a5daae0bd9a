//! Mutual TLS between two sidecars, and with others: who is let in, who is dialled, and what passes.

use std::io::Write;
use std::net::SocketAddr;

use crate::certificates::{Authority, Leaf, id};
use crate::common::{Sidecar, exchange, free, hop_table};
use crate::hop::{Does, OK, Task};

const HOST: u8 = 77;

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
            std::io::Read::read_exact(&mut client, &mut body).expect("it is whole");
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
