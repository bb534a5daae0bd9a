//! The order of things: cell by cell, round by round, every peer once in each round.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::process::Command;

use super::Options;
use super::cells::{CellPlan, Variant};
use super::machine::{self, Cpus};
use super::results::{self, Cell, Results};
use super::stats::median;
use super::subject::{SLOW, Subject, Surroundings, curve, empty};
use super::{cells, cost, verdict};
use crate::certificates::Certificates;
use crate::fleet::Process;
use crate::load::Wire;
use crate::peers::{Balance, Job, Kind, Peer, Tls};

const START: Duration = Duration::from_secs(20);

/// Configuration files are kept in the results up to this length: those of 1,000 services are long and of one kind.
const KEPT_CONFIGURATION: usize = 20_000;

/// Results without a cell.
pub(super) fn begin(peers: &[Peer]) -> anyhow::Result<Results> {
    let words: Vec<_> = std::env::args().collect();
    Ok(Results {
        command: words.join(" "),
        began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        machine: machine::describe(&Cpus::allowed()?),
        peers: peers
            .iter()
            .map(|peer| results::Peer {
                name: peer.name.clone(),
                version: peer.version.clone(),
                missing: peer.missing.clone(),
            })
            .collect(),
        cells: Vec::new(),
    })
}

/// Measures every cell; after an error or when dropped, what is done is in `results`.
pub(super) async fn drive(
    results: &mut Results,
    options: &Options,
    plans: &[CellPlan],
    peers: &[Peer],
) -> anyhow::Result<()> {
    let cpus = Cpus::allowed()?;
    let progress = progress(plans, options.pairs);
    for plan in plans {
        let done = cell(results, options, plan, peers, &cpus, &progress).await;
        done.with_context(|| format!("cell {}", plan.name))?;
    }
    progress.finish_and_clear();
    Ok(())
}

fn progress(plans: &[CellPlan], pairs: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} rounds, {eta} left  {msg}");
    let bar = ProgressBar::new(plans.len() as u64 * pairs);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

async fn cell(
    results: &mut Results,
    options: &Options,
    plan: &CellPlan,
    peers: &[Peer],
    cpus: &Cpus,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("outrigger-compare-")
        .tempdir()?;
    cpus.to_load(plan.workers);
    let (origins, job) = origins(plan, folder.path()).await?;
    let mut load_ids = cost::family(&origins)?;
    load_ids.push(std::process::id());
    let around = Surroundings {
        options,
        plan,
        cpus,
        folder: folder.path(),
        job,
        load_ids,
    };
    let mut subjects = subjects(plan, peers);
    name_variants(results, &subjects);
    results.cells.push(Cell {
        name: plan.name.to_owned(),
        title: plan.title.to_owned(),
        per: plan.per().to_owned(),
        rate: plan.rate,
        subjects: subjects.iter().map(empty).collect(),
        verdicts: Vec::new(),
        notes: notes(plan, peers),
    });
    let last = results.cells.len() - 1;
    for round in 0..options.pairs {
        let count = subjects.len();
        for place in 0..count {
            // Each round begins with another one.
            let index = (place + usize::try_from(round)?) % count;
            let subject = &mut subjects[index];
            progress.set_message(format!("{}: {}", plan.name, subject.name()));
            let cell = &mut results.cells[last];
            if subject.failed {
                continue;
            }
            if let Err(error) = turn(subject, &mut cell.subjects[index], &around, round).await {
                subject.give_up();
                let note = format!("{} in round {}: {error:#}", subject.name(), round + 1);
                progress.suspend(|| eprintln!("{}: {note}", plan.name));
                cell.notes.push(note);
            }
        }
        results.cells[last].verdicts = verdict::verdicts(&results.cells[last], &plan.targets());
        save(results, &options.out)?;
        progress.inc(1);
    }
    if options.syscalls && plan.memory_figure().is_none() {
        for (subject, kept) in subjects.iter().zip(&mut results.cells[last].subjects) {
            match subject.syscalls(&around).await {
                Ok(figures) => kept.figures.extend(figures),
                Err(error) => progress.suspend(|| eprintln!("{}: {error:#}", subject.name())),
            }
        }
        save(results, &options.out)?;
    }
    Ok(())
}

/// A variant of a peer is a peer of its own in the results.
fn name_variants(results: &mut Results, subjects: &[Subject]) {
    for subject in subjects {
        let name = subject.name();
        if !results.peers.iter().any(|peer| peer.name == name) {
            results.peers.push(results::Peer {
                name,
                version: subject.peer.version.clone(),
                missing: None,
            });
        }
    }
}

async fn turn(
    subject: &mut Subject,
    kept: &mut results::Subject,
    around: &Surroundings<'_>,
    round: u64,
) -> anyhow::Result<()> {
    let memory = around.plan.memory_figure();
    if memory.is_some() || round.is_multiple_of(around.options.restart) {
        subject.restart(around).await?;
        if kept.configuration.is_empty() {
            kept.configuration = shortened(subject.configuration());
        }
    }
    let measured = subject.measure(around, round).await?;
    kept.rounds.push(measured);
    kept.latency = subject.latency.as_ref().map(curve).unwrap_or_default();
    kept.figures = match memory {
        Some(name) => vec![results::Figure {
            name: name.to_owned(),
            value: median(
                &kept
                    .rounds
                    .iter()
                    .filter_map(|round| round.memory)
                    .collect::<Vec<_>>(),
            ),
            unit: around.plan.per().to_owned(),
        }],
        None => subject.load_figures(),
    };
    Ok(())
}

/// The peers that are there in the ways this cell has for them, direct first.
fn subjects(plan: &CellPlan, peers: &[Peer]) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for peer in peers.iter().filter(|peer| peer.is_there()) {
        if peer.kind == Kind::Direct && plan.has_direct() {
            let variant = cells::variant(Kind::Direct, 0);
            subjects.push(Subject::new(peer.clone(), variant));
        }
        let own = |variant: &&Variant| variant.kind == peer.kind;
        for variant in plan.variants.iter().filter(own) {
            subjects.push(Subject::new(peer.clone(), *variant));
        }
    }
    subjects
}

fn notes(plan: &CellPlan, peers: &[Peer]) -> Vec<String> {
    let mut notes: Vec<_> = plan.notes.iter().map(|note| (*note).to_owned()).collect();
    let missing = peers
        .iter()
        .filter_map(|peer| Some(format!("{}: {}", peer.name, peer.missing.as_ref()?)));
    notes.extend(missing);
    notes
}

/// Starts the origins of a cell, on the load's CPUs.
async fn origins(plan: &CellPlan, folder: &Path) -> anyhow::Result<(Vec<Process>, Job)> {
    let mut processes = Vec::new();
    let mut endpoints = Vec::new();
    let program = std::env::current_exe().context("the running program's own path")?;
    let slow = usize::from(plan.slow_ms > 0);
    for (count, is_slow) in [(slow, true), (plan.endpoints - slow, false)] {
        if count == 0 {
            continue;
        }
        let mut command = Command::new(&program);
        command.arg("origin");
        match plan.wire {
            Wire::Tcp => {
                command.args(["--greeting", ""]);
            }
            _ => {
                command.args(["--lean", "--bytes", &plan.bytes.to_string()]);
                if slow > 0 {
                    let (name, delay) = match is_slow {
                        true => (SLOW, plan.slow_ms),
                        false => ("fast", 0),
                    };
                    command.args(["--name", name, "--delay-ms", &delay.to_string()]);
                }
            }
        }
        for _ in 0..count {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let name = if is_slow { "origin-slow" } else { "origin" };
        let process = Process::spawn(name, command, folder)?;
        for index in 1..=count {
            let announced = match index {
                1 => "origin".to_owned(),
                _ => format!("origin-{index}"),
            };
            endpoints.push(process.listening(&announced, START).await?);
        }
        processes.push(process);
    }
    let tls = plan.tls.map(|(group, session)| {
        let certificates = Certificates::write(folder)?;
        anyhow::Ok(Tls::new(certificates, group, session))
    });
    let job = Job {
        front: plan.front,
        back: plan.back,
        middle: plan.back,
        balance: Balance::Shipped,
        workers: plan.workers,
        services: vec![endpoints; plan.services],
        tls: tls.transpose()?,
        hop: false,
    };
    Ok((processes, job))
}

fn shortened(files: Vec<(String, String)>) -> Vec<(String, String)> {
    let cut = |mut text: String| {
        if text.len() > KEPT_CONFIGURATION {
            let more = text.len() - KEPT_CONFIGURATION;
            text.truncate(KEPT_CONFIGURATION);
            text.push_str(&format!("\n… and {more} more bytes of the same kind\n"));
        }
        text
    };
    files
        .into_iter()
        .map(|(name, text)| (name, cut(text)))
        .collect()
}

/// Writes what there is, whole or not at all.
pub(super) fn save(results: &Results, out: &Path) -> anyhow::Result<()> {
    let part = out.with_extension("part");
    let write = || {
        if let Some(folder) = out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&part, serde_json::to_vec_pretty(results)?)?;
        std::fs::rename(&part, out)
    };
    write().with_context(|| format!("write {}", out.display()))
}

/// Verdicts of a cell that was interrupted, and the last write.
pub(super) fn finish(results: &mut Results, options: &Options) -> anyhow::Result<()> {
    let plans = cells::all();
    for cell in &mut results.cells {
        if let Some(plan) = plans.iter().find(|plan| plan.name == cell.name) {
            cell.verdicts = verdict::verdicts(cell, &plan.targets());
        }
    }
    save(results, &options.out)
}
