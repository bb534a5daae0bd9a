//! Probes against real sockets: servers that change their mind, that are mute, and that are not there.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_xds::model::{self, EndpointHealth, Probe, Protocol};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::probe::{CheckRequest, CheckResponse, SERVING};
use super::*;
use crate::observe::metrics::ClusterMetrics;
use crate::policy::endpoint::tests::model_endpoint;
use crate::upstream::cluster::Cluster;

/// No wait is longer: a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn check(probe: Probe) -> model::HealthCheck {
    model::HealthCheck {
        probe,
        interval: Duration::from_millis(10),
        timeout: PATIENCE,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
    }
}

/// What a server was asked.
#[derive(Debug, PartialEq)]
struct Asked {
    version: Version,
    host: String,
    path: String,
    body: Bytes,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// A server that answers as it is told, in turn, and the last answer from then on.
async fn server<T: Clone + Send + 'static>(
    answers: Vec<T>,
    answer: fn(T) -> Answer,
) -> (SocketAddr, mpsc::Receiver<Asked>) {
    let (told, asked) = mpsc::channel(100_000);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let left = Arc::new(Mutex::new(answers));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (told, left) = (told.clone(), Arc::clone(&left));
            let service = service_fn(move |request: Request<Incoming>| {
                let (told, left) = (told.clone(), Arc::clone(&left));
                async move {
                    let _gone = told.try_send(read(request).await);
                    let mut left = left.lock().expect("not poisoned");
                    let next = match left.len() {
                        1 => left[0].clone(),
                        _ => left.remove(0),
                    };
                    Ok::<_, Infallible>(answer(next))
                }
            });
            tokio::spawn(async move {
                let mut first = [0; 3];
                stream.peek(&mut first).await.expect("a client that speaks");
                let stream = TokioIo::new(stream);
                let _ended = if &first == b"PRI" {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    server.serve_connection(stream, service).await
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    server.serve_connection(stream, service).await
                };
            });
        }
    });
    (address, asked)
}

async fn read(request: Request<Incoming>) -> Asked {
    let (head, body) = request.into_parts();
    let host = head.headers.get("host").and_then(|host| host.to_str().ok());
    let authority = head.uri.authority().map(ToString::to_string);
    Asked {
        version: head.version,
        host: authority.unwrap_or_else(|| host.unwrap_or_default().to_owned()),
        path: head.uri.path().to_owned(),
        body: body.collect().await.expect("a whole request").to_bytes(),
    }
}

fn with_status(status: u16) -> Answer {
    let mut answer = Response::new(Full::default().boxed());
    *answer.status_mut() = status.try_into().expect("a status");
    answer
}

/// A gRPC answer: `Ok` is a serving status, `Err` a status code without a message.
fn serving(status: Result<i32, &'static str>) -> Answer {
    let grpc_status = |code: &str| {
        HeaderMap::from_iter([(
            "grpc-status".parse().expect("a name"),
            code.parse().expect("a value"),
        )])
    };
    match status {
        Ok(status) => {
            let message = CheckResponse { status }.encode_to_vec();
            let framed = [&[0, 0, 0, 0, message.len() as u8][..], &message].concat();
            let trailers = grpc_status("0");
            let body = Full::new(Bytes::from(framed));
            Response::new(body.with_trailers(async { Some(Ok(trailers)) }).boxed())
        }
        Err(code) => {
            let mut answer = with_status(200);
            answer.headers_mut().extend(grpc_status(code));
            answer
        }
    }
}

fn endpoint(address: SocketAddr) -> Arc<Endpoint> {
    let from = model_endpoint(address, 1, EndpointHealth::Healthy);
    Arc::new(Endpoint::new(address, &from, ""))
}

/// Probes the endpoint, and waits for its verdict to change `times` times; answers what it was after each.
async fn verdicts(prober: Prober, endpoint: &Arc<Endpoint>, times: usize) -> Vec<bool> {
    let changed = Arc::new(Notify::new());
    let mut probes = Probes::new(prober, Arc::clone(&changed));
    probes.set_endpoints([Arc::clone(endpoint)].into_iter());
    let mut seen = Vec::new();
    for _ in 0..times {
        let waited = tokio::time::timeout(PATIENCE, changed.notified()).await;
        waited.expect("the verdict changes");
        seen.push(endpoint.probed_unhealthy.load(Relaxed));
    }
    seen
}

#[tokio::test]
async fn two_failures_in_a_row_find_it_unhealthy_and_two_successes_healthy() {
    let answers = vec![200, 503, 200, 500, 404, 200, 301, 204, 299, 200];
    let (address, mut asked) = server(answers, with_status).await;
    let endpoint = endpoint(address);
    let prober = Prober::new(
        &check(Probe::Http("/healthz".into())),
        Protocol::Http,
        "shop/orders",
    );
    assert_eq!(verdicts(prober, &endpoint, 2).await, [true, false]);
    let expected = Asked {
        version: Version::HTTP_11,
        host: "orders".to_owned(),
        path: "/healthz".to_owned(),
        body: Bytes::new(),
    };
    assert_eq!(asked.recv().await, Some(expected));
    // One 503 alone had not sufficed, nor one success after the 404: the ninth answer was the second in a row.
    assert!(asked.len() >= 8, "{}", asked.len());
}

#[tokio::test]
async fn a_service_that_speaks_http2_is_probed_by_http2() {
    for protocol in [Protocol::Http2, Protocol::Grpc] {
        let (address, mut asked) = server(vec![503, 503, 200], with_status).await;
        let prober = Prober::new(&check(Probe::Http("/live".into())), protocol, "orders");
        assert_eq!(verdicts(prober, &endpoint(address), 2).await, [true, false]);
        let expected = Asked {
            version: Version::HTTP_2,
            host: "orders".to_owned(),
            path: "/live".to_owned(),
            body: Bytes::new(),
        };
        assert_eq!(asked.recv().await, Some(expected), "{protocol}");
    }
}

#[tokio::test]
async fn a_grpc_probe_asks_for_the_service_and_believes_nothing_but_serving() {
    let answers = vec![
        Ok(SERVING),
        Ok(2),
        Err("5"),
        Ok(SERVING),
        Ok(0),
        Ok(SERVING),
    ];
    let (address, mut asked) = server(answers, serving).await;
    let prober = Prober::new(
        &check(Probe::Grpc("shop.Orders".into())),
        Protocol::Grpc,
        "orders",
    );
    assert_eq!(verdicts(prober, &endpoint(address), 2).await, [true, false]);
    let asked = asked.recv().await.expect("it was asked");
    assert_eq!(
        (asked.version, asked.path.as_str()),
        (Version::HTTP_2, "/grpc.health.v1.Health/Check")
    );
    let message = CheckRequest::decode(&asked.body[5..]).expect("a message");
    assert_eq!(message.service, "shop.Orders");
}

#[tokio::test]
async fn a_probe_that_fails_says_why() {
    let (http, _asked) = server(vec![503], with_status).await;
    let (grpc, _asked) = server(vec![Ok(2)], serving).await;
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        listener.local_addr().expect("bound")
    };
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let mute = (mute.local_addr().expect("bound"), mute);
    let soon = model::HealthCheck {
        timeout: Duration::from_millis(20),
        ..check(Probe::Http("/".into()))
    };
    for (check, address, reason) in [
        (
            check(Probe::Http("/healthz".into())),
            http,
            "/healthz was answered 503",
        ),
        (
            check(Probe::Grpc("o".into())),
            grpc,
            "Check of \"o\": status 2",
        ),
        (check(Probe::Tcp), nobody, "Connection refused"),
        (soon, mute.0, "no answer within 20ms"),
    ] {
        let prober = Prober::new(&check, Protocol::Http, "orders");
        let asked = prober.ask(address).await;
        let told = asked.expect_err("it fails").to_string();
        assert!(told.contains(reason), "{told:?} does not say {reason:?}");
    }
}

#[tokio::test]
async fn a_port_that_is_closed_and_opened_again_is_unhealthy_and_healthy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let endpoint = endpoint(address);
    let changed = Arc::new(Notify::new());
    let prober = Prober::new(&check(Probe::Tcp), Protocol::Tcp, "orders");
    let mut probes = Probes::new(prober, Arc::clone(&changed));
    probes.set_endpoints([Arc::clone(&endpoint)].into_iter());
    let change = || tokio::time::timeout(PATIENCE, changed.notified());
    change().await.expect("it is refused");
    assert!(endpoint.probed_unhealthy.load(Relaxed));
    let _listener = TcpListener::bind(address).await.expect("binds again");
    change().await.expect("it is accepted");
    assert!(!endpoint.probed_unhealthy.load(Relaxed));
}

#[tokio::test]
async fn a_mute_endpoint_holds_up_nobody_elses_probes() {
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let mute = endpoint(mute.local_addr().expect("bound"));
    let (address, mut asked) = server(vec![200], with_status).await;
    let prober = Prober::new(&check(Probe::Http("/".into())), Protocol::Http, "orders");
    let mut probes = Probes::new(prober, Arc::default());
    probes.set_endpoints([mute, endpoint(address)].into_iter());
    for probe in 0..5 {
        let next = tokio::time::timeout(PATIENCE / 2, asked.recv()).await;
        next.unwrap_or_else(|_| panic!("probe {probe} waits for the mute endpoint's"));
    }
}

#[tokio::test]
async fn a_draining_endpoint_is_left_in_peace() {
    let (leaving, mut asked_leaving) = server(vec![500], with_status).await;
    let (staying, mut asked_staying) = server(vec![200], with_status).await;
    let mut settings = model::Cluster::new("shop/orders", Protocol::Http);
    settings.health_check = Some(check(Probe::Http("/".into())));
    let cluster = Cluster::new(settings, "", ClusterMetrics::unregistered());
    let set = |health| {
        let members = [(leaving, health), (staying, EndpointHealth::Healthy)];
        let members =
            members.map(|(address, health)| (address, model_endpoint(address, 1, health)));
        let each = members
            .iter()
            .map(|(address, endpoint)| (*address, endpoint));
        cluster.set_endpoints(each);
    };
    set(EndpointHealth::Healthy);
    let task = tokio::spawn(Arc::clone(&cluster).maintain());
    for _ in 0..2 {
        asked_leaving.recv().await.expect("it is probed");
    }
    while cluster.offered() == 2 {
        asked_staying.recv().await.expect("it is probed");
    }
    let before = cluster.endpoints()[0].clone();
    assert!(before.probed_unhealthy.load(Relaxed));
    set(EndpointHealth::Draining);
    while before.probed_unhealthy.load(Relaxed) {
        asked_staying.recv().await.expect("it is probed");
    }
    while asked_leaving.try_recv().is_ok() {}
    for _ in 0..5 {
        asked_staying.recv().await.expect("it is probed");
    }
    // One may have been on its way.
    assert!(
        asked_leaving.len() <= 1,
        "{} probes more",
        asked_leaving.len()
    );
    task.abort();
}
