//! What a run counts, and the figures that come of it.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// An hour in microseconds.
const LONGEST_MICROS: u64 = 3_600_000_000;

/// What is counted while a run goes on.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) attempts: u64,
    pub(super) answered: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    pub(super) duplicates: u64,
    /// Why requests were lost.
    pub(super) lost: BTreeMap<&'static str, u64>,
    pub(super) latency: Histogram<u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            requests: 0,
            attempts: 0,
            answered: 0,
            refused: 0,
            unknown: 0,
            duplicates: 0,
            lost: BTreeMap::new(),
            latency: Histogram::new_with_bounds(1, LONGEST_MICROS, 3)
                .expect("1 µs to one hour at 3 digits is valid"),
        }
    }

    pub(super) fn answer(&mut self, latency: Duration) {
        self.answered += 1;
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LONGEST_MICROS);
        self.latency.saturating_record(micros.max(1));
    }

    pub(super) fn lose(&mut self, why: &'static str, acted_upon: bool) {
        *self.lost.entry(why).or_default() += 1;
        self.unknown += u64::from(acted_upon);
    }

    pub(super) fn figures(self, ejections: u64) -> Figures {
        let ms = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1000.0;
        Figures {
            requests: self.requests,
            answered: self.answered,
            success_percent: percent(self.answered, self.requests),
            lost: self.lost.values().sum(),
            unknown: self.unknown,
            refused: self.refused,
            duplicates: self.duplicates,
            attempts_per_request: ratio(self.attempts, self.requests),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            max_ms: self.latency.max() as f64 / 1000.0,
            ejections,
            why_lost: self
                .lost
                .into_iter()
                .map(|(why, count)| (why.to_owned(), count))
                .collect(),
        }
    }
}

/// What came of a run, modelled or real.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Requests sent.
    pub requests: u64,
    /// Requests answered 2xx.
    pub answered: u64,
    /// Share of those in percent.
    pub success_percent: f64,
    /// Requests that ended otherwise after the sidecar had taken them.
    pub lost: u64,
    /// Of the lost, those that a task acted upon all the same.
    pub unknown: u64,
    /// Requests that the sidecar refused at once because too many were under way.
    pub refused: u64,
    /// Requests that must not be executed twice, and were.
    pub duplicates: u64,
    /// Attempts, divided by requests.
    pub attempts_per_request: f64,
    /// Median latency of what was answered 2xx.
    pub p50_ms: f64,
    /// Its 99th percentile.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Tasks taken out by outlier detection.
    pub ejections: u64,
    /// Lost requests by reason.
    pub why_lost: BTreeMap<String, u64>,
}

pub(super) fn percent(part: u64, all: u64) -> f64 {
    match all {
        0 => 100.0,
        all => 100.0 * part as f64 / all as f64,
    }
}

pub(super) fn ratio(part: u64, all: u64) -> f64 {
    match all {
        0 => 0.0,
        all => part as f64 / all as f64,
    }
}
