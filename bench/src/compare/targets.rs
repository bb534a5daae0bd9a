//! The ratios that are aimed at in each cell.

use super::cells::PLAIN;
use super::verdict::Against::{Best, Figure, Own, Peer};
use super::verdict::Metric::{AddedP50, AddedP99, Cpu, CpuUser, Memory, P99, SlowShare};
use super::verdict::{Against, Metric, Target};

/// None for a cell that is only looked at.
pub(super) fn of(cell: &str) -> Vec<Target> {
    let target = |metric: Metric, against: Against, ratio: f64| Target {
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
        "h2-h1" | "h2-h2" | "grpc" => vec![target(Cpu, Peer("haproxy", 1), 1.0)],
        "two-hops-h1" | "two-hops-h2" => vec![
            target(Cpu, Peer("nginx", 2), 0.75),
            target(Cpu, Peer("envoy", 1), 0.75),
        ],
        "tls-handshake" | "tls-handshake-hybrid" => vec![target(Cpu, Peer("envoy", 1), 1.0)],
        "two-hops-mtls-h1" | "two-hops-mtls-h1-2000rps" => {
            vec![target(Cpu, Best(&[]), 1.0), target(Cpu, Own(PLAIN), 1.25)]
        }
        "two-hops-mtls-h2" | "two-hops-mtls-h2-2000rps" => vec![
            target(Cpu, Peer("haproxy", 2), 1.0),
            target(Cpu, Own(PLAIN), 1.25),
        ],
        "h1-64-100k" | "h1-16-10m" => vec![target(Cpu, Best(&[]), 1.0)],
        "tcp-10m" => vec![target(Cpu, Peer("envoy", 1), 0.6)],
        // Round robin sends it a third: half of that is far below.
        "slow-500rps" | "slow-2000rps" => vec![
            target(SlowShare, Peer("envoy-least-request", 1), 1.0),
            target(P99, Peer("envoy-least-request", 1), 1.0),
            target(SlowShare, Peer("envoy", 1), 0.5),
        ],
        "rss-idle" => vec![target(Memory, Figure(8.0, "MiB"), 1.0)],
        "rss-1000x10" => vec![target(Memory, Figure(16.0, "MiB"), 1.0)],
        "idle-10k" => vec![target(Memory, Figure(3.0, "KiB"), 1.0)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cells;
    use super::*;

    #[test]
    fn every_peer_of_a_target_is_measured_in_its_cell() {
        let mut found = 0;
        for plan in cells::all() {
            for target in of(plan.name) {
                found += 1;
                if let Own(suffix) = target.against {
                    let mut own = plan.variants.iter();
                    assert!(own.any(|one| one.suffix == suffix), "{}", plan.name);
                }
                if let Peer(name, hops) = target.against {
                    let variant = plan.variants.iter().find(|one| {
                        name == format!(
                            "{}{}",
                            format!("{:?}", one.kind).to_lowercase(),
                            one.suffix
                        ) && one.hops == hops
                    });
                    assert!(variant.is_some(), "{}: {name}", plan.name);
                }
            }
        }
        assert!(found > 20, "{found}");
    }
}
