//! Where endpoints come from and which are offered, seen through a real sidecar process.

use std::net::TcpListener;

use crate::common::{Sidecar, application, exchange, free};

const CLOSE: &str = "GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n";

#[test]
fn an_endpoint_given_by_name_is_resolved() {
    let origin = application([127, 0, 0, 1]);
    let named = format!("localhost:{}", origin.port());
    let sidecar = Sidecar::start(free([127, 62, 0, 1]), "", &named, "");
    let answer = exchange(sidecar.listener, CLOSE);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
}

#[test]
fn a_probe_notices_a_dead_task_without_any_request_and_its_return() {
    let origin = free([127, 62, 0, 2]);
    let check = "health_check = { interval = \"50ms\", timeout = \"1s\", healthy_threshold = 1, unhealthy_threshold = 1 }";
    let sidecar = Sidecar::start(free([127, 62, 0, 3]), "", &origin.to_string(), check);
    sidecar.until("/clusters", |page| {
        page.contains("\"probed_unhealthy\":true")
    });
    let back = TcpListener::bind(origin).expect("the address is free again");
    sidecar.until("/clusters", |page| {
        page.contains("\"probed_unhealthy\":false")
    });
    drop(back);
}
