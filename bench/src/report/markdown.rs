//! The README's table: a row for each cell, a column for each peer, and how ours stands to the best of them.

use std::fmt::Write;

use super::medians::{OURS, Row, figure, first_target, rows, word};
use crate::compare::results::{Cell, Results};

pub(super) fn render(results: &Results) -> String {
    let measured = |name: &&str| {
        let subjects = results.cells.iter().flat_map(|cell| &cell.subjects);
        subjects
            .into_iter()
            .any(|subject| subject.peer == **name && subject.hops > 0)
    };
    let mut peers: Vec<&str> = Vec::new();
    let named = results.peers.iter().map(|peer| peer.name.as_str());
    let seen = results
        .cells
        .iter()
        .flat_map(|cell| &cell.subjects)
        .map(|subject| subject.peer.as_str());
    for name in named.chain(seen) {
        if !peers.contains(&name) && measured(&name) {
            peers.push(name);
        }
    }
    peers.sort_by_key(|name| !name.starts_with(OURS));

    let mut text = String::from("| cell | per |");
    for peer in &peers {
        push(&mut text, peer);
    }
    text.push_str(" ours ÷ theirs [95 %] | target | reading | added p50 / p99 µs: ours | lowest peer |\n|---|---|");
    text.push_str(&"---|".repeat(peers.len() + 5));
    text.push('\n');
    for cell in results
        .cells
        .iter()
        .filter(|cell| !cell.subjects.is_empty())
    {
        row(&mut text, cell, &peers);
    }
    for peer in results.peers.iter().filter(|peer| peer.missing.is_some()) {
        let reason = peer.missing.as_deref().unwrap_or_default();
        let _ = writeln!(
            text,
            "\n{} is missing: {}",
            plain(&peer.name),
            plain(reason)
        );
    }
    text
}

fn row(text: &mut String, cell: &Cell, peers: &[&str]) {
    let rows = rows(cell);
    text.push('|');
    push(text, &cell.title);
    push(text, &cell.per);
    for peer in peers {
        let of_peer = rows
            .iter()
            .filter(|row| row.subject.peer == **peer && row.subject.hops > 0);
        let cost: Vec<_> = of_peer.map(cost).collect();
        push(
            text,
            &if cost.is_empty() {
                "–".to_owned()
            } else {
                cost.join("; ")
            },
        );
    }
    match first_target(cell) {
        Some(verdict) => {
            let (low, high) = (figure(Some(verdict.low)), figure(Some(verdict.high)));
            push(
                text,
                &format!(
                    "{} [{low}–{high}] {}",
                    figure(Some(verdict.ratio)),
                    verdict.against
                ),
            );
            push(text, &format!("≤ {}", figure(Some(verdict.target))));
            push(text, word(verdict.reading));
        }
        None => text.push_str(" – | – | – |"),
    }
    let added = |row: &Row<'_>| Some((row.added_p50?, row.added_p99?));
    let ours = rows.iter().find(|row| row.is_ours()).and_then(added);
    let lowest = rows
        .iter()
        .filter(|row| !row.is_ours())
        .filter_map(|row| Some((added(row)?, row.label())));
    let lowest = lowest.min_by(|a, b| a.0.0.total_cmp(&b.0.0));
    let pair = |(p50, p99): (f64, f64)| format!("{p50:.0} / {p99:.0}");
    push(text, &ours.map_or("–".to_owned(), pair));
    push(
        text,
        &lowest.map_or("–".to_owned(), |(added, label)| {
            format!("{} {label}", pair(added))
        }),
    );
    text.push('\n');
}

/// `1.46 (0.36 + 1.10)`, or memory alone.
fn cost(row: &Row<'_>) -> String {
    let hops = match row.subject.hops {
        0 | 1 => String::new(),
        hops => format!(" × {hops} hops"),
    };
    match (row.cpu, row.user, row.system) {
        (Some(cpu), Some(user), Some(system)) => {
            format!(
                "{} ({} + {}){hops}",
                figure(Some(cpu)),
                figure(Some(user)),
                figure(Some(system))
            )
        }
        _ => format!("{}{hops}", figure(row.memory)),
    }
}

fn push(text: &mut String, cell: &str) {
    let _ = write!(text, " {} |", plain(cell));
}

/// Text that is neither markup nor a column.
fn plain(text: &str) -> String {
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
