//! What is asked of our figures in each cell, and what the rounds say of it.

use super::results::{Cell, Reading, Round, Subject, Verdict};
use super::stats::{bootstrap, median, read};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Metric {
    Cpu,
    CpuUser,
    AddedP50,
    AddedP99,
    P99,
    SlowShare,
    Memory,
}

impl Metric {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CpuUser => "cpu_user",
            Self::AddedP50 => "added_p50",
            Self::AddedP99 => "added_p99",
            Self::P99 => "p99",
            Self::SlowShare => "slow_share",
            Self::Memory => "memory",
        }
    }

    /// `None` where the round has no such figure, or one that nothing can be divided by. What is added to direct's latency
    /// is at least 1 µs: a difference of two noisy percentiles can be negative, and such pairs must not be left out.
    fn of(self, round: &Round, direct: Option<&Round>) -> Option<f64> {
        let value = match self {
            Self::Cpu => round.cpu_user + round.cpu_system,
            Self::CpuUser => round.cpu_user,
            Self::AddedP50 => (round.p50 - direct?.p50).max(1.0),
            Self::AddedP99 => (round.p99 - direct?.p99).max(1.0),
            Self::P99 => round.p99,
            Self::SlowShare => round.slow_share?,
            Self::Memory => round.memory?,
        };
        (value > 0.0).then_some(value)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Against {
    /// This peer with so many proxies in a row.
    Peer(&'static str, u8),
    /// The variant of the same program of ours with this suffix.
    Own(&'static str),
    /// Whichever of these has the lowest median; none named: of all.
    Best(&'static [&'static str]),
    /// A figure that needs no peer, in the metric's own unit.
    Figure(f64, &'static str),
}

/// One ratio that is aimed at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) metric: Metric,
    pub(super) against: Against,
    pub(super) ratio: f64,
}

/// Our figures against the targets, and our CPU against every peer that no target names.
pub(super) fn verdicts(cell: &Cell, targets: &[Target]) -> Vec<Verdict> {
    let is_ours = |subject: &&Subject| subject.peer.starts_with("outrigger");
    let Some(ours) = cell
        .subjects
        .iter()
        .filter(is_ours)
        .max_by_key(|subject| (subject.hops, std::cmp::Reverse(position(cell, subject))))
    else {
        return Vec::new();
    };
    let mut verdicts = Vec::new();
    for target in targets {
        verdicts.extend(verdict(cell, ours, target));
    }
    let others = cell
        .subjects
        .iter()
        .filter(|other| other.hops > 0 && (other.peer != ours.peer || other.hops != ours.hops));
    for other in others {
        let metrics: &[Metric] = match (cell.rate, is_ours(&other)) {
            (Some(_), true) => &[
                Metric::Cpu,
                Metric::CpuUser,
                Metric::AddedP50,
                Metric::AddedP99,
                Metric::Memory,
            ],
            (None, true) => &[Metric::Cpu, Metric::CpuUser, Metric::Memory],
            (_, false) => &[Metric::Cpu, Metric::Memory],
        };
        for metric in metrics {
            let label = label(other, ours.hops);
            let known =
                |verdict: &Verdict| verdict.metric == metric.name() && verdict.against == label;
            if !verdicts.iter().any(known) {
                let theirs = |index: usize| value(cell, other, *metric, index);
                verdicts.extend(compare(cell, ours, *metric, theirs, label, 1.0));
            }
        }
    }
    verdicts
}

fn position(cell: &Cell, subject: &Subject) -> usize {
    cell.subjects
        .iter()
        .position(|other| std::ptr::eq(other, subject))
        .unwrap_or_default()
}

fn label(subject: &Subject, our_hops: u8) -> String {
    if subject.hops == our_hops {
        subject.peer.clone()
    } else {
        format!("{} ({} hop)", subject.peer, subject.hops)
    }
}

fn verdict(cell: &Cell, ours: &Subject, target: &Target) -> Option<Verdict> {
    let found = |name: &str, hops: u8| {
        cell.subjects
            .iter()
            .find(|subject| subject.peer == name && subject.hops == hops)
    };
    let (theirs, label) = match target.against {
        Against::Peer(name, hops) => {
            let subject = found(name, hops)?;
            (subject, label(subject, ours.hops))
        }
        Against::Own(suffix) => {
            let subject = found(&format!("{}{suffix}", ours.peer), ours.hops)?;
            (subject, label(subject, ours.hops))
        }
        Against::Best(names) => {
            let best = cell
                .subjects
                .iter()
                .filter(|subject| {
                    subject.hops == ours.hops
                        && !subject.peer.starts_with("outrigger")
                        && (names.is_empty() || names.contains(&subject.peer.as_str()))
                })
                .filter_map(|subject| Some((middle(cell, subject, target.metric)?, subject)))
                .min_by(|one, other| one.0.total_cmp(&other.0))?
                .1;
            (best, format!("best ({})", best.peer))
        }
        Against::Figure(figure, unit) => {
            let label = format!("{figure} {unit}");
            return compare(
                cell,
                ours,
                target.metric,
                |_| Some(figure),
                label,
                target.ratio,
            );
        }
    };
    let value = |index: usize| value(cell, theirs, target.metric, index);
    compare(cell, ours, target.metric, value, label, target.ratio)
}

fn compare(
    cell: &Cell,
    ours: &Subject,
    metric: Metric,
    theirs: impl Fn(usize) -> Option<f64>,
    against: String,
    target: f64,
) -> Option<Verdict> {
    let ratios: Vec<f64> = (0..ours.rounds.len())
        .filter_map(|index| Some(value(cell, ours, metric, index)? / theirs(index)?))
        .collect();
    if ratios.is_empty() {
        return None;
    }
    let (low, high) = bootstrap(&ratios);
    Some(Verdict {
        metric: metric.name().to_owned(),
        against,
        ratio: median(&ratios),
        low,
        high,
        pairs: ratios.len(),
        target,
        reading: read(low, high, ratios.len(), target),
    })
}

fn value(cell: &Cell, subject: &Subject, metric: Metric, index: usize) -> Option<f64> {
    let direct = cell.subjects.iter().find(|subject| subject.hops == 0);
    let direct = direct.and_then(|subject| subject.rounds.get(index));
    metric.of(subject.rounds.get(index)?, direct)
}

fn middle(cell: &Cell, subject: &Subject, metric: Metric) -> Option<f64> {
    let values: Vec<_> = (0..subject.rounds.len())
        .filter_map(|index| value(cell, subject, metric, index))
        .collect();
    (!values.is_empty()).then(|| median(&values))
}

/// How a reading is printed.
pub(super) fn word(reading: Reading) -> &'static str {
    match reading {
        Reading::Better => "better",
        Reading::Tied => "tied",
        Reading::Missed => "missed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(peer: &str, hops: u8, cpu: f64, p50: f64) -> Subject {
        let round = Round {
            cpu_user: cpu / 4.0,
            cpu_system: cpu * 0.75,
            p50,
            ..Round::default()
        };
        Subject {
            peer: peer.to_owned(),
            hops,
            rounds: vec![round; 15],
            ..Subject::default()
        }
    }

    fn cell() -> Cell {
        Cell {
            subjects: vec![
                subject("direct", 0, 0.0, 50.0),
                subject("outrigger-new", 1, 1.0, 110.0),
                subject("outrigger-old", 1, 1.25, 120.0),
                subject("haproxy", 1, 2.0, 130.0),
                subject("nginx", 1, 1.6, 150.0),
            ],
            ..Cell::default()
        }
    }

    fn target(metric: Metric, against: Against, ratio: f64) -> Target {
        Target {
            metric,
            against,
            ratio,
        }
    }

    #[test]
    fn the_best_peer_is_the_one_with_the_lowest_median() {
        let best = Against::Best(&["haproxy", "nginx"]);
        let all = verdicts(
            &cell(),
            &[
                target(Metric::Cpu, best, 0.95),
                target(Metric::AddedP50, Against::Best(&[]), 0.5),
            ],
        );
        assert_eq!(
            (all[0].against.as_str(), all[0].ratio),
            ("best (nginx)", 0.625)
        );
        assert_eq!((all[0].reading, all[0].pairs), (Reading::Better, 15));
        // 60 µs over direct against 80.
        assert_eq!(
            (all[1].against.as_str(), all[1].ratio),
            ("best (haproxy)", 0.75)
        );
        assert_eq!(all[1].reading, Reading::Missed);
    }

    #[test]
    fn the_first_of_our_builds_is_measured_against_every_other_subject() {
        let all = verdicts(&cell(), &[]);
        let of = |against: &str| {
            let found = all
                .iter()
                .find(|verdict| verdict.against == against && verdict.metric == "cpu");
            found.map(|verdict| verdict.ratio)
        };
        assert_eq!(of("outrigger-old"), Some(0.8));
        assert_eq!(of("haproxy"), Some(0.5));
        assert_eq!(of("direct"), None);
    }

    #[test]
    fn ours_is_measured_against_a_variant_of_itself_once() {
        let all = verdicts(
            &cell(),
            &[target(Metric::Cpu, Against::Own("-plain"), 1.25)],
        );
        assert!(all.iter().all(|verdict| !verdict.against.contains("plain")));
        let mut cell = cell();
        cell.subjects
            .push(subject("outrigger-new-plain", 1, 0.5, 100.0));
        let all = verdicts(&cell, &[target(Metric::Cpu, Against::Own("-plain"), 1.25)]);
        let plain = |verdict: &&Verdict| {
            verdict.against == "outrigger-new-plain" && verdict.metric == "cpu"
        };
        let found: Vec<_> = all.iter().filter(plain).collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].ratio, found[0].reading), (2.0, Reading::Missed));
    }

    #[test]
    fn a_figure_needs_no_peer_and_a_missing_peer_gives_no_verdict() {
        let mut cell = cell();
        for round in &mut cell.subjects[1].rounds {
            round.memory = Some(6.0);
        }
        let against = Against::Figure(8.0, "MiB");
        let all = verdicts(
            &cell,
            &[
                target(Metric::Memory, against, 1.0),
                target(Metric::Cpu, Against::Peer("envoy", 1), 0.45),
            ],
        );
        assert_eq!((all[0].against.as_str(), all[0].ratio), ("8 MiB", 0.75));
        assert!(all.iter().all(|verdict| !verdict.against.contains("envoy")));
    }
}
