//! The results as tables for people: medians of the rounds, then the verdicts.

use comfy_table::{Table, presets};

use super::results::{Cell, Results, Round, Subject};
use super::stats::median;
use super::verdict::word;

pub(super) fn print(results: &Results) {
    for peer in &results.peers {
        match (&peer.missing, &peer.version) {
            (Some(reason), _) => println!("{}: missing: {reason}", peer.name),
            (None, Some(version)) => println!("{} {version}", peer.name),
            (None, None) => {}
        }
    }
    println!("{}", results.machine.pinning);
    for cell in &results.cells {
        println!("\n{} — {}", cell.name, cell.title);
        println!("{}", figures(cell));
        if !cell.verdicts.is_empty() {
            println!("{}", verdicts(cell));
        }
        for note in &cell.notes {
            println!("  {note}");
        }
    }
}

fn figures(cell: &Cell) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let direct = cell.subjects.iter().find(|subject| subject.hops == 0);
    let memory = of(cell, |round| round.memory);
    let slow = of(cell, |round| round.slow_share);
    let mut header = vec!["peer".to_owned(), "hops".to_owned(), "rounds".to_owned()];
    if memory {
        header.push(cell.per.clone());
    } else {
        header.push(format!("CPU s / {}", cell.per));
        header.extend(["user", "system", "per second"].map(str::to_owned));
        header.extend(
            [
                "p50 µs",
                "p99 µs",
                "p99.9 µs",
                "added p50",
                "added p99",
                "added p99.9",
            ]
            .map(str::to_owned),
        );
        if slow {
            header.push("slow one's share".to_owned());
        }
        header.push("failed".to_owned());
    }
    table.set_header(header);
    for subject in &cell.subjects {
        if subject.rounds.is_empty() {
            continue;
        }
        let middle = |of: fn(&Round) -> f64| middle(subject, of);
        let added = |of: fn(&Round) -> f64| {
            let base = direct?;
            let differences: Vec<_> = subject
                .rounds
                .iter()
                .zip(&base.rounds)
                .map(|(round, base)| of(round) - of(base))
                .collect();
            Some(format!("{:.0}", median(&differences)))
        };
        let mut row = vec![
            subject.peer.clone(),
            subject.hops.to_string(),
            subject.rounds.len().to_string(),
        ];
        if memory {
            row.push(format!(
                "{:.2}",
                middle(|round| round.memory.unwrap_or(f64::NAN))
            ));
        } else {
            row.push(format!(
                "{:.3}",
                middle(|round| round.cpu_user + round.cpu_system)
            ));
            row.push(format!("{:.3}", middle(|round| round.cpu_user)));
            row.push(format!("{:.3}", middle(|round| round.cpu_system)));
            row.push(quantity(middle(|round| round.throughput)));
            row.push(format!("{:.0}", middle(|round| round.p50)));
            row.push(format!("{:.0}", middle(|round| round.p99)));
            row.push(format!("{:.0}", middle(|round| round.p999)));
            row.push(added(|round| round.p50).unwrap_or_default());
            row.push(added(|round| round.p99).unwrap_or_default());
            row.push(added(|round| round.p999).unwrap_or_default());
            if slow {
                let share = middle(|round| round.slow_share.unwrap_or(f64::NAN));
                row.push(format!("{:.1} %", share * 100.0));
            }
            let failed: u64 = subject.rounds.iter().map(|round| round.failed).sum();
            row.push(failed.to_string());
        }
        table.add_row(row);
    }
    table
}

fn of(cell: &Cell, figure: fn(&Round) -> Option<f64>) -> bool {
    let mut rounds = cell.subjects.iter().flat_map(|subject| &subject.rounds);
    rounds.any(|round| figure(round).is_some())
}

fn middle(subject: &Subject, of: fn(&Round) -> f64) -> f64 {
    let values: Vec<_> = subject.rounds.iter().map(of).collect();
    median(&values)
}

fn quantity(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{:.2} G", value / 1e9),
        value if value >= 1e6 => format!("{:.1} M", value / 1e6),
        value => format!("{value:.0}"),
    }
}

fn verdicts(cell: &Cell) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "ours against",
        "in",
        "ratio",
        "95 %",
        "pairs",
        "target",
        "reads",
    ]);
    for verdict in &cell.verdicts {
        table.add_row([
            verdict.against.clone(),
            verdict.metric.clone(),
            format!("{:.3}", verdict.ratio),
            format!("{:.3} – {:.3}", verdict.low, verdict.high),
            verdict.pairs.to_string(),
            format!("≤ {}", verdict.target),
            word(verdict.reading).to_owned(),
        ]);
    }
    table
}
