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
use std::net::SocketAddr;
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
    let mut names = std::collections::HashSet::new();
    assert!(
        cases.iter().all(|(name, ..)| names.insert(name)),
        "two cases have one name"
    );
    let addresses = |net| {
        let port = free([127, net, 0, 1]).port();
        let at = move |at| address(net, at, port);
        (0..cases.len()).map(at).collect::<Vec<_>>()
    };
    let (listeners, tasks) = (addresses(65), addresses(66));
    let sidecar =
        (!arguments.list).then(|| Arc::new((start(&cases, &tasks, &listeners), Metrics::new())));
    let trials = cases.into_iter().zip(tasks).zip(listeners).enumerate();
    let trials = trials.map(|(at, (((name, _, case), task), listener))| {
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
                task,
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

/// Addresses of one port in one network that differ in their last two numbers.
fn address(net: u8, at: usize, port: u16) -> SocketAddr {
    let [high, low] = [at / 250, 1 + at % 250].map(|number| u8::try_from(number).expect("few"));
    SocketAddr::from(([127, net, high, low], port))
}

fn listener_name(at: usize) -> String {
    format!("case-{at}")
}

/// No ejections, and retries only where a case is about them: each sees just what its task sent.
fn start(
    cases: &[(String, &'static str, Case)],
    tasks: &[SocketAddr],
    listeners: &[SocketAddr],
) -> Sidecar {
    let mut text = String::new();
    for (at, (((_, direction, case), task), listener)) in
        cases.iter().zip(tasks).zip(listeners).enumerate()
    {
        let name = listener_name(at);
        let retries = match case {
            Case::Request(_) => 0,
            Case::Response(case) => case.retries,
        };
        let written = write!(
            text,
            "[[listener]]\nname = \"{name}\"\ndirection = \"{direction}\"\naddress = \"{listener}\"\n\
             protocol = \"http\"\ncluster = \"{name}\"\n\
             [[cluster]]\nname = \"{name}\"\nprotocol = \"http\"\nretries = {retries}\noutlier_detection = false\n\
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
