//! The figures of one cell as they are shown: medians of the rounds, and which peer is the best.

use crate::compare::results::{Cell, Reading, Round, Subject, Verdict};

/// Our own sidecar's name among the peers; variants of it begin with it.
pub(super) const OURS: &str = "outrigger";

/// One subject's medians. What was not measured is `None`.
#[derive(Debug, Clone)]
pub(super) struct Row<'a> {
    pub(super) subject: &'a Subject,
    /// CPU seconds per [`Cell::per`].
    pub(super) user: Option<f64>,
    pub(super) system: Option<f64>,
    /// Medians of the sums, which are not the sums of medians.
    pub(super) cpu: Option<f64>,
    pub(super) throughput: Option<f64>,
    /// µs.
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) p999: Option<f64>,
    /// µs over direct in the same round.
    pub(super) added_p50: Option<f64>,
    pub(super) added_p99: Option<f64>,
    /// 0 to 1.
    pub(super) slow_share: Option<f64>,
    /// In [`Cell::per`].
    pub(super) memory: Option<f64>,
    pub(super) failed: u64,
}

/// Every subject's medians, in the order of the results.
pub(super) fn rows(cell: &Cell) -> Vec<Row<'_>> {
    let direct = cell.subjects.iter().find(|subject| subject.hops == 0);
    cell.subjects
        .iter()
        .map(|subject| row(subject, direct))
        .collect()
}

fn row<'a>(subject: &'a Subject, direct: Option<&Subject>) -> Row<'a> {
    let of = |value: fn(&Round) -> Option<f64>| median(subject.rounds.iter().filter_map(value));
    let positive = |value: fn(&Round) -> f64| {
        median(subject.rounds.iter().map(value)).filter(|value| *value > 0.0)
    };
    let added = |value: fn(&Round) -> f64| {
        let direct = direct.filter(|_| subject.hops > 0)?;
        let pairs = subject.rounds.iter().zip(&direct.rounds);
        median(
            pairs
                .filter(|(round, base)| value(round) > 0.0 && value(base) > 0.0)
                .map(|(round, base)| value(round) - value(base)),
        )
    };
    let cpu = positive(|round| round.cpu_user + round.cpu_system);
    Row {
        subject,
        user: cpu.and(of(|round| Some(round.cpu_user))),
        system: cpu.and(of(|round| Some(round.cpu_system))),
        cpu,
        throughput: positive(|round| round.throughput),
        p50: positive(|round| round.p50),
        p99: positive(|round| round.p99),
        p999: positive(|round| round.p999),
        added_p50: added(|round| round.p50),
        added_p99: added(|round| round.p99),
        slow_share: of(|round| round.slow_share),
        memory: of(|round| round.memory),
        failed: subject.rounds.iter().map(|round| round.failed).sum(),
    }
}

impl Row<'_> {
    pub(super) fn is_ours(&self) -> bool {
        self.subject.peer.starts_with(OURS)
    }

    /// The peer, and the number of proxies where it is not one.
    pub(super) fn label(&self) -> String {
        match self.subject.hops {
            0 | 1 => self.subject.peer.clone(),
            hops => format!("{} × {hops}", self.subject.peer),
        }
    }
}

/// The middle value, the mean of both middle ones where there are two; what is not finite does not count.
pub(super) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    match (values.len() / 2, values.len() % 2) {
        (0, 0) => None,
        (middle, 0) => Some(f64::midpoint(values[middle - 1], values[middle])),
        (middle, _) => Some(values[middle]),
    }
}

/// The ratio that a cell is about: that against the best peer, else the cell's first target. `compare` writes targets before
/// what is only looked at.
pub(super) fn first_target(cell: &Cell) -> Option<&Verdict> {
    let others = |verdict: &&Verdict| !verdict.against.starts_with(OURS);
    let verdicts = || {
        cell.verdicts
            .iter()
            .filter(others)
            .filter(|one| one.ratio.is_finite())
    };
    let best = verdicts().find(|verdict| verdict.against.starts_with("best"));
    best.or_else(|| verdicts().next())
}

/// A reading in one word.
pub(super) const fn word(reading: Reading) -> &'static str {
    match reading {
        Reading::Better => "better",
        Reading::Tied => "tied",
        Reading::Missed => "missed",
    }
}

/// A figure with as many digits as mean something; a dash where there is none.
pub(super) fn figure(value: Option<f64>) -> String {
    match value.filter(|value| value.is_finite()) {
        None => "–".to_owned(),
        Some(value) if value.abs() >= 100.0 => thousands(value),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "−" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
