//! The jobs that every peer is given.

use super::verdict::{Against, Metric, Target};
use crate::load::Wire;
use crate::peers::{Balance, Kind, Protocol};

/// One peer of a cell: how many proxies in a row, what they speak between them, how they spread requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    pub(super) kind: Kind,
    pub(super) hops: u8,
    pub(super) middle: Protocol,
    pub(super) balance: Balance,
    /// Added to the peer's name.
    pub(super) suffix: &'static str,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// CPU, throughput and latency of requests.
    Requests,
    /// The same, CPU per GB of bodies.
    Gigabytes,
    /// Resident memory after the first request.
    Idle,
    /// The growth of resident memory with this many connections that have done one request each.
    IdleConnections(usize),
}

/// One job.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) measure: Measure,
    pub(super) front: Protocol,
    pub(super) back: Protocol,
    pub(super) wire: Wire,
    pub(super) connections: usize,
    pub(super) streams: usize,
    pub(super) rate: Option<u32>,
    /// Bytes of a response body, or of an echo.
    pub(super) bytes: usize,
    pub(super) services: usize,
    pub(super) endpoints: usize,
    pub(super) workers: usize,
    /// Added to the first endpoint's answers, ms; 0 is none.
    pub(super) slow_ms: u64,
    pub(super) variants: Vec<Variant>,
    pub(super) notes: Vec<&'static str>,
}

pub(super) const fn variant(kind: Kind, hops: u8) -> Variant {
    Variant {
        kind,
        hops,
        middle: Protocol::Http,
        balance: Balance::Shipped,
        suffix: "",
    }
}

fn one_hop() -> Vec<Variant> {
    [Kind::Outrigger, Kind::Envoy, Kind::HaProxy, Kind::Nginx]
        .map(|kind| variant(kind, 1))
        .into()
}

/// One hop, HTTP/1.1, 64 connections, 1 KB, one endpoint, one worker, closed loop.
fn h1(name: &'static str, title: &'static str) -> Plan {
    Plan {
        name,
        title,
        measure: Measure::Requests,
        front: Protocol::Http,
        back: Protocol::Http,
        wire: Wire::Http1,
        connections: 64,
        streams: 1,
        rate: None,
        bytes: 1024,
        services: 1,
        endpoints: 1,
        workers: 1,
        slow_ms: 0,
        variants: one_hop(),
        notes: Vec::new(),
    }
}

impl Plan {
    /// What figures are divided by.
    pub(super) fn per(&self) -> &'static str {
        match self.measure {
            Measure::Requests => "100k requests",
            Measure::Gigabytes => "GB",
            Measure::Idle => "MiB",
            Measure::IdleConnections(_) => "KiB per connection",
        }
    }

    /// Whether the load also goes to the origin without a proxy.
    pub(super) fn has_direct(&self) -> bool {
        matches!(self.measure, Measure::Requests | Measure::Gigabytes)
    }

    /// The ratios that are aimed at.
    pub(super) fn targets(&self) -> Vec<Target> {
        targets(self.name)
    }
}

fn targets(cell: &str) -> Vec<Target> {
    use Against::{Best, Peer};
    use Metric::{AddedP50, AddedP99, Cpu, CpuUser};
    let target = |metric, against, ratio| Target {
        metric,
        against,
        ratio,
    };
    match cell {
        "h1-64-1k" => vec![
            target(Cpu, Best(&["haproxy", "nginx"]), 0.95),
            target(Cpu, Peer("envoy", 1), 0.45),
            target(CpuUser, Peer("haproxy", 1), 0.9),
        ],
        "h1-2000rps" => vec![
            target(Cpu, Peer("haproxy", 1), 0.95),
            target(AddedP50, Best(&[]), 1.0),
            target(AddedP99, Best(&[]), 1.0),
        ],
        _ => Vec::new(),
    }
}

/// Every cell, in the order they run.
pub(super) fn all() -> Vec<Plan> {
    vec![
        h1("h1-64-1k", "HTTP/1.1, one hop, 64 connections, 1 KB"),
        Plan {
            rate: Some(2000),
            ..h1(
                "h1-2000rps",
                "HTTP/1.1, one hop, 2,000 requests a second, 1 KB",
            )
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_has_a_name_of_its_own_and_somebody_to_measure() {
        let mut names: Vec<_> = all().iter().map(|plan| plan.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
        assert!(all().iter().all(|plan| !plan.variants.is_empty()));
    }
}
