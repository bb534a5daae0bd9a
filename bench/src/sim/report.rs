//! What a simulation found, for people and as JSON: our policy beside Service Connect's, over one seed or many.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::scenario::Scenario;
use super::tally::Figures;

/// The runs of one policy, one for each seed.
#[derive(Debug, Clone, Serialize)]
pub struct Runs {
    /// In the order of seeds.
    pub runs: Vec<Figures>,
    /// Mean of each figure.
    pub mean: BTreeMap<&'static str, f64>,
    /// Standard deviation of each figure; 0 for one run.
    pub spread: BTreeMap<&'static str, f64>,
}

impl Runs {
    pub(super) fn of(runs: Vec<Figures>) -> Self {
        let mut all: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        for figures in &runs {
            for row in ROWS {
                all.entry(row.field).or_default().push((row.value)(figures));
            }
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let spread = |values: &[f64]| {
            let middle = mean(values);
            let squares: Vec<_> = values
                .iter()
                .map(|value| (value - middle).powi(2))
                .collect();
            mean(&squares).sqrt()
        };
        Self {
            mean: all
                .iter()
                .map(|(field, values)| (*field, mean(values)))
                .collect(),
            spread: all
                .iter()
                .map(|(field, values)| (*field, spread(values)))
                .collect(),
            runs,
        }
    }

    fn shown(&self, row: &Row) -> String {
        let mean = self.mean[row.field];
        if self.runs.len() == 1 {
            return format!("{mean:.*}", row.digits);
        }
        // A mean of counts is seldom whole.
        let digits = row.digits.max(1);
        format!("{mean:.digits$} ± {:.digits$}", self.spread[row.field])
    }

    /// Why requests were lost, over all seeds.
    fn why_lost(&self) -> String {
        let mut all: BTreeMap<&str, u64> = BTreeMap::new();
        for (why, count) in self.runs.iter().flat_map(|figures| &figures.why_lost) {
            *all.entry(why).or_default() += count;
        }
        counted(all)
    }
}

fn counted<'a>(each: impl IntoIterator<Item = (&'a str, u64)>) -> String {
    let words = each
        .into_iter()
        .map(|(why, count)| format!("{why} × {count}"));
    let all: Vec<_> = words.collect();
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    }
}

/// One line of the table.
struct Row {
    /// The figure's name in JSON.
    field: &'static str,
    words: &'static str,
    digits: usize,
    value: fn(&Figures) -> f64,
}

const ROWS: &[Row] = &[
    Row {
        field: "requests",
        words: "requests",
        digits: 0,
        value: |f| f.requests as f64,
    },
    Row {
        field: "success_percent",
        words: "answered 2xx, %",
        digits: 3,
        value: |f| f.success_percent,
    },
    Row {
        field: "lost",
        words: "lost",
        digits: 0,
        value: |f| f.lost as f64,
    },
    Row {
        field: "unknown",
        words: "  acted upon all the same",
        digits: 0,
        value: |f| f.unknown as f64,
    },
    Row {
        field: "refused",
        words: "refused",
        digits: 0,
        value: |f| f.refused as f64,
    },
    Row {
        field: "duplicates",
        words: "executed twice",
        digits: 0,
        value: |f| f.duplicates as f64,
    },
    Row {
        field: "attempts_per_request",
        words: "attempts per request",
        digits: 4,
        value: |f| f.attempts_per_request,
    },
    Row {
        field: "p50_ms",
        words: "latency p50, ms",
        digits: 1,
        value: |f| f.p50_ms,
    },
    Row {
        field: "p99_ms",
        words: "latency p99, ms",
        digits: 1,
        value: |f| f.p99_ms,
    },
    Row {
        field: "max_ms",
        words: "latency max, ms",
        digits: 1,
        value: |f| f.max_ms,
    },
    Row {
        field: "ejections",
        words: "ejections",
        digits: 0,
        value: |f| f.ejections as f64,
    },
];

/// Both policies on one scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The file's name.
    pub scenario: String,
    /// What the runs were seeded with.
    pub seeds: Vec<u64>,
    /// Seconds of virtual time in which requests came.
    pub seconds: f64,
    /// Our policy with the scenario's settings.
    pub outrigger: Runs,
    /// Service Connect's defaults.
    pub service_connect: Runs,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, seeds) = (self.seconds, self.seeds.len());
        writeln!(
            f,
            "{}: {seconds} s of virtual time, {seeds} seed(s) from {}",
            self.scenario, self.seeds[0]
        )?;
        let mut table = table(&["", "Outrigger", "Service Connect"]);
        for row in ROWS {
            let shown = [
                row.words.to_owned(),
                self.outrigger.shown(row),
                self.service_connect.shown(row),
            ];
            table.add_row(shown);
        }
        writeln!(f, "{table}")?;
        writeln!(f, "lost with Outrigger: {}", self.outrigger.why_lost())?;
        writeln!(
            f,
            "lost with Service Connect: {}",
            self.service_connect.why_lost()
        )
    }
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(head);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The model beside real processes on the same scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The file's name.
    pub scenario: String,
    /// Seconds in which requests came.
    pub seconds: f64,
    /// As computed, with several seeds: one run's chance is enough.
    pub simulated: Runs,
    /// As measured.
    pub real: Figures,
    /// How far apart the shares of answered requests are, in points of a percent.
    pub success_points: f64,
    /// How far apart the attempts per request are, in percent of the real ones.
    pub attempts_percent: f64,
    /// Whether both are within what is demanded.
    pub agrees: bool,
}

/// Points of success rate that model and reality may differ by.
const SUCCESS_POINTS: f64 = 0.5;
/// Percent of attempts per request that they may differ by.
const ATTEMPTS_PERCENT: f64 = 10.0;

impl Comparison {
    pub(super) fn of(name: &str, scenario: &Scenario, simulated: Runs, real: Figures) -> Self {
        let success_points = (simulated.mean["success_percent"] - real.success_percent).abs();
        let apart = (simulated.mean["attempts_per_request"] - real.attempts_per_request).abs();
        let attempts_percent = 100.0 * apart / real.attempts_per_request.max(f64::MIN_POSITIVE);
        Self {
            scenario: name.to_owned(),
            seconds: scenario.duration.as_secs_f64(),
            simulated,
            real,
            success_points,
            attempts_percent,
            agrees: success_points <= SUCCESS_POINTS && attempts_percent <= ATTEMPTS_PERCENT,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} s", self.scenario, self.seconds)?;
        let mut table = table(&["", "simulated", "real", "difference"]);
        for row in ROWS {
            let real = (row.value)(&self.real);
            let shown = |value: f64| format!("{value:.*}", row.digits);
            table.add_row([
                row.words.to_owned(),
                self.simulated.shown(row),
                shown(real),
                shown(self.simulated.mean[row.field] - real),
            ]);
        }
        writeln!(f, "{table}")?;
        writeln!(
            f,
            "lost as simulated, {} seeds: {}",
            self.simulated.runs.len(),
            self.simulated.why_lost()
        )?;
        let why = self.real.why_lost.iter();
        let real = counted(why.map(|(why, count)| (why.as_str(), *count)));
        writeln!(f, "lost really: {real}")?;
        let verdict = if self.agrees {
            "they agree"
        } else {
            "they do NOT agree"
        };
        writeln!(
            f,
            "{verdict}: success rate {:.3} points apart (at most {SUCCESS_POINTS}; another seed alone makes ± {:.3}), attempts per request \
             {:.2} % (at most {ATTEMPTS_PERCENT})",
            self.success_points, self.simulated.spread["success_percent"], self.attempts_percent
        )
    }
}
