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
use crate::common::{Sidecar, free, hop_table};

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
    let (listeners, tasks, hops) = (addresses(65), addresses(66), addresses(64));
    let sidecar = (!arguments.list)
        .then(|| Arc::new((start(&cases, &tasks, &listeners, &hops), Metrics::new())));
    let trials = cases.into_iter().zip(tasks).zip(listeners).enumerate();
    let trials = trials.map(|(at, (((name, way, case), task), listener))| {
        let sidecar = sidecar.clone();
        Trial::test(name, move || {
            let sidecar = sidecar.ok_or("nothing runs while cases are listed")?;
            let (sidecar, metrics) = &*sidecar;
            let counted = Counted {
                sidecar,
                metrics,
                name: match case {
                    // Where a task's fault is seen; one that was made good is none to the client's side.
                    Case::Response(case) if way == "hop" && !case.is_repeated() => hop_name(at),
                    _ => listener_name(at),
                },
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
    let ways = ["egress", "ingress", "hop"];
    requests
        .chain(responses)
        .flat_map(|(name, case)| ways.map(|way| (format!("{name} {way}"), way, case)))
        .filter(|(name, ..)| !NOT_BY_HOP.iter().any(|case| name.contains(case)))
        .collect()
}

/// What a second hop changes by right: the address that stands in for a Host, and where chunks are cut. And HTTP/2's reset overtakes
/// the last bytes of a response that breaks off.
const NOT_BY_HOP: [&str; 4] = [
    "chunk-longer-than-its-size-after-the-head [RFC 9112 7.1] hop",
    "missing-in-http-1-0 [RFC 9112 3.2] hop",
    "request/chunked/two-chunks [RFC 9112 7.1] hop",
    "response/body/chunked [RFC 9112 7.1] hop",
];

/// Addresses of one port in one network that differ in their last two numbers.
fn address(net: u8, at: usize, port: u16) -> SocketAddr {
    let [high, low] = [at / 250, 1 + at % 250].map(|number| u8::try_from(number).expect("few"));
    SocketAddr::from(([127, net, high, low], port))
}

fn hop_name(at: usize) -> String {
    format!("hop-{at}")
}

fn listener_name(at: usize) -> String {
    format!("case-{at}")
}

/// No ejections, and retries only where a case is about them: each sees just what its task sent.
fn start(
    cases: &[(String, &'static str, Case)],
    tasks: &[SocketAddr],
    listeners: &[SocketAddr],
    hops: &[SocketAddr],
) -> Sidecar {
    let mut text = String::new();
    for (at, (((_, way, case), task), listener)) in
        cases.iter().zip(tasks).zip(listeners).enumerate()
    {
        let name = listener_name(at);
        let (mut task, mut direction, mut table) = (task, *way, String::new());
        if direction == "hop" {
            // One sidecar is both: from its egress to its own ingress, as if that were another's.
            direction = "egress";
            table = hop_table("task");
            let (hop, own) = (&hops[at], hop_name(at));
            let written = write!(
                text,
                "[[listener]]\nname = \"{own}\"\ndirection = \"ingress\"\naddress = \"{hop}\"\n\
                 protocol = \"http\"\ncluster = \"{own}\"\n{table}\n\
                 [[cluster]]\nname = \"{own}\"\nprotocol = \"http\"\noutlier_detection = false\n\
                 endpoints = [{{ address = \"{task}\" }}]\n"
            );
            written.expect("a String takes everything");
            (task, table) = (hop, format!(", {table}"));
        }
        let retries = match case {
            Case::Request(_) => 0,
            Case::Response(case) => case.retries,
        };
        let written = write!(
            text,
            "[[listener]]\nname = \"{name}\"\ndirection = \"{direction}\"\naddress = \"{listener}\"\n\
             protocol = \"http\"\ncluster = \"{name}\"\n\
             [[cluster]]\nname = \"{name}\"\nprotocol = \"http\"\nretries = {retries}\noutlier_detection = false\n\
             endpoints = [{{ address = \"{task}\"{table} }}]\n"
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
