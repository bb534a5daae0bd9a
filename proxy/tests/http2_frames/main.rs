//! HTTP/2 frame by frame: a raw client against the sidecar's listener, and the sidecar against a raw endpoint. A line for each case, with
//! the section that decides it and, where the public h2spec has the same case, that one's number.

mod accepted;
mod endpoint;
mod floods;
mod header_blocks;
mod leaving;
mod messages;
mod server;
mod verdict;
mod wire;
mod world;

use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use crate::world::{Stage, World};

/// What a case does.
enum Run {
    /// Plays a client.
    Client(fn(&World)),
    /// Plays an endpoint.
    Endpoint(fn(&World, &Stage)),
}

/// One case.
pub(crate) struct Case {
    name: &'static str,
    /// The section that decides it.
    section: &'static str,
    /// The same case's number in h2spec, or nothing.
    h2spec: &'static str,
    run: Run,
}

pub(crate) const fn client(
    name: &'static str,
    section: &'static str,
    h2spec: &'static str,
    run: fn(&World),
) -> Case {
    let run = Run::Client(run);
    Case {
        name,
        section,
        h2spec,
        run,
    }
}

pub(crate) const fn endpoint(
    name: &'static str,
    section: &'static str,
    run: fn(&World, &Stage),
) -> Case {
    Case {
        name,
        section,
        h2spec: "",
        run: Run::Endpoint(run),
    }
}

fn main() {
    let arguments = Arguments::from_args();
    let cases = [
        accepted::CASES,
        server::CASES,
        messages::CASES,
        header_blocks::CASES,
        endpoint::CASES,
        floods::CASES,
        leaving::CASES,
    ];
    let cases: Vec<&'static Case> = cases.into_iter().flatten().collect();
    let stages = cases
        .iter()
        .filter(|case| matches!(case.run, Run::Endpoint(_)));
    let world = if arguments.list {
        None
    } else {
        Some(Arc::new(World::start("egress", stages.count())))
    };
    let trials = cases.into_iter().map(|case| {
        let side = match case.run {
            Run::Client(_) => "server",
            Run::Endpoint(_) => "client",
        };
        let mut name = format!("{side}/{} [{}]", case.name, case.section);
        if !case.h2spec.is_empty() {
            name += &format!(" [h2spec {}]", case.h2spec);
        }
        let world = world.clone();
        Trial::test(name, move || {
            let Some(world) = world else { return Ok(()) };
            match case.run {
                Run::Client(run) => run(&world),
                Run::Endpoint(run) => run(&world, &world.stage()),
            }
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // `exit` runs no destructors: the sidecar is ended here.
    drop(world);
    conclusion.exit();
}
