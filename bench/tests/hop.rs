//! A task dies, and its address and port are another service's before anybody has heard of it: that one never answers for it.

mod common;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, bail, ensure};
use common::*;
use outrigger_bench::fleet::{Fleet, Process, Sidecar, call, wait_for};
use outrigger_bench::load::{Load, Plan};
use rustix::process::Signal;

/// Both tests need the same addresses.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A task of the service `orders`.
async fn task(
    fleet: &Fleet,
    id: &str,
    number: u8,
    alias: u16,
) -> anyhow::Result<(Process, Sidecar)> {
    let mut beside = Beside::new(fleet, id, number);
    let listen = SocketAddr::from((beside.address(), 0));
    let (app, address) = application(fleet.folder(), id, listen).await?;
    let port = Port {
        name: "orders",
        container: address.port(),
        alias,
    };
    beside.document = Some(document("demo", &[port]));
    Ok((app, beside.start(fleet).await?))
}

/// Where the client's sidecar believes a task to be.
async fn address_of(client: &Sidecar, task: &str) -> anyhow::Result<SocketAddr> {
    let page = json_page(client.admin, "/clusters").await?;
    let clusters = page.as_array().context("a list of clusters")?;
    let mut endpoints = clusters
        .iter()
        .filter_map(|cluster| cluster["endpoints"].as_array())
        .flatten();
    let endpoint = endpoints.find(|endpoint| endpoint["instance"] == task);
    let endpoint = endpoint.with_context(|| format!("{task} in {page}"))?;
    Ok(endpoint["address"].as_str().context("a text")?.parse()?)
}

/// POSTs, all of which `task` must answer.
async fn all_answered_by(orders: SocketAddr, task: &str) -> anyhow::Result<()> {
    let plan = Plan {
        method: http::Method::POST,
        path: "/echo".to_owned(),
        body: "five!".into(),
        connections: 4,
        requests: Some(400),
        ..Plan::new(orders, "orders")
    };
    let record = Load::start(plan).finished().await;
    let seen: Vec<_> = record.by_task.iter().collect();
    ensure!(record.failed == 0, "{:?} {seen:?}", record.reasons);
    ensure!(seen.len() == 1 && seen[0].0 == task, "answered by {seen:?}");
    Ok(())
}

/// The task dies and is followed by others; sidecars go without the `mutant`'s safeguard.
async fn followed_by_others(mutant: Option<&str>) -> anyhow::Result<()> {
    let _turn = TURN.lock().await;
    bounded(async {
        let mut fleet = fleet().await?;
        fleet.mutant = mutant.map(str::to_owned);
        let alias = free_port()?;
        let (first, second) = (
            task(&fleet, "first", 150, alias).await?,
            task(&fleet, "second", 151, alias).await?,
        );
        let client = Beside::new(&fleet, "client", 152).start(&fleet).await?;
        client.ready().await?;
        let orders = dial(&client, "orders", alias).await?;
        with_log(
            answered_by(orders, "orders", &["first", "second"]).await,
            &client,
        )?;
        let address = address_of(&client, "first").await?;

        tokens_stay_among_sidecars(&fleet, &client).await?;

        // Nobody hears of the death: the client's sidecar goes on believing what it was told.
        fleet.control.signal(Signal::STOP)?;
        let (mut app, mut sidecar) = first;
        sidecar.process.kill().await?;
        app.kill().await?;

        // The sidecar of another service takes the address over, to which a hop means as much as to the first one.
        let folder = tempfile::tempdir()?;
        let listen = SocketAddr::from((Ipv4Addr::new(127, 0, 1, 153), 0));
        let (_cart, cart) = application(folder.path(), "cart", listen).await?;
        let tokens = "request = \"00112233445566778899aabbccddeeff\", verdict = \"ffeeddccbbaa99887766554433221100\"";
        let text = file("ingress", address, "http", "http", &[cart], "").replace(
            "cluster = \"out\"",
            &format!(
                "cluster = \"out\"\nhop = {{ namespace = \"demo\", service = \"cart\", instance = \"first\", {tokens} }}"
            ),
        );
        let (mut newcomer, _) = static_sidecar(folder.path(), "cart-sidecar", &text).await?;
        with_log(all_answered_by(orders, "second").await, &client)?;
        ejected(&client, "first").await?;
        newcomer.kill().await?;

        // And then a server without any sidecar.
        let (_bare, _) = application(folder.path(), "bare", address).await?;
        with_log(all_answered_by(orders, "second").await, &client)?;
        drop(second);
        // Where nobody else is left, nobody answers.
        let record = gets(orders, "orders", 10).await;
        ensure!(record.by_task.is_empty(), "answered by {:?}", record.by_task);
        fleet.control.signal(Signal::CONT)?;
        Ok(())
    })
    .await
}

/// The tokens of the first task are in no answer of the control server's API, and on no page of a sidecar that knows them.
async fn tokens_stay_among_sidecars(fleet: &Fleet, client: &Sidecar) -> anyhow::Result<()> {
    let tokens = std::fs::read_to_string(fleet.folder().join("first-150/state/hop-tokens"))?;
    let (request, verdict) = tokens.trim().split_at(32);
    let shown = |text: &str| text.contains(request) || text.contains(verdict);
    let target = "Route53AutoNaming_v20170314.DiscoverInstances";
    let asked = http::Request::post("/").header("x-amz-target", target);
    let names = serde_json::json!({"NamespaceName": "demo", "ServiceName": "orders"});
    let (_, answer) = call(fleet.api, asked, names.to_string()).await?;
    ensure!(answer.contains("\"OUTRIGGER_HOP\":\"1 "), "{answer}");
    ensure!(!shown(&answer), "{answer}");
    let page = page(client.admin, "/config").await?;
    ensure!(page.contains("(hidden)") && !shown(&page), "{page}");
    Ok(())
}

/// Waits until outlier detection has taken the task out.
async fn ejected(client: &Sidecar, task: &str) -> anyhow::Result<()> {
    wait_for("the stale endpoint to be ejected", PATIENCE, || async {
        let page = json_page(client.admin, "/clusters").await?;
        let endpoints = page[0]["endpoints"].as_array().cloned().unwrap_or_default();
        let mut ejected = endpoints.iter().filter(|one| one["ejected"] == true);
        match ejected.any(|one| one["instance"] == task) {
            true => Ok(Some(())),
            false => bail!("{page}"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_service_at_a_dead_tasks_address_never_answers_for_it() -> anyhow::Result<()> {
    followed_by_others(None).await
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(debug_assertions),
    ignore = "a release build leaves no safeguard out"
)]
async fn without_the_proof_of_the_hop_another_service_answers() -> anyhow::Result<()> {
    let followed = followed_by_others(Some("hop-without-proof")).await;
    let error = followed.err().context("the other service did not answer")?;
    ensure!(format!("{error:#}").contains("(\"cart\", "), "{error:#}");
    Ok(())
}
