//! What the attacks did, as a table for people and JSON for programs.

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::{Outcome, Turns};

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];

fn micros(turns: &Turns) -> [u64; 3] {
    QUANTILES.map(|(_, quantile)| turns.record.latency.value_at_quantile(quantile))
}

/// Under attack divided by quiet.
fn ratios(outcome: &Outcome) -> [f64; 3] {
    let (quiet, attacked) = (micros(&outcome.quiet), micros(&outcome.attacked));
    std::array::from_fn(|at| attacked[at] as f64 / quiet[at].max(1) as f64)
}

fn row(values: [impl ToString; 3]) -> String {
    values.map(|value| value.to_string()).join(" / ")
}

pub(super) fn print(outcomes: &[Outcome]) {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "attack",
        "connections (most open)",
        "good client µs p50 / p90 / p99: quiet",
        "under attack",
        "ratio",
        "failed of",
        "sidecar MiB: before, peak, after (bound)",
        "CPU s: quiet, attack",
        "verdict",
    ]);
    for outcome in outcomes {
        let memory = outcome.memory;
        table.add_row([
            outcome.kind.name().to_owned(),
            format!("{} ({})", outcome.connections, outcome.open),
            row(micros(&outcome.quiet)),
            row(micros(&outcome.attacked)),
            row(ratios(outcome).map(|ratio| format!("{ratio:.2}"))),
            format!(
                "{} of {}",
                outcome.failed(),
                outcome.quiet.record.sent + outcome.attacked.record.sent
            ),
            format!(
                "{:.1}, {:.1}, {:.1} ({:.0})",
                memory.before, memory.peak, memory.after, memory.bound
            ),
            format!("{:.2}, {:.2}", outcome.quiet.cpu, outcome.attacked.cpu),
            verdict(outcome),
        ]);
    }
    println!("{table}");
    for outcome in outcomes {
        let endings = outcome.endings.iter();
        let endings: Vec<_> = endings
            .map(|(how, count)| format!("{how}: {count}"))
            .collect();
        if !endings.is_empty() {
            println!(
                "{}: attackers' connections ended: {}",
                outcome.kind.name(),
                endings.join(", ")
            );
        }
        for turns in [&outcome.quiet, &outcome.attacked] {
            for (reason, count) in &turns.record.reasons {
                println!(
                    "{}: good requests failed: {reason}: {count}",
                    outcome.kind.name()
                );
            }
        }
    }
}

fn verdict(outcome: &Outcome) -> String {
    if outcome.failed() > 0 {
        "good requests failed".to_owned()
    } else if outcome.memory.peak > outcome.memory.bound {
        "memory over its bound".to_owned()
    } else {
        "good".to_owned()
    }
}

pub(super) fn json(outcomes: &[Outcome]) -> Value {
    let quantiles = |turns: &Turns| {
        let named = QUANTILES.iter().zip(micros(turns));
        named
            .map(|((name, _), micros)| ((*name).to_owned(), json!(micros)))
            .collect::<serde_json::Map<_, _>>()
    };
    let turns = |turns: &Turns| {
        json!({
            "requests": turns.record.sent,
            "failed": turns.record.failed,
            "reasons": turns.record.reasons,
            "latency_us": quantiles(turns),
            "sidecar_cpu_seconds": turns.cpu,
        })
    };
    let one = |outcome: &Outcome| {
        let memory = outcome.memory;
        json!({
            "attack": outcome.kind.name(),
            "connections": outcome.connections,
            "most_open": outcome.open,
            "endings": outcome.endings,
            "quiet": turns(&outcome.quiet),
            "attacked": turns(&outcome.attacked),
            "ratio": ratios(outcome),
            "sidecar_mib": { "before": memory.before, "peak": memory.peak, "after": memory.after, "bound": memory.bound },
            "good": outcome.is_good(),
        })
    };
    outcomes.iter().map(one).collect()
}
