//! The parts of the request path, built and handed out one by one for `cargo bench`; nothing here runs in a sidecar.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use outrigger_xds::model::{self, PathMatch, RetryPolicy};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::http1;
use crate::message::head::RequestHead;
use crate::observe::metrics::{Metrics, Owner};
use crate::request::headers;
use crate::routing::route::{self, Route};
use crate::upstream::cluster::Cluster;

fn policy(name: &str) -> model::Cluster {
    model::Cluster::new(name, model::Protocol::Http)
}

/// A cluster of so many healthy endpoints, all of weight one.
fn cluster(endpoints: u32) -> Arc<Cluster> {
    let cluster = Cluster::new(
        policy("orders"),
        "",
        Metrics::new(1, Owner::default()).local_cluster(),
    );
    let members: Vec<_> = (0..endpoints)
        .map(|n| SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + n), 80)))
        .map(|address| (address, model::Endpoint::new(model::Address::Ip(address))))
        .collect();
    cluster.set_endpoints(members.iter().map(|(address, from)| (*address, from)));
    cluster
}

/// One pick as a request makes it: chosen, leased, and given back.
pub fn pick(endpoints: u32) -> impl Fn() -> bool {
    let cluster = cluster(endpoints);
    let rng = RefCell::new(SmallRng::seed_from_u64(1));
    move || {
        let mut rng = rng.borrow_mut();
        cluster.pick(&mut *rng, b"/", &[]).is_some()
    }
}

/// Finds the last of so many routes by its host, as a request with a `Host` header does.
pub fn route_match(routes: usize) -> impl Fn() -> bool {
    let cluster = cluster(1);
    let route = |n: usize| {
        let from = model::Route {
            hosts: vec![format!("service-{n}.shop")],
            path: PathMatch::Prefix("/".to_owned()),
            headers: Vec::new(),
            cluster: "orders".to_owned(),
            per_request_timeout: None,
            idle_timeout: None,
            retry: RetryPolicy::default(),
        };
        Arc::new(Route::new(&from, Arc::clone(&cluster)).expect("it has no header conditions"))
    };
    let all: Vec<_> = (1..=routes).map(route).collect();
    let host = format!("service-{routes}.shop:8080");
    let text = format!("GET /orders/7?full=1 HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let head = read(text.as_bytes());
    move || route::find(&all, &head).is_some()
}

/// A browser's request head on the wire.
const BROWSER: &[u8] = b"GET /orders/7?full=1 HTTP/1.1\r\nHost: orders\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n\
Keep-Alive: timeout=5\r\nTE: trailers\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
Accept: text/html,application/json;q=0.9\r\nAccept-Encoding: gzip, br\r\nCookie: session=c0ffee\r\n\
X-Request-Id: 6ba7b810-9dad-11d1-80b4-00c04fd430c8\r\n\r\n";

/// A request's head.
#[derive(Clone)]
pub struct Head(RequestHead);

fn read(bytes: &[u8]) -> RequestHead {
    let parsed = http1::head::request(bytes, bytes.len()).expect("the head is valid");
    parsed.expect("the head is complete").head
}

/// Reads a head of ten fields from the wire.
pub fn head_read() -> Head {
    Head(read(BROWSER))
}

/// Takes out of a head what is meant for one hop.
pub fn header_edit(head: &mut Head) {
    headers::strip_hop_by_hop(&mut head.0.fields, false);
}

/// Writes a head as it goes to the wire.
pub fn head_write(head: &Head, to: &mut Vec<u8>) {
    http1::head::write_request(&head.0, to);
}

/// All that is counted for one request that a task answered.
pub fn metrics_record() -> impl Fn(Duration) {
    let metrics = Metrics::new(1, Owner::default());
    let listener = metrics.listener("in", "egress", "orders");
    let cluster = metrics.cluster("orders", "orders");
    move |elapsed| {
        let listener = listener.shard(0);
        listener.requests.add(1);
        listener.finished.add(1);
        listener.bytes.add(1024);
        let cluster = cluster.shard(0);
        cluster.moved(1024, false);
        cluster.response(StatusCode::OK, elapsed);
    }
}
