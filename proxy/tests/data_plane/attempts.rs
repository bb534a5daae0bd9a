//! Attempts of one request: what is tried again, when, and what is passed on instead (DESIGN section 4: retries).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{Sidecar, exchange, free};

/// An application that does the same with every request.
struct Application {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Application {
    /// It answers with `answer`, or nothing at all when that is empty.
    fn start(answer: &'static str) -> Self {
        Self::start_when(answer, |_| {})
    }

    /// It answers when `may` returns, which is told how many requests there have been.
    fn start_when(answer: &'static str, may: impl Fn(usize) + Send + Sync + 'static) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let address = socket.local_addr().expect("a bound socket has an address");
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let may = Arc::new(may);
        std::thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                let (counted, may) = (Arc::clone(&counted), Arc::clone(&may));
                std::thread::spawn(move || converse(stream, answer, &counted, &*may));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn converse(mut stream: TcpStream, answer: &str, requests: &AtomicUsize, may: &impl Fn(usize)) {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(n) => head.extend_from_slice(&piece[..n]),
        }
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            may(requests.fetch_add(1, Ordering::SeqCst) + 1);
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

const NOT_NOW: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A sidecar in front of these applications; `fields` are the cluster's.
fn sidecar(applications: &[&Application], fields: &str) -> Sidecar {
    let listener = free([127, 0, 0, 1]);
    let endpoint = |one: &&Application| format!("{{ address = \"{}\" }}", one.address);
    let endpoints: Vec<_> = applications.iter().map(endpoint).collect();
    let text = format!(
        "[[listener]]\nname = \"in\"\ndirection = \"egress\"\naddress = \"{listener}\"\nprotocol = \"http\"\ncluster = \"app\"\n\
         [[cluster]]\nname = \"app\"\nprotocol = \"http\"\nendpoints = [{}]\n{fields}\n",
        endpoints.join(", ")
    );
    Sidecar::start_on(listener, &text, |_| {})
}

fn ask(sidecar: &Sidecar, method: &str) -> String {
    let request = format!("{method} / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n");
    let answer = exchange(sidecar.listener, &request);
    answer.lines().next().unwrap_or_default().to_owned()
}

const ANSWERED: &str = "HTTP/1.1 200 OK";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable";

#[test]
fn a_get_that_a_task_leaves_unanswered_is_hedged_and_the_first_answer_counts() {
    let (mute, fine) = (Application::start(""), Application::start(OK));
    let sidecar = sidecar(&[&mute, &fine], "retry = { hedge_after = \"20ms\" }");
    for _ in 0..30 {
        assert_eq!(ask(&sidecar, "GET"), ANSWERED);
    }
    let (lost, answered) = (mute.requests(), fine.requests());
    assert!(lost > 0, "of 30 first choices none was the mute task");
    assert_eq!(answered, 30);
    assert_eq!(
        sidecar.metric("outrigger_retries_total", &[]) as usize,
        lost
    );
}

/// The slow task answers once the other one has been asked as often.
#[test]
fn an_answer_that_would_be_tried_again_does_not_end_a_hedge() {
    let failing = Application::start(NOT_NOW);
    let asked = Arc::clone(&failing.requests);
    let slow = Application::start_when(OK, move |requests| {
        while asked.load(Ordering::SeqCst) < requests {
            std::thread::yield_now();
        }
    });
    let fields = "retry = { hedge_after = \"20ms\" }\noutlier_detection = false";
    let sidecar = sidecar(&[&slow, &failing], fields);
    for _ in 0..30 {
        assert_eq!(ask(&sidecar, "GET"), ANSWERED);
    }
    assert_eq!(slow.requests(), 30);
}

#[test]
fn a_caller_without_patience_says_nothing_of_the_tasks() {
    let (one, two) = (Application::start(""), Application::start(""));
    let sidecar = sidecar(&[&one, &two], "retry = { num_retries = 0 }");
    let hasty = "GET / HTTP/1.1\r\nhost: app\r\ngrpc-timeout: 1m\r\nconnection: close\r\n\r\n";
    for _ in 0..20 {
        let answer = exchange(sidecar.listener, hasty);
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    }
    assert_eq!(sidecar.metric("outrigger_ejections_total", &[]), 0);
}

#[test]
fn an_attempt_that_takes_too_long_is_made_elsewhere_and_a_post_is_not() {
    let (mute, fine) = (Application::start(""), Application::start(OK));
    let fields = "retry = { per_try_timeout = \"50ms\" }\noutlier_detection = false";
    let both = sidecar(&[&mute, &fine], fields);
    for _ in 0..20 {
        assert_eq!(ask(&both, "GET"), ANSWERED);
    }
    assert!(
        mute.requests() > 0,
        "of 20 first choices none was the mute task"
    );
    let alone = Application::start("");
    let only = sidecar(&[&alone], fields);
    assert_eq!(ask(&only, "POST"), "HTTP/1.1 504 Gateway Timeout");
    assert_eq!(
        alone.requests(),
        1,
        "a POST of unknown fate is not repeated"
    );
    assert_eq!(ask(&only, "GET"), "HTTP/1.1 504 Gateway Timeout");
    assert_eq!(
        alone.requests(),
        4,
        "two retries follow a GET's first attempt"
    );
}

#[test]
fn a_wait_that_a_service_asks_for_is_kept_or_its_answer_passed_on() {
    for (answer, attempts) in [
        (
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            3,
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n",
            3,
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n",
            1,
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\ngrpc-retry-pushback-ms: -1\r\ncontent-length: 0\r\n\r\n",
            1,
        ),
    ] {
        let application = Application::start(answer);
        let sidecar = sidecar(&[&application], "");
        assert_eq!(ask(&sidecar, "GET"), UNAVAILABLE);
        assert_eq!(application.requests(), attempts, "{answer}");
        assert_eq!(ask(&sidecar, "POST"), UNAVAILABLE);
        assert_eq!(
            application.requests(),
            attempts + 1,
            "a POST's answer is passed on"
        );
    }
}

#[test]
fn retries_are_switched_off_for_one_service() {
    let application =
        Application::start("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    let sidecar = sidecar(&[&application], "retry = { num_retries = 0 }");
    assert_eq!(ask(&sidecar, "GET"), UNAVAILABLE);
    assert_eq!(application.requests(), 1);
}

/// What lies on the one task when it dies is more than the budget allows to be tried again.
#[test]
fn retries_beyond_the_budget_are_not_made_and_counted() {
    let application =
        Application::start("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    let fields = "circuit_breakers = { min_retry_concurrency = 0, retry_budget_percent = 0 }";
    let sidecar = sidecar(&[&application], fields);
    assert_eq!(ask(&sidecar, "GET"), UNAVAILABLE);
    assert_eq!(application.requests(), 1);
    assert_eq!(
        sidecar.metric("outrigger_overflow_total", &["breaker=\"retries\""]),
        1
    );
}

/// One retry at a time is enough for a second one after the first.
#[test]
fn a_second_retry_takes_the_place_of_the_first_in_the_budget() {
    let dead = || Application {
        address: free([127, 0, 0, 1]),
        requests: Arc::default(),
    };
    let fine = Application::start(OK);
    let fields = "circuit_breakers = { min_retry_concurrency = 1, retry_budget_percent = 0 }\n\
                  outlier_detection = false";
    let sidecar = sidecar(&[&dead(), &dead(), &fine], fields);
    for _ in 0..30 {
        assert_eq!(ask(&sidecar, "GET"), ANSWERED);
    }
}
