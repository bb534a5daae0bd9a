//! What each peer is told to do.

use super::*;

const ALL: [Kind; 4] = [Kind::Outrigger, Kind::Envoy, Kind::HaProxy, Kind::Nginx];

fn job(front: Protocol, back: Protocol, services: usize, endpoints: u16) -> Job {
    let endpoints: Vec<SocketAddr> = (0..endpoints)
        .map(|index| SocketAddr::from(([127, 0, 0, 9], 9000 + index)))
        .collect();
    Job {
        front,
        back,
        middle: back,
        balance: Balance::Shipped,
        workers: 3,
        services: vec![endpoints; services],
        tls: None,
        hop: false,
    }
}

fn text(kind: Kind, job: &Job) -> String {
    part_text(kind, job, 1, 1)
}

fn part_text(kind: Kind, job: &Job, hop: u8, hops: u8) -> String {
    let next = SocketAddr::from(([127, 0, 0, 8], 8888));
    let part = Part::of(job, hop, hops, next);
    render(kind, &part, 8000, Path::new("/run/x")).unwrap()
}

#[test]
fn every_peer_gets_every_service_on_an_address_of_its_own_with_every_endpoint() {
    for kind in ALL {
        let text = text(kind, &job(Protocol::Http, Protocol::Http, 300, 3));
        for needle in ["127.0.1.50", "orders-299", "9002"] {
            assert!(text.contains(needle), "{kind:?} lacks {needle}");
        }
        assert_eq!(text.matches("9001").count(), 300, "{kind:?}");
        assert!(!text.contains("{{") && !text.contains("{%"), "{kind:?}");
    }
}

#[test]
fn the_protocol_of_each_side_is_said_in_each_peers_words() {
    let spoken = |kind, front, back| text(kind, &job(front, back, 1, 1));
    use Protocol::{Grpc, Http, Http2, Tcp};
    let ours = spoken(Kind::Outrigger, Http2, Http);
    assert!(ours.contains("protocol = \"http\"\n") && !ours.contains("http2"));
    assert!(spoken(Kind::Outrigger, Grpc, Grpc).contains("protocol = \"grpc\""));
    assert!(spoken(Kind::Envoy, Http, Http2).contains("http2_protocol_options"));
    assert!(!spoken(Kind::Envoy, Http2, Http).contains("http2_protocol_options"));
    assert!(spoken(Kind::Envoy, Tcp, Tcp).contains("tcp_proxy"));
    assert_eq!(
        spoken(Kind::HaProxy, Http2, Http2)
            .matches("proto h2")
            .count(),
        2
    );
    assert_eq!(
        spoken(Kind::HaProxy, Http2, Http)
            .matches("proto h2")
            .count(),
        1
    );
    assert!(spoken(Kind::HaProxy, Tcp, Tcp).contains("mode tcp"));
    assert!(spoken(Kind::Nginx, Http2, Http).contains(" http2 "));
    assert!(spoken(Kind::Nginx, Grpc, Grpc).contains("grpc_pass"));
    assert!(spoken(Kind::Nginx, Tcp, Tcp).contains("stream {"));
}

/// Certificates that are nowhere: only their names are looked at.
fn tls(session: Session) -> Option<Tls> {
    let leaf = |name: &str| crate::certificates::Leaf {
        id: format!("spiffe://x/{name}"),
        host: format!("{name}.x"),
        cert: format!("/made/{name}.pem").into(),
        key: format!("/made/{name}.key").into(),
        both: format!("/made/{name}-both.pem").into(),
    };
    let certificates = Certificates {
        ca: "/made/ca.pem".into(),
        server: leaf("orders"),
        client: leaf("web"),
    };
    Some(Tls::new(certificates, Group::X25519, session))
}

#[test]
fn each_end_of_a_pair_has_its_own_certificate_and_verifies_the_others() {
    for (kind, asks, verifies) in [
        (
            Kind::Outrigger,
            "mode = \"strict\"",
            "peer = \"spiffe://x/orders\"",
        ),
        (
            Kind::Envoy,
            "require_client_certificate: true",
            "exact: \"spiffe://x/orders\"",
        ),
        (
            Kind::HaProxy,
            "ssl crt /made/orders-both.pem ca-file /made/ca.pem verify required",
            "verifyhost orders.x",
        ),
        (Kind::Nginx, "ssl_verify_client on", "proxy_ssl_verify on"),
    ] {
        let mut job = job(Protocol::Http, Protocol::Http, 1, 1);
        let has = |text: &str| (text.contains(asks), text.contains(verifies));
        for hop in [1, 2] {
            assert_eq!(
                has(&part_text(kind, &job, hop, 2)),
                (false, false),
                "{kind:?}"
            );
        }
        job.tls = tls(Session::Kept);
        let (egress, ingress) = (part_text(kind, &job, 1, 2), part_text(kind, &job, 2, 2));
        assert_eq!(has(&egress), (false, true), "{kind:?}: {egress}");
        assert_eq!(has(&ingress), (true, false), "{kind:?}: {ingress}");
        assert!(egress.contains("/made/web") && !egress.contains("/made/orders"));
        assert!(ingress.contains("/made/orders") && !ingress.contains("/made/web"));
        // A single one is the server.
        assert_eq!(has(&part_text(kind, &job, 1, 1)), (true, false), "{kind:?}");
    }
}

#[test]
fn nobody_makes_tickets_in_full_handshakes() {
    let mut job = job(Protocol::Http, Protocol::Http, 1, 1);
    for (session, off) in [(Session::Full, true), (Session::Resumed, false)] {
        job.tls = tls(session);
        for (kind, words) in [
            (Kind::Envoy, "disable_stateless_session_resumption: true"),
            (Kind::HaProxy, "no-tls-tickets"),
            (Kind::Nginx, "ssl_session_tickets off"),
        ] {
            let text = part_text(kind, &job, 1, 1);
            assert_eq!(text.contains(words), off, "{kind:?}: {text}");
        }
    }
}

#[test]
fn two_of_ours_speak_the_hop_protocol_between_them_alone() {
    let mut job = job(Protocol::Http, Protocol::Http, 1, 1);
    job.hop = true;
    let (egress, ingress) = (
        part_text(Kind::Outrigger, &job, 1, 2),
        part_text(Kind::Outrigger, &job, 2, 2),
    );
    for (text, direction) in [(&egress, "egress"), (&ingress, "ingress")] {
        assert_eq!(text.matches("hop = {").count(), 1, "{text}");
        assert!(text.contains(&format!("direction = \"{direction}\"")));
    }
    assert!(egress.contains("8888\", hop = {"), "{egress}");
}

#[tokio::test]
async fn a_peer_that_refuses_its_configuration_is_not_waited_for_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo bad configuration >&2; exit 1"]);
    let chain = Chain {
        processes: vec![Process::spawn("refuses", command, folder.path()).unwrap()],
        entry: SocketAddr::from(([127, 0, 0, 1], 9)),
        tls: None,
        configuration: Vec::new(),
    };
    let error = chain.answers(Wire::Http1).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("refuses has ended"), "{text}");
    assert!(text.contains("bad configuration"), "{text}");
}

#[tokio::test]
async fn the_children_of_a_peer_end_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("child");
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "sleep 600 & echo $! > \"$0.part\"; mv \"$0.part\" \"$0\"; wait",
    ]);
    command.arg(&pids);
    let chain = Chain {
        processes: vec![Process::spawn("parent", command, folder.path()).unwrap()],
        entry: SocketAddr::from(([127, 0, 0, 1], 9)),
        tls: None,
        configuration: Vec::new(),
    };
    let told = || async { Ok(std::fs::read_to_string(&pids).ok()) };
    let child = wait_for("the child's id", START, told).await.unwrap();
    let child = child.trim().parse().unwrap();
    assert!(!is_zombie(child));
    drop(chain);
    let gone = || async { Ok(is_zombie(child).then_some(())) };
    wait_for("its end", START, gone).await.unwrap();
}

#[test]
fn envoys_balance_is_its_own_default_unless_a_cell_asks() {
    let mut job = job(Protocol::Http, Protocol::Http, 1, 3);
    assert!(text(Kind::Envoy, &job).contains("ROUND_ROBIN"));
    job.balance = Balance::LeastRequest;
    assert!(text(Kind::Envoy, &job).contains("LEAST_REQUEST"));
}

#[test]
fn what_is_not_installed_and_may_not_be_is_missing_with_the_reason() {
    let proxies = [std::env::current_exe().unwrap().display().to_string()];
    let names = ["outrigger", "envoy", "haproxy", "nginx"].map(str::to_owned);
    let peers = find(&names, &proxies, false).unwrap();
    assert_eq!(peers.len(), 5);
    assert_eq!(peers[0].name, "direct");
    for peer in &peers {
        assert_eq!(peer.program.is_some(), peer.missing.is_none(), "{peer:?}");
    }
    assert!(find(&["squid".to_owned()], &[], false).is_err());
    assert!(find(&names[..1], &["a=/no/such".to_owned()], false).is_err());
}
