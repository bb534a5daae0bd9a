//! Drains gated on acknowledgements: who has not answered is named and bounded, the others lose nothing; and without each safeguard
//! something is lost.

mod common;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use common::*;
use outrigger_bench::fleet::{Fleet, Process, Sidecar, address, wait_for};
use outrigger_bench::ledger::{Audit, Entries};
use outrigger_bench::load::{Load, Plan, Record};
use rustix::process::Signal;
use tokio::process::Command;

/// Each of these has the two cores of a small machine for itself: a client that is merely slow would be named, too.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Tasks at any time, and one more while one is replaced.
const TASKS: u8 = 2;
/// Applications, one of which every new sidecar is put beside.
const PLACES: u8 = TASKS + 1;

/// A service whose sidecars are replaced while their applications live on and write every request down.
struct Rolling {
    sidecars: VecDeque<Sidecar>,
    client: Sidecar,
    address: SocketAddr,
    port: u16,
    first: u8,
    started: u32,
    apps: Vec<(Process, SocketAddr)>,
    ledger: PathBuf,
    fleet: Fleet,
}

impl Rolling {
    /// The safeguards that the client's and the tasks' sidecars go without.
    async fn start(first: u8, [client_s, tasks]: [Option<&str>; 2]) -> anyhow::Result<Self> {
        let mut fleet = fleet().await?;
        let port = free_port()?;
        let ledger = fleet.folder().join("ledger");
        let mut apps = Vec::new();
        for place in 0..PLACES {
            apps.push(recording(&fleet, &ledger, first + 1 + place).await?);
        }
        fleet.mutant = client_s.map(str::to_owned);
        let client = Beside::new(&fleet, "client", first).start(&fleet).await?;
        fleet.mutant = tasks.map(str::to_owned);
        let mut rolling = Self {
            sidecars: VecDeque::new(),
            client,
            address: ([0, 0, 0, 0], 0).into(),
            port,
            first,
            started: 0,
            apps,
            ledger,
            fleet,
        };
        for _ in 0..TASKS {
            rolling.add().await?;
        }
        rolling.address = dial(&rolling.client, "orders", port).await?;
        Ok(rolling)
    }

    /// One more task, until the client offers it.
    async fn add(&mut self) -> anyhow::Result<()> {
        self.started += 1;
        let place = usize::try_from(self.started)? % self.apps.len();
        let number = self.first + 1 + u8::try_from(place)?;
        let id = format!("orders-{}", self.started);
        let sidecar = beside(&self.fleet, &id, number, self.apps[place].1, self.port).await?;
        offered(&self.client, &id).await?;
        self.sidecars.push_back(sidecar);
        Ok(())
    }

    /// Replaces the oldest task's sidecar; answers what the old one said at its end.
    async fn replace(&mut self) -> anyhow::Result<String> {
        self.add().await?;
        let oldest = self.sidecars.pop_front().context("there are tasks")?;
        end(oldest).await
    }

    fn plan(&self) -> Plan {
        orders(self.address, self.port, "order")
    }

    fn audit(&self, record: &Record) -> anyhow::Result<Audit> {
        let entries = Entries::read(&self.ledger)?;
        Ok(Audit::of(record, &entries, "order"))
    }
}

/// An application that writes every request's id to the ledger before it answers.
async fn recording(
    fleet: &Fleet,
    ledger: &PathBuf,
    number: u8,
) -> anyhow::Result<(Process, SocketAddr)> {
    let name = format!("app-{number}");
    let mut command = Command::new(&fleet.binaries.bench);
    let listen = SocketAddr::new(address(number), 0).to_string();
    command.args(["origin", "--name", &name, "--listen", &listen]);
    command.arg("--ledger").arg(ledger);
    let process = Process::spawn(&name, command, fleet.folder())?;
    let address = process.listening("origin", PATIENCE).await?;
    Ok((process, address))
}

/// A sidecar of the service `orders` beside an application.
async fn beside(
    fleet: &Fleet,
    id: &str,
    number: u8,
    app: SocketAddr,
    port: u16,
) -> anyhow::Result<Sidecar> {
    let document = orders_document(app.port(), port);
    Sidecar::start(fleet, id, number, [127, number], &document).await
}

/// Waits until a client's sidecar offers the instance.
async fn offered(client: &Sidecar, id: &str) -> anyhow::Result<()> {
    let what = format!("{id} among the endpoints of {}", client.process.name());
    let known = wait_for(&what, PATIENCE, || async {
        let clusters = json_page(client.admin, "/clusters").await?;
        let endpoints = clusters[0]["endpoints"].as_array().context("endpoints")?;
        let known = endpoints
            .iter()
            .any(|one| one["instance"] == id && one["health"] == "healthy");
        Ok(known.then_some(()))
    });
    with_log(known.await, client)
}

/// SIGTERM, and the line about what the drain waited for.
async fn end(mut sidecar: Sidecar) -> anyhow::Result<String> {
    sidecar.process.terminate()?;
    let status = sidecar.process.ended(PATIENCE).await?;
    let log = sidecar.process.log_tail();
    ensure!(status.success(), "{status}:\n{log}");
    let line = log.lines().find(|line| line.contains("drained: "));
    let line = line.with_context(|| format!("no line about the drain:\n{log}"))?;
    let said = line
        .split_once("drained: ")
        .map(|(_, said)| said.to_owned());
    said.context("it was found by that")
}

/// POSTs as one millisecond apart as this machine can, on connections that are kept.
fn orders(address: SocketAddr, port: u16, ids: &str) -> Plan {
    Plan {
        method: http::Method::POST,
        path: "/echo".to_owned(),
        body: Bytes::from_static(b"order"),
        connections: 8,
        rate: Some(1000),
        ids: Some(ids.to_owned()),
        ..Plan::new(address, format!("orders:{port}"))
    }
}

fn nothing_lost(audit: &Audit) -> anyhow::Result<()> {
    ensure!(audit.sent > 0, "nothing was sent");
    for (what, count) in [
        ("failed", audit.failed),
        ("duplicated", audit.duplicated),
        ("unrecorded", audit.unrecorded),
        ("phantom", audit.phantom),
    ] {
        ensure!(
            count == 0,
            "{count} {what}: {}: {audit:?}",
            audit.failures()
        );
    }
    ensure!(audit.deliveries == audit.sent, "{audit:?}");
    Ok(())
}

/// How many drains of a mutant are watched for the loss it must cause.
const MUTANT_DRAINS: u32 = 300;

const DRAINS: u32 = 100;

/// A fifth of it is enough when nothing else runs.
async fn within(test: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let longest = Duration::from_secs(300);
    tokio::time::timeout(longest, test)
        .await
        .with_context(|| format!("the test still runs after {longest:?}"))?
}

async fn posts_through_drains(
    rolling: &mut Rolling,
    plan: Plan,
    drains: u32,
) -> anyhow::Result<()> {
    let load = Load::start(plan);
    for _ in 0..drains {
        let said = rolling.replace().await?;
        // The client and the other tasks of that moment.
        let all = ["2/2 acknowledged", "3/3 acknowledged"];
        ensure!(all.iter().any(|one| said.starts_with(one)), "{said}");
    }
    let audit = rolling.audit(&load.stop().await)?;
    with_log(nothing_lost(&audit), &rolling.client)
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_one_millisecond_apart_are_neither_lost_nor_duplicated_through_a_hundred_drains()
-> anyhow::Result<()> {
    let _turn = TURN.lock().await;
    let mut rolling = Rolling::start(60, [None, None]).await?;
    let plan = rolling.plan();
    within(posts_through_drains(&mut rolling, plan, DRAINS)).await
}

/// As fast as answers come, on more connections: at every moment a request is on its way.
fn at_full_speed(rolling: &Rolling) -> Plan {
    Plan {
        rate: None,
        connections: 32,
        ..rolling.plan()
    }
}

/// What an egress that speaks plain HTTP leans on: by the hop, what arrives at a sidecar that has left is known to be undelivered, and
/// nothing would be lost without acknowledgements either.
#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_alone_lose_no_post_either() -> anyhow::Result<()> {
    let _turn = TURN.lock().await;
    let mut rolling = Rolling::start(72, [Some("plain-hop"), None]).await?;
    let plan = at_full_speed(&rolling);
    within(posts_through_drains(&mut rolling, plan, DRAINS / 4)).await
}

/// The same with a safeguard left out, until a request fails.
#[cfg(debug_assertions)]
async fn fails_without(first: u8, mutant: &str) -> anyhow::Result<()> {
    let mut rolling = Rolling::start(first, [Some("plain-hop"), Some(mutant)]).await?;
    let load = Load::start(at_full_speed(&rolling));
    for drained in 1..=MUTANT_DRAINS {
        rolling.replace().await?;
        if load.snapshot().failed > 0 {
            println!("{mutant}: red after {drained} drains");
            return Ok(());
        }
    }
    let audit = rolling.audit(&load.stop().await)?;
    anyhow::bail!("without {mutant} nothing is lost in {MUTANT_DRAINS} drains: {audit:?}")
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_does_not_wait_for_acknowledgements_loses_posts() -> anyhow::Result<()> {
    let _turn = TURN.lock().await;
    within(fails_without(66, "skip-acknowledgements")).await
}

/// Fourteen clients, one of them stopped in the middle of its requests.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_answer_is_named_and_the_others_lose_nothing() -> anyhow::Result<()>
{
    const CLIENTS: usize = 14;
    const STOPPED: usize = 6;
    let _turn = TURN.lock().await;
    bounded(async {
        let fleet = fleet().await?;
        let (port, ledger) = (free_port()?, fleet.folder().join("ledger"));
        let mut apps = Vec::new();
        let mut tasks = VecDeque::new();
        for number in [80, 81] {
            let (app, address) = recording(&fleet, &ledger, number).await?;
            let id = format!("orders-{number}");
            tasks.push_back(beside(&fleet, &id, number, address, port).await?);
            apps.push(app);
        }
        let names: Vec<_> = (0..CLIENTS)
            .map(|client| format!("client-{client}"))
            .collect();
        let (mut clients, mut loads) = (Vec::new(), Vec::new());
        for (name, number) in names.iter().zip(82..) {
            let client = Beside::new(&fleet, name, number).start(&fleet).await?;
            let address = dial(&client, "orders", port).await?;
            offered(&client, "orders-80").await?;
            offered(&client, "orders-81").await?;
            loads.push(Load::start(Plan {
                connections: 2,
                rate: Some(20),
                ..orders(address, port, name)
            }));
            clients.push(client);
        }
        wait_for("every client to be answered by both", PATIENCE, || async {
            let both = |load: &Load| load.snapshot().by_task.len() == 2;
            Ok(loads.iter().all(both).then_some(()))
        })
        .await?;
        clients[STOPPED].process.signal(Signal::STOP)?;
        let leaver = tasks.pop_front().context("there are two")?;
        let said = end(leaver).await?;
        let expected = format!("14/15 acknowledged without {}, ", names[STOPPED]);
        ensure!(said.starts_with(&expected), "{said}");
        clients[STOPPED].process.signal(Signal::CONT)?;
        let stopped = &loads[STOPPED];
        let before = stopped.sent();
        wait_for("the stopped client to go on", PATIENCE, || async {
            Ok((stopped.sent() > before + 20).then_some(()))
        })
        .await?;
        for ((load, name), client) in loads.into_iter().zip(&names).zip(&clients) {
            let record = load.stop().await;
            let audit = Audit::of(&record, &Entries::read(&ledger)?, name);
            with_log(nothing_lost(&audit), client)?;
        }
        Ok(())
    })
    .await
}
