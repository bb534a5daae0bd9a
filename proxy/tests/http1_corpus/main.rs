//! Raw HTTP/1.1 against a real sidecar, request and response side: one line of output for each case, and each case by an egress
//! listener and by an ingress one.
//!
//! Every case has a listener, a cluster and an application of its own in the one sidecar process, so cases run beside each other and
//! what a task received, and what was counted, is that case's alone.

mod application;
mod cases;
mod client;
#[expect(dead_code, reason = "not every test binary needs every helper")]
#[path = "../data_plane/common.rs"]
mod common;
mod requests;
mod responses;

use std::fmt::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::cases::{Request, Response};
use crate::client::{Counted, Metrics, Place};
use crate::common::{Sidecar, free};

/// One case of either side.
#[derive(Clone, Copy)]
enum Case {
    Request(&'static Request),
    Response(&'static Response),
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Cases wait for sockets, not for the processor.
    arguments.test_threads.get_or_insert(64);
    let cases = cases();
    let places: Vec<_> = cases.iter().map(|_| place()).collect();
    let mut names = std::collections::HashSet::new();
    assert!(
        cases.iter().all(|(name, ..)| names.insert(name)),
        "two cases have one name"
    );
    let port = free([127, 65, 0, 1]).port();
    let listeners: Vec<_> = (0..cases.len()).map(|at| address(at, port)).collect();
    let sidecar =
        (!arguments.list).then(|| Arc::new((start(&cases, &places, &listeners), Metrics::new())));
    let trials = cases.into_iter().zip(places).zip(listeners).enumerate();
    let trials = trials.map(|(at, (((name, _, case), application), listener))| {
        let sidecar = sidecar.clone();
        Trial::test(name, move || {
            let sidecar = sidecar.ok_or("nothing runs while cases are listed")?;
            let (sidecar, metrics) = &*sidecar;
            let counted = Counted {
                sidecar,
                metrics,
                name: listener_name(at),
            };
            let place = Place {
                counted,
                listener,
                application,
            };
            let run = match case {
                Case::Request(case) => client::request(case, place),
                Case::Response(case) => client::response(case, place),
            };
            run.map_err(Failed::from)
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Every case in both directions: its line in the output, the direction, and what it is.
fn cases() -> Vec<(String, &'static str, Case)> {
    let requests = requests::ALL.iter().flat_map(|(subject, cases)| {
        let of = move |case: &'static Request| {
            let name = format!("request/{subject}/{} [{}]", case.name, case.source);
            (name, Case::Request(case))
        };
        cases.iter().map(of)
    });
    let responses = responses::ALL.iter().flat_map(|(subject, cases)| {
        let of = move |case: &'static Response| {
            let name = format!("response/{subject}/{} [{}]", case.name, case.source);
            (name, Case::Response(case))
        };
        cases.iter().map(of)
    });
    let both = ["egress", "ingress"];
    requests
        .chain(responses)
        .flat_map(|(name, case)| both.map(|way| (format!("{name} {way}"), way, case)))
        .collect()
}

fn place() -> TcpListener {
    TcpListener::bind(SocketAddr::from(([127, 66, 0, 1], 0))).expect("loopback can be bound")
}

/// Addresses of one port that differ in their last two numbers.
fn address(at: usize, port: u16) -> SocketAddr {
    let [high, low] = [at / 250, 1 + at % 250].map(|number| u8::try_from(number).expect("few"));
    SocketAddr::from(([127, 65, high, low], port))
}

fn listener_name(at: usize) -> String {
    format!("case-{at}")
}

/// No retries and no ejections: each case sees just what its task sent.
fn start(
    cases: &[(String, &'static str, Case)],
    places: &[TcpListener],
    listeners: &[SocketAddr],
) -> Sidecar {
    let mut text = String::new();
    for (at, (((_, direction, _), place), listener)) in
        cases.iter().zip(places).zip(listeners).enumerate()
    {
        let name = listener_name(at);
        let task = place.local_addr().expect("a bound socket has an address");
        let written = write!(
            text,
            "[[listener]]\nname = \"{name}\"\ndirection = \"{direction}\"\naddress = \"{listener}\"\n\
             protocol = \"http\"\ncluster = \"{name}\"\n\
             [[cluster]]\nname = \"{name}\"\nprotocol = \"http\"\nretries = 0\noutlier_detection = false\n\
             endpoints = [{{ address = \"{task}\" }}]\n"
        );
        written.expect("a String takes everything");
    }
    Sidecar::start_on(listeners[0], &text, |command| {
        // A line for each listener would hide those of the cases.
        command
            .args(["--workers", "1"])
            .env("OUTRIGGER_LOG", "error");
    })
}
