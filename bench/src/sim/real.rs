//! The same scenario with real processes: a sidecar, an application for every task, and the timeline as signals to them.
//!
//! Without a deployment the sidecar runs on a static file and calls the applications directly. A deployment needs registration and
//! acknowledged drains, so there each task has a sidecar of its own, and a control server tells the caller's.

mod direct;
mod mesh;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use http::{Method, Request};
use tokio::process::Command;

use super::scenario::{self, Scenario, Step, TaskSpec, What};
use super::tally::{Figures, percent, ratio};
use crate::fleet::{Binaries, Process, call};
use crate::ledger::{Audit, Entries};
use crate::load::{Arrivals, Load, Plan, Record};
use direct::Direct;
use mesh::Mesh;

/// For processes to start and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// More would measure the load generator and not the policy.
const MAX_RATE: u32 = 2000;
/// Connections of each kind of request.
const CONNECTIONS: usize = 256;

/// Where callers dial, and what is asked afterwards.
struct Called {
    address: SocketAddr,
    authority: String,
    admin: SocketAddr,
    ledger: PathBuf,
}

/// Runs a scenario, already scaled, with real processes. Also gives its steps with the times at which they were really taken: a busy
/// machine is late.
pub(super) async fn run(
    scenario: &Scenario,
    binaries: Binaries,
) -> anyhow::Result<(Figures, Vec<Step>)> {
    if scenario.rate > MAX_RATE {
        bail!(
            "rate = {}: real processes get at most {MAX_RATE}",
            scenario.rate
        );
    }
    let deploys: Vec<_> = scenario
        .steps
        .iter()
        .map(|step| matches!(step.what, What::Deploy(_)))
        .collect();
    if deploys.contains(&true) && deploys.contains(&false) {
        bail!("event: with real processes a deployment goes alone");
    }
    if deploys.contains(&true) {
        let mut mesh = Mesh::start(scenario, binaries).await?;
        let called = mesh.called()?;
        let loads = Loads::start(scenario, &called);
        mesh.play(scenario, &loads).await?;
        Ok((figures(loads, &called).await?, scenario.steps.clone()))
    } else {
        let mut direct = Direct::start(scenario, binaries).await?;
        let called = direct.called();
        let steps = direct.prepare(&scenario.steps).await?;
        let loads = Loads::start(scenario, &called);
        let steps = direct.play(scenario, steps).await?;
        Ok((figures(loads, &called).await?, steps))
    }
}

/// The requests, of both kinds.
struct Loads {
    gets: Load,
    posts: Load,
}

impl Loads {
    fn start(scenario: &Scenario, called: &Called) -> Self {
        let share = scenario.non_idempotent;
        Self {
            gets: load(scenario, called, Method::GET, 1.0 - share),
            posts: load(scenario, called, Method::POST, share),
        }
    }

    fn heard_from(&self, task: &str) -> bool {
        self.gets.heard_from(task) || self.posts.heard_from(task)
    }

    async fn finished(self) -> (Record, Record) {
        tokio::join!(self.gets.finished(), self.posts.finished())
    }
}

fn load(scenario: &Scenario, called: &Called, method: Method, share: f64) -> Load {
    let post = method == Method::POST;
    let rate = (f64::from(scenario.rate) * share).round() as u32;
    Load::start(Plan {
        body: if post {
            Bytes::from_static(b"order")
        } else {
            Bytes::new()
        },
        method,
        rate: Some(rate.max(1)),
        requests: (rate == 0).then_some(0),
        arrivals: match scenario.arrivals {
            scenario::Arrivals::Poisson => Arrivals::Poisson,
            scenario::Arrivals::Uniform => Arrivals::Uniform,
        },
        seed: scenario.seed.wrapping_mul(2).wrapping_add(u64::from(post)),
        connections: CONNECTIONS,
        duration: Some(scenario.duration),
        ids: Some(prefix(post).to_owned()),
        ..Plan::new(called.address, called.authority.clone())
    })
}

const fn prefix(post: bool) -> &'static str {
    if post { "post" } else { "get" }
}

/// Waits for the last answer, and puts together what clients, tasks and the sidecar have seen.
async fn figures(loads: Loads, called: &Called) -> anyhow::Result<Figures> {
    let (gets, posts) = loads.finished().await;
    let (_, metrics) = call(called.admin, Request::get("/metrics"), String::new()).await?;
    let entries = Entries::read(&called.ledger)?;
    let posts_alone = Audit::of(&posts, &entries, prefix(true));
    let mut audit = Audit::of(&gets, &entries, prefix(false));
    audit.add(&posts_alone);
    let mut both = gets;
    both.merge(&posts);
    let refused = sum(&metrics, "outrigger_errors_total", r#"kind="Overflow""#);
    let retries = sum(&metrics, "outrigger_retries_total", "");
    Ok(Figures {
        requests: audit.sent,
        answered: audit.answered,
        success_percent: percent(audit.answered, audit.sent),
        lost: audit.failed.saturating_sub(refused),
        unknown: audit.unknown,
        refused,
        duplicates: posts_alone.duplicated,
        attempts_per_request: ratio(audit.sent - refused + retries, audit.sent),
        p50_ms: both.latency_ms(0.5),
        p99_ms: both.latency_ms(0.99),
        max_ms: both.latency_ms(1.0),
        ejections: sum(&metrics, "outrigger_ejections_total", ""),
        why_lost: why_lost(&audit.statuses, &metrics),
    })
}

/// By status, and what the caller's sidecar calls its own answers.
fn why_lost(statuses: &BTreeMap<u16, u64>, metrics: &str) -> BTreeMap<String, u64> {
    let word = |status: &u16| match status {
        0 => "no answer".to_owned(),
        status => format!("answered {status}"),
    };
    let statuses = statuses
        .iter()
        .map(|(status, count)| (word(status), *count));
    let own = metrics.lines().filter_map(|line| {
        let (labels, count) = line
            .strip_prefix("outrigger_errors_total")?
            .rsplit_once(' ')?;
        let (_, kind) = labels.split_once("kind=\"")?;
        let (kind, _) = kind.split_once('"')?;
        Some((format!("of those {kind}"), count.parse().ok()?))
    });
    statuses.chain(own).collect()
}

/// The sum of a family's counters whose labels contain a text.
fn sum(metrics: &str, family: &str, label: &str) -> u64 {
    let of_family = |line: &&str| {
        let rest = line.strip_prefix(family);
        rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
    };
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    metrics
        .lines()
        .filter(of_family)
        .filter_map(value)
        .sum::<f64>() as u64
}

/// Starts the application of a task; port 0 is any free one.
async fn application(
    binaries: &Binaries,
    folder: &Path,
    (name, listen): (&str, SocketAddr),
    spec: &TaskSpec,
    seed: u64,
) -> anyhow::Result<(Process, SocketAddr)> {
    let mut command = Command::new(&binaries.bench);
    command.args([
        "application",
        "--name",
        name,
        "--listen",
        &listen.to_string(),
    ]);
    command.arg("--ledger").arg(folder.join("ledger"));
    command.args(["--service-time", &spec.service_time.to_string()]);
    command.args(["--concurrency", &spec.concurrency.to_string()]);
    command.args([
        "--queue",
        &spec.queue.to_string(),
        "--seed",
        &seed.to_string(),
    ]);
    let process = Process::spawn(name, command, folder)?;
    let address = process.listening("application", PATIENCE).await?;
    Ok((process, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_summed_by_label_and_none_with_a_longer_name() {
        let text = "# TYPE outrigger_errors counter\n\
            outrigger_errors_total{flag=\"UO\",kind=\"Overflow\"} 3\n\
            outrigger_errors_total{flag=\"UF\",kind=\"ConnectFailed\"} 4\n\
            outrigger_errors_totals{kind=\"Overflow\"} 100\n";
        assert_eq!(sum(text, "outrigger_errors_total", r#"kind="Overflow""#), 3);
        assert_eq!(sum(text, "outrigger_errors_total", ""), 7);
        assert_eq!(sum(text, "outrigger_retries_total", ""), 0);
    }
}
