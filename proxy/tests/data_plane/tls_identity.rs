//! Whom mutual TLS lets in and whom a sidecar believes: certificates that are wrong in every way, by processes and by OpenSSL.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::certificates::{Authority, Leaf, id};
use crate::common::{Sidecar, exchange, hop_table};
use crate::hop::{Does, OK, Task};
use crate::tls::{HOST, egress, ingress};

/// What `openssl s_client` says of the listener, with these arguments; `input` is what it sends.
pub(crate) fn openssl(address: SocketAddr, arguments: &[&str], input: &str) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-ign_eof", "-connect", &address.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let mut stdin = client.stdin.take().expect("it is piped");
    // It may have gone.
    let _ = stdin.write_all(input.as_bytes());
    let output = client.wait_with_output().expect("it ends");
    drop(stdin);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

pub(crate) const CLOSING: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn strict_lets_nobody_in_whom_its_ca_does_not_vouch_for() {
    let (ca, foreign) = (Authority::new(), Authority::new());
    let task = Task::start([127, HOST, 4, 1], Does::Answer(OK));
    let ingress = ingress(
        [127, HOST, 4, 2],
        "",
        &ca.service("orders"),
        "strict",
        task.address,
    );
    let arguments = |leaf: &Leaf| {
        let [cert, key] = [&leaf.cert, &leaf.key].map(|file| file.display().to_string());
        ["-cert".to_owned(), cert, "-key".to_owned(), key]
    };
    let asks = |leaf: Option<&Leaf>, more: &[&str]| {
        let of_leaf = leaf.map(arguments);
        let all = of_leaf.iter().flatten().map(String::as_str);
        let all: Vec<&str> = all.chain(more.iter().copied()).collect();
        openssl(ingress.listener, &all, CLOSING)
    };
    let web = ca.service("web");
    let old = ca.leaf("old", &[&id("web")], -3600 - 400);
    let stranger = foreign.service("web");
    let elsewhere = ca.leaf("elsewhere", &["spiffe://elsewhere/ns/shop/svc/web"], 0);
    let nobody = ca.leaf("nobody", &[], 0);
    let refused = [
        (
            "no certificate",
            asks(None, &[]),
            "alert certificate required",
        ),
        ("another CA's", asks(Some(&stranger), &[]), "alert"),
        (
            "another trust domain's",
            asks(Some(&elsewhere), &[]),
            "alert",
        ),
        ("nobody's", asks(Some(&nobody), &[]), "alert"),
        ("one that is over", asks(Some(&old), &[]), "alert"),
        (
            "TLS 1.2",
            asks(Some(&web), &["-tls1_2"]),
            "alert protocol version",
        ),
    ];
    for (what, said, alert) in &refused {
        assert!(said.contains(alert), "{what}: {said}");
        assert!(!said.contains("HTTP/1.1"), "{what}: {said}");
    }
    assert_eq!(exchange(ingress.listener, CLOSING), "", "plaintext");
    assert_eq!(task.heads(), Vec::<String>::new());
    let errors = ingress.metric("ClientTLSNegotiationErrorCount_total", &[]);
    assert_eq!(errors, refused.len() as u64 + 1);
    let said = asks(Some(&web), &[]);
    assert!(
        said.contains("HTTP/1.1 200 OK") && said.contains("TLSv1.3"),
        "{said}"
    );
    assert_eq!(task.heads().len(), 1);
}

#[test]
fn a_session_is_resumed_by_the_ticket_that_comes_with_an_answer() {
    let ca = Authority::new();
    let task = Task::start([127, HOST, 5, 1], Does::Answer(OK));
    let ingress = ingress(
        [127, HOST, 5, 2],
        "",
        &ca.service("orders"),
        "strict",
        task.address,
    );
    let web = ca.service("web");
    let ticket = ca.folder().join("ticket").display().to_string();
    let [cert, key] = [&web.cert, &web.key].map(|file| file.display().to_string());
    let common = ["-cert", &cert, "-key", &key, "-alpn", "http/1.1"];
    let said = openssl(
        ingress.listener,
        &[&common[..], &["-sess_out", &ticket]].concat(),
        CLOSING,
    );
    assert!(
        said.contains("New, TLSv1.3") && said.contains("HTTP/1.1 200"),
        "{said}"
    );
    let said = openssl(
        ingress.listener,
        &[&common[..], &["-sess_in", &ticket]].concat(),
        CLOSING,
    );
    assert!(
        said.contains("Reused, TLSv1.3") && said.contains("HTTP/1.1 200"),
        "{said}"
    );
}

const POST: &str =
    "POST / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";

/// All POSTs reach the right task, though another one is tried; where the other is all there is, the client is told why not.
fn all_go_elsewhere(
    number: u8,
    leaf: &Leaf,
    wrong: (SocketAddr, Option<&str>),
    right: (&Sidecar, &Task, Option<&str>),
    why: &str,
) {
    let (ingress, task, instance) = right;
    let both = [wrong, (ingress.listener, instance)];
    let caller = egress([127, HOST, number, 8], "http", &both, leaf, &id("orders"));
    for _ in 0..8 {
        let answer = exchange(caller.listener, POST);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(task.heads().len(), 8);
    let caller = egress(
        [127, HOST, number, 9],
        "http",
        &[wrong],
        leaf,
        &id("orders"),
    );
    let answer = exchange(caller.listener, POST);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains(why) && answer.contains("(UF, Upstream)"),
        "{answer}"
    );
}

#[test]
fn somebody_else_at_an_address_never_sees_a_request() {
    let ca = Authority::new();
    let (orders, web) = (ca.service("orders"), ca.service("web"));
    for (number, instance) in [(6, None), (7, Some("one"))] {
        let hop = instance.map(hop_table).unwrap_or_default();
        let other = Task::start([127, HOST, number, 1], Does::Answer(OK));
        let stock = ca.leaf("stock", &[&id("stock")], 0);
        let wrong = ingress(
            [127, HOST, number, 2],
            &hop,
            &stock,
            "strict",
            other.address,
        );
        let task = Task::start([127, HOST, number, 3], Does::Answer(OK));
        let right = ingress(
            [127, HOST, number, 4],
            &hop,
            &orders,
            "strict",
            task.address,
        );
        let why = "not of the service that is meant";
        let wrong_one = (wrong.listener, instance);
        all_go_elsewhere(number, &web, wrong_one, (&right, &task, instance), why);
        assert_eq!(other.heads(), Vec::<String>::new());
        wrong.until_metric("ClientTLSNegotiationErrorCount_total", &[], 2);
    }
}

#[test]
fn another_task_of_the_same_service_is_told_by_the_name_in_the_handshake() {
    let ca = Authority::new();
    let (orders, web) = (ca.service("orders"), ca.service("web"));
    let other = Task::start([127, HOST, 10, 1], Does::Answer(OK));
    let newcomer = hop_table("newcomer");
    let there = ingress(
        [127, HOST, 10, 2],
        &newcomer,
        &orders,
        "strict",
        other.address,
    );
    let task = Task::start([127, HOST, 10, 3], Does::Answer(OK));
    let right = ingress(
        [127, HOST, 10, 4],
        &hop_table("two"),
        &orders,
        "strict",
        task.address,
    );
    let wrong = (there.listener, Some("one"));
    let why = "not at its address any more";
    all_go_elsewhere(10, &web, wrong, (&right, &task, Some("two")), why);
    assert_eq!(other.heads(), Vec::<String>::new());
}

#[test]
fn who_refuses_our_certificate_has_seen_no_request() {
    let (ca, foreign) = (Authority::new(), Authority::new());
    let (orders, stranger) = (ca.service("orders"), foreign.service("web"));
    // It believes whom it dials, and is believed by the second one alone.
    let caller = Leaf {
        ca: ca.ca_file(),
        ..stranger
    };
    for (number, protocol, instance) in [
        (11, "http", None),
        (12, "http", Some("one")),
        (13, "http2", None),
    ] {
        let hop = instance.map(hop_table).unwrap_or_default();
        let other = Task::start([127, HOST, number, 1], Does::Answer(OK));
        let there = ingress(
            [127, HOST, number, 2],
            &hop,
            &orders,
            "strict",
            other.address,
        );
        let tasks = [(there.listener, instance)];
        let egress = egress(
            [127, HOST, number, 3],
            protocol,
            &tasks,
            &caller,
            &id("orders"),
        );
        let answer = exchange(egress.listener, POST);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{protocol}: {answer}");
        assert!(
            answer.contains("the TLS handshake with the task failed"),
            "{answer}"
        );
        assert_eq!(other.heads(), Vec::<String>::new());
    }
}
