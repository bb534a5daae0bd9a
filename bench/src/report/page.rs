//! The HTML page: what ran and where, the verdicts, then each cell with its tables, plots and configurations.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{self, Bar};
use super::medians::{Row, figure, rows, word};
use crate::compare::results::{Cell, Reading, Results, Verdict};

/// The whole page.
pub(super) fn render(results: &Results) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Outrigger beside its peers" }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                header { (opening(results)) }
                main {
                    @for (index, cell) in results.cells.iter().enumerate() { (section(index, cell)) }
                }
            }
        }
    };
    page.into_string()
}

fn opening(results: &Results) -> Markup {
    let machine = &results.machine;
    let count = |reading| {
        let verdicts = results.cells.iter().flat_map(|cell| &cell.verdicts);
        verdicts
            .filter(|verdict| verdict.reading == reading)
            .count()
    };
    html! {
        h1 { "Outrigger beside its peers" }
        p.lead {
            "Every peer did the same job on the same machine in the same run, in turns. Trust the ratios, not the absolute "
            "figures. A ratio is ours divided by theirs, the median over interleaved pairs, with its 95 % bootstrap interval: "
            (reading(Reading::Better)) " when the whole interval lies below the target, " (reading(Reading::Missed))
            " when it lies above, else " (reading(Reading::Tied)) ", as always with fewer than 15 pairs."
        }
        p {
            "Of all verdicts, " strong { (count(Reading::Better)) } " are better, " strong { (count(Reading::Tied)) }
            " tied, " strong { (count(Reading::Missed)) } " missed."
        }
        dl {
            dt { "Began" } dd { (or_unknown(&results.began)) }
            dt { "Command" } dd { code { (or_unknown(&results.command)) } }
            dt { "Machine" }
            dd { (machine.cpus) " × " (or_unknown(&machine.model)) ", " (machine.memory_mib) " MiB, Linux " (or_unknown(&machine.kernel)) }
            @if !machine.pinning.is_empty() { dt { "Pinning" } dd { (machine.pinning) } }
        }
        div.wide { table {
            caption { "Peers" }
            thead { tr { th.text scope="col" { "peer" } th.text scope="col" { "version" } } }
            tbody { @for peer in &results.peers { tr {
                th scope="row" { (peer.name) }
                td.text {
                    @match &peer.missing {
                        Some(reason) => span.missing { "missing: " (reason) },
                        None if peer.name == "direct" => "no proxy: what the others are measured against",
                        None => (peer.version.as_deref().unwrap_or("–")),
                    }
                }
            } } }
        } }
        @if results.cells.is_empty() {
            p { "No cell was measured." }
        } @else {
            nav aria-label="Cells" { ol {
                @for (index, cell) in results.cells.iter().enumerate() {
                    li { a href={ "#cell-" (index) } { (heading(cell)) } }
                }
            } }
        }
    }
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "unknown" } else { text }
}

fn heading(cell: &Cell) -> &str {
    if cell.title.is_empty() {
        &cell.name
    } else {
        &cell.title
    }
}

fn reading(reading: Reading) -> Markup {
    let word = word(reading);
    html! { span class={ "reading " (word) } { (word) } }
}

fn section(index: usize, cell: &Cell) -> Markup {
    let rows = rows(cell);
    html! {
        section id={ "cell-" (index) } aria-labelledby={ "title-" (index) } {
            h2 id={ "title-" (index) } { (heading(cell)) }
            p.key {
                (cell.name)
                @if let Some(rate) = cell.rate { " · " (figure(Some(f64::from(rate)))) " requests a second" }
            }
            @if !cell.notes.is_empty() { ul.notes { @for note in &cell.notes { li { (note) } } } }
            @if rows.is_empty() {
                p { "No figures." }
            } @else {
                (verdicts(&cell.verdicts))
                (figures(cell, &rows))
                (plots(cell, &rows))
                (configurations(&rows))
            }
        }
    }
}

fn verdicts(verdicts: &[Verdict]) -> Markup {
    html! { @if !verdicts.is_empty() { div.wide { table {
        caption { "Ours divided by theirs" }
        thead { tr {
            th.text scope="col" { "metric" } th.text scope="col" { "against" } th scope="col" { "ratio" }
            th scope="col" { "95 % interval" } th scope="col" { "pairs" } th scope="col" { "target" } th scope="col" { "reading" }
        } }
        tbody { @for verdict in verdicts { tr {
            th scope="row" { (verdict.metric.replace('_', " ")) }
            td.text { (verdict.against) }
            td { (figure(Some(verdict.ratio))) }
            td { (figure(Some(verdict.low))) "–" (figure(Some(verdict.high))) }
            td { (verdict.pairs) }
            td { "≤ " (figure(Some(verdict.target))) }
            td { (reading(verdict.reading)) }
        } } }
    } } } }
}

/// A column of the table of medians, left out where nobody has a figure.
struct Column {
    title: String,
    of: fn(&Row<'_>) -> Option<f64>,
    percent: bool,
}

fn columns(cell: &Cell, rows: &[Row<'_>]) -> Vec<Column> {
    let column = |title: &str, of| Column {
        title: title.to_owned(),
        of,
        percent: false,
    };
    let per = &cell.per;
    let all = vec![
        column(&format!("CPU s / {per}"), |row| row.cpu),
        column("user", |row| row.user),
        column("system", |row| row.system),
        column(per, |row| row.memory),
        column("per second", |row| row.throughput),
        column("p50 µs", |row| row.p50),
        column("p99 µs", |row| row.p99),
        column("p99.9 µs", |row| row.p999),
        column("added p50", |row| row.added_p50),
        column("added p99", |row| row.added_p99),
        Column {
            percent: true,
            ..column("slow one’s share", |row| row.slow_share)
        },
    ];
    let has = |column: &Column| rows.iter().any(|row| (column.of)(row).is_some());
    all.into_iter().filter(has).collect()
}

fn figures(cell: &Cell, rows: &[Row<'_>]) -> Markup {
    let columns = columns(cell, rows);
    let mut named: Vec<(&str, &str)> = Vec::new();
    for figure in rows.iter().flat_map(|row| &row.subject.figures) {
        if !named.iter().any(|(name, _)| *name == figure.name) {
            named.push((&figure.name, &figure.unit));
        }
    }
    html! { div.wide { table {
        caption { "Medians of the rounds" }
        thead { tr {
            th.text scope="col" { "peer" } th scope="col" { "proxies" } th scope="col" { "rounds" }
            @for column in &columns { th scope="col" { (column.title) } }
            @for (name, unit) in &named { th scope="col" { (name.replace('_', " ")) @if !unit.is_empty() { ", " (unit) } } }
            th scope="col" { "failed" }
        } }
        tbody { @for row in rows { tr.ours[row.is_ours()] {
            th scope="row" { (row.subject.peer) }
            td { (row.subject.hops) }
            td { (row.subject.rounds.len()) }
            @for column in &columns { td { (shown(column, row)) } }
            @for (name, _) in &named {
                td { (figure(row.subject.figures.iter().find(|figure| figure.name == *name).map(|figure| figure.value))) }
            }
            td { (row.failed) }
        } } }
    } } }
}

fn shown(column: &Column, row: &Row<'_>) -> String {
    let value = (column.of)(row);
    if column.percent {
        value.map_or("–".to_owned(), |share| format!("{:.1} %", share * 100.0))
    } else {
        figure(value)
    }
}

fn plots(cell: &Cell, rows: &[Row<'_>]) -> Markup {
    html! {
        (cpu_bars(cell, rows))
        (memory_bars(cell, rows))
        (curves(cell, rows))
    }
}

fn cpu_bars(cell: &Cell, rows: &[Row<'_>]) -> Markup {
    let bars: Vec<_> = rows
        .iter()
        .filter_map(|row| {
            let (cpu, user, system) = (row.cpu?, row.user?, row.system?);
            Some(Bar {
                label: row.label(),
                // Medians of two parts do not add up to the median of the sum; the bar is as long as that.
                parts: [user, system]
                    .map(|part| part * cpu / (user + system))
                    .into(),
                text: format!(
                    "{} ({} + {})",
                    figure(Some(cpu)),
                    figure(Some(user)),
                    figure(Some(system))
                ),
                ours: row.is_ours(),
            })
        })
        .collect();
    let caption = format!("CPU seconds of the proxies per {}", cell.per);
    let plot = chart::bars(&format!("{caption}: {}", spoken(&bars)), &caption, &bars);
    let [user, system] = chart::PARTS.map(chart::css);
    html! { @if let Some(plot) = plot { figure {
        figcaption { (caption)
            ul.legend { (swatch(&user, "user")) (swatch(&system, "system")) }
        }
        (PreEscaped(plot))
    } } }
}

/// Memory of a cell that measures it, and every named figure in MiB or KiB.
fn memory_bars(cell: &Cell, rows: &[Row<'_>]) -> Markup {
    let bar = |row: &Row<'_>, value: f64, unit: &str| Bar {
        label: row.label(),
        parts: vec![value],
        text: format!("{} {unit}", figure(Some(value))),
        ours: row.is_ours(),
    };
    let unit = cell.per.split_whitespace().next().unwrap_or_default();
    let rounds: Vec<_> = rows
        .iter()
        .filter_map(|row| Some(bar(row, row.memory?, unit)))
        .collect();
    let mut sets = vec![(format!("Memory, {}", cell.per), rounds)];
    for row in rows {
        for named in row
            .subject
            .figures
            .iter()
            .filter(|named| named.unit.ends_with("iB"))
        {
            let caption = format!("{}, {}", named.name.replace('_', " "), named.unit);
            let bar = bar(row, named.value, &named.unit);
            match sets.iter_mut().find(|(known, _)| *known == caption) {
                Some((_, bars)) => bars.push(bar),
                None => sets.push((caption, vec![bar])),
            }
        }
    }
    let plot = |caption: &str, bars: &[Bar]| {
        chart::bars(&format!("{caption}: {}", spoken(bars)), caption, bars)
    };
    html! { @for (caption, bars) in &sets { @if let Some(plot) = plot(caption, bars) { figure {
        figcaption { (caption) }
        (PreEscaped(plot))
    } } } }
}

fn spoken(bars: &[Bar]) -> String {
    let all: Vec<_> = bars
        .iter()
        .map(|bar| format!("{} {}", bar.label, bar.text))
        .collect();
    all.join("; ")
}

fn curves(cell: &Cell, rows: &[Row<'_>]) -> Markup {
    let with: Vec<_> = rows
        .iter()
        .filter(|row| !row.subject.latency.is_empty())
        .collect();
    let names: Vec<_> = with.iter().map(|row| row.subject.peer.as_str()).collect();
    let colours = chart::colours(&names);
    let lines: Vec<_> = colours
        .iter()
        .zip(&with)
        .map(|(colour, row)| (*colour, row.subject.latency.as_slice()))
        .collect();
    let alt = format!(
        "Latency by percentile, {}: {}",
        heading(cell),
        names.join(", ")
    );
    html! { @if let Some(plot) = chart::percentiles(&alt, &lines) { figure {
        figcaption { "Latency from the intended send time, all rounds together"
            ul.legend { @for (colour, row) in colours.iter().zip(&with) { (swatch(&chart::css(*colour), &row.label())) } }
        }
        (PreEscaped(plot))
    } } }
}

fn swatch(colour: &str, name: &str) -> Markup {
    html! { li { span.swatch style={ "background:" (colour) } {} (name) } }
}

fn configurations(rows: &[Row<'_>]) -> Markup {
    html! { @for row in rows.iter().filter(|row| !row.subject.configuration.is_empty()) { details {
        summary { "Configuration of " (row.label()) }
        @for (name, text) in &row.subject.configuration {
            h3 { (name) }
            pre { code { (text) } }
        }
    } } }
}
