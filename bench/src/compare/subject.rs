//! One peer in one cell: its processes, and one round of measuring them.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;

use super::Options;
use super::cells::{CellPlan, Measure, Variant};
use super::cost;
use super::machine::Cpus;
use super::results::{self, Figure, Round};
use super::stats::median;
use super::{memory, syscalls};
use crate::load::{Load, Record};
use crate::peers::{Chain, Job, Kind, Peer};

/// Attempts to start a peer.
const STARTS: usize = 2;

/// The name under which a slow endpoint answers.
pub(super) const SLOW: &str = "slow";

pub(super) struct Subject {
    pub(super) peer: Peer,
    pub(super) variant: Variant,
    pub(super) latency: Option<Histogram<u64>>,
    pub(super) failed: bool,
    late: Option<Histogram<u64>>,
    busy: Vec<f64>,
    chain: Option<Chain>,
}

/// What a round needs to know besides its subject.
pub(super) struct Surroundings<'a> {
    pub(super) options: &'a Options,
    pub(super) plan: &'a CellPlan,
    pub(super) cpus: &'a Cpus,
    pub(super) folder: &'a Path,
    pub(super) job: Job,
    /// This process and the origins.
    pub(super) load_ids: Vec<u32>,
}

impl Subject {
    pub(super) fn new(peer: Peer, variant: Variant) -> Self {
        Self {
            peer,
            variant,
            latency: None,
            failed: false,
            late: None,
            busy: Vec::new(),
            chain: None,
        }
    }

    /// Its name in the results.
    pub(super) fn name(&self) -> String {
        format!("{}{}", self.peer.name, self.variant.suffix)
    }

    pub(super) fn configuration(&self) -> Vec<(String, String)> {
        let chain = self.chain.as_ref();
        chain.map_or_else(Vec::new, |chain| chain.configuration.clone())
    }

    /// Ends its processes and starts new ones: what differs from start to start is measured too.
    pub(super) async fn restart(&mut self, around: &Surroundings<'_>) -> anyhow::Result<()> {
        self.chain = None;
        let job = Job {
            middle: self.variant.middle,
            balance: self.variant.balance,
            tls: around.job.tls.clone().filter(|_| self.variant.tls),
            hop: self.variant.hop,
            ..around.job.clone()
        };
        let hops = match self.peer.kind {
            Kind::Direct => 0,
            _ => self.variant.hops,
        };
        let start = || Chain::start(&self.peer, hops, &job, around.folder);
        let mut tries = 0;
        loop {
            tries += 1;
            let chain = around.cpus.on_proxies(around.plan.workers, start)?;
            match chain.answers(around.plan.wire).await {
                Ok(()) => {
                    self.chain = Some(chain);
                    return Ok(());
                }
                // A free port that was chosen may be somebody else's by then.
                Err(error) if tries == STARTS => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Ends its processes: it has failed, and its cell goes on without it.
    pub(super) fn give_up(&mut self) {
        self.chain = None;
        self.failed = true;
    }

    pub(super) async fn measure(
        &mut self,
        around: &Surroundings<'_>,
        round: u64,
    ) -> anyhow::Result<Round> {
        let Some(chain) = &self.chain else {
            anyhow::bail!("{} does not run", self.name());
        };
        let Surroundings { options, plan, .. } = around;
        let ids = cost::family(&chain.processes)?;
        let load = load_plan(around, chain, round);
        match plan.measure {
            Measure::Idle => {
                let memory = Some(memory::settled(&ids).await?);
                return Ok(Round {
                    memory,
                    ..Round::default()
                });
            }
            Measure::IdleConnections(count) => {
                let memory = Some(memory::per_idle_connection(&ids, load, count).await?);
                return Ok(Round {
                    memory,
                    ..Round::default()
                });
            }
            Measure::Requests | Measure::Gigabytes | Measure::Handshakes => {}
        }
        let load = Load::start(load);
        // Every connection is open and has done a few requests.
        let enough = (plan.connections * 2) as u64;
        let warm = Instant::now();
        while warm.elapsed() < options.warm_up || load.sent() < enough {
            anyhow::ensure!(
                warm.elapsed() < options.warm_up + Duration::from_secs(30),
                "{} answered {} requests in 30 s: {:?}",
                self.name(),
                load.sent(),
                load.snapshot().reasons
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        load.take();
        let (own, before) = (cost::cpu(&around.load_ids)?, cost::cpu(&ids)?);
        let began = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let done = match options.requests {
                Some(requests) => load.sent() >= requests,
                None => began.elapsed() >= options.seconds,
            };
            // A peer that stalls must not hold up the others for ever.
            if done || began.elapsed() > Duration::from_secs(120) {
                break;
            }
        }
        let (cpu, elapsed) = (cost::cpu(&ids)? - before, began.elapsed());
        let own = cost::cpu(&around.load_ids)? - own;
        self.busy
            .push((own.user() + own.system()) / elapsed.as_secs_f64());
        let record = load.take();
        load.stop().await;
        anyhow::ensure!(
            record.sent > record.failed,
            "{} answered nothing: {:?}",
            self.name(),
            record.reasons
        );
        let unit = unit(plan, &record);
        let round = Round {
            cpu_user: cpu.user() / unit,
            cpu_system: cpu.system() / unit,
            throughput: throughput(plan, &record) / elapsed.as_secs_f64(),
            p50: record.latency.value_at_quantile(0.5) as f64,
            p99: record.latency.value_at_quantile(0.99) as f64,
            p999: record.latency.value_at_quantile(0.999) as f64,
            failed: record.failed,
            slow_share: slow_share(plan, &record),
            memory: None,
        };
        add(&mut self.latency, record.latency)?;
        add(&mut self.late, record.late)?;
        Ok(round)
    }

    /// System calls per request under strace, in a run of its own.
    pub(super) async fn syscalls(&self, around: &Surroundings<'_>) -> anyhow::Result<Vec<Figure>> {
        let Some(chain) = self
            .chain
            .as_ref()
            .filter(|chain| !chain.processes.is_empty())
        else {
            return Ok(Vec::new());
        };
        let ids = cost::family(&chain.processes)?;
        let load = Load::start(load_plan(around, chain, 0));
        let counted = syscalls::per_request(&ids, &load, around.folder).await;
        load.stop().await;
        let (total, named) = counted?;
        let figure = |name: &str, value| Figure {
            name: name.to_owned(),
            value,
            unit: "per request".to_owned(),
        };
        let named = named
            .iter()
            .filter(|(_, each)| *each >= 0.01)
            .map(|(name, each)| figure(&format!("syscall_{name}"), *each));
        let mut figures = vec![figure("syscalls_per_request", total)];
        figures.extend(named);
        Ok(figures)
    }

    /// How busy the load's CPU was, and how late the generator: whether this subject's figures are the load's own.
    pub(super) fn load_figures(&self) -> Vec<Figure> {
        let figure = |name: &str, value, unit: &str| Figure {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
        };
        let mut figures = Vec::new();
        if !self.busy.is_empty() {
            figures.push(figure("load_cpu_share", median(&self.busy), "of one CPU"));
        }
        if let Some(late) = self.late.as_ref().filter(|late| !late.is_empty()) {
            figures.push(figure(
                "generator_late_p50_us",
                late.value_at_quantile(0.5) as f64,
                "µs",
            ));
            figures.push(figure(
                "generator_late_p99_us",
                late.value_at_quantile(0.99) as f64,
                "µs",
            ));
        }
        figures
    }
}

fn add(sum: &mut Option<Histogram<u64>>, one: Histogram<u64>) -> anyhow::Result<()> {
    match sum {
        Some(sum) => sum.add(&one)?,
        None => *sum = Some(one),
    }
    Ok(())
}

fn load_plan(around: &Surroundings<'_>, chain: &Chain, round: u64) -> crate::load::Plan {
    let Surroundings { options, plan, .. } = around;
    crate::load::Plan {
        wire: plan.wire,
        connections: plan.connections,
        streams: plan.streams,
        rate: plan.rate,
        arrivals: options.arrivals,
        seed: options.seed.wrapping_add(round),
        body: body(plan),
        method: method(plan),
        path: path(plan).to_owned(),
        tls: chain.tls.clone(),
        ..crate::load::Plan::new(chain.entry, "orders")
    }
}

/// What CPU seconds are divided by: [`CellPlan::per`].
fn unit(plan: &CellPlan, record: &Record) -> f64 {
    match plan.measure {
        Measure::Gigabytes => record.bytes as f64 / 1e9,
        Measure::Handshakes => record.sent as f64 / 1000.0,
        _ => record.sent as f64 / 100_000.0,
    }
}

fn throughput(plan: &CellPlan, record: &Record) -> f64 {
    match plan.measure {
        Measure::Gigabytes => record.bytes as f64,
        _ => record.sent as f64,
    }
}

fn slow_share(plan: &CellPlan, record: &Record) -> Option<f64> {
    let slow = record.by_task.get(SLOW).map_or(0, |seen| seen.answers);
    (plan.slow_ms > 0).then(|| slow as f64 / record.sent as f64)
}

fn body(plan: &CellPlan) -> Bytes {
    use crate::load::Wire;
    match plan.wire {
        Wire::Tcp => Bytes::from(vec![b'x'; plan.bytes]),
        Wire::Grpc | Wire::Bidi => Bytes::from(vec![b'x'; 100]),
        Wire::Http1 | Wire::Http2 => Bytes::new(),
    }
}

fn method(plan: &CellPlan) -> http::Method {
    match plan.wire {
        crate::load::Wire::Grpc | crate::load::Wire::Bidi => http::Method::POST,
        _ => http::Method::GET,
    }
}

fn path(plan: &CellPlan) -> &'static str {
    match plan.wire {
        crate::load::Wire::Grpc | crate::load::Wire::Bidi => "/orders.Orders/Get",
        _ => "/",
    }
}

/// The percentiles of a curve, dense towards the end.
pub(super) fn curve(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    const PERCENTILES: [f64; 16] = [
        0.0, 10.0, 25.0, 50.0, 60.0, 70.0, 75.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.99,
        100.0,
    ];
    PERCENTILES
        .iter()
        .map(|percentile| {
            let micros = latency.value_at_quantile(percentile / 100.0);
            (*percentile, micros as f64)
        })
        .collect()
}

/// A subject as the results have it, before its first round.
pub(super) fn empty(subject: &Subject) -> results::Subject {
    results::Subject {
        peer: subject.name(),
        hops: match subject.peer.kind {
            Kind::Direct => 0,
            _ => subject.variant.hops,
        },
        ..results::Subject::default()
    }
}
