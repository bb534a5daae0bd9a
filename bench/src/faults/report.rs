//! Expected beside measured: a table for people, JSON for programs, and the verdict.

use comfy_table::{Table, presets};
use serde::Serialize;

use super::fault::Bound;
use super::{Expected, Fault};
use crate::ledger::Audit;

const COLUMNS: usize = 11;

/// What came of a fault.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The GETs; one that was tried elsewhere may be in the ledger twice.
    pub gets: Audit,
    /// The POSTs.
    pub posts: Audit,
    /// Attempts per request.
    pub attempts: f64,
    /// Share of the answers that came from the struck tasks.
    pub faulty_share: f64,
    /// Milliseconds that 99 of 100 answered requests took at most.
    pub p99_ms: f64,
}

/// A fault, what was expected of it, and what came of it.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// In a few words.
    pub fault: &'static str,
    /// What should come of it.
    pub expected: Expected,
    /// What came of it; `None` when it could not be tried here.
    pub measured: Option<Measured>,
    /// Why it could not be tried here.
    pub skipped: Option<String>,
    /// What differs from what was expected.
    pub complaints: Vec<String>,
}

impl Outcome {
    pub(super) fn new(fault: Fault, measured: Measured) -> Self {
        let expected = fault.expected();
        Self {
            fault: fault.what(),
            complaints: complaints(&expected, &measured),
            expected,
            measured: Some(measured),
            skipped: None,
        }
    }

    pub(super) fn skipped(fault: Fault, why: String) -> Self {
        Self {
            fault: fault.what(),
            expected: fault.expected(),
            measured: None,
            skipped: Some(why),
            complaints: Vec::new(),
        }
    }

    /// Whether nothing differs from what was expected; what was not tried does not.
    pub fn is_good(&self) -> bool {
        self.complaints.is_empty()
    }

    fn verdict(&self) -> String {
        match (&self.skipped, self.complaints.as_slice()) {
            (Some(_), _) => "SKIPPED".to_owned(),
            (None, []) => "GOOD".to_owned(),
            (None, complaints) => format!("BAD: {}", complaints.join("; ")),
        }
    }
}

fn complaints(expected: &Expected, measured: &Measured) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut expect = |met: bool, complaint: String| {
        if !met {
            complaints.push(complaint);
        }
    };
    for (audit, bound, what) in [
        (&measured.gets, expected.get_failures, "GETs"),
        (&measured.posts, expected.post_failures, "POSTs"),
    ] {
        let (failed, sent) = (audit.failed, audit.sent);
        let met = match bound {
            Bound::AtMost(most) => failed <= most,
            Bound::All => failed == sent,
        };
        expect(
            met,
            format!("{failed} of {sent} {what} failed, expected {bound}"),
        );
        expect(sent > 0, format!("no {what} were sent"));
        let unreal = audit.phantom + audit.unrecorded;
        expect(
            unreal == 0,
            format!("{unreal} {what} are in the ledger alone or missing there"),
        );
    }
    let twice = measured.posts.duplicated;
    expect(
        twice == 0,
        format!("{twice} POSTs were acted upon more than once"),
    );
    expect(
        measured.attempts <= expected.attempts,
        format!(
            "{:.3} attempts per request, expected at most {}",
            measured.attempts, expected.attempts
        ),
    );
    expect(
        measured.faulty_share <= expected.faulty_share,
        format!(
            "{:.0} % of the answers from the struck tasks, expected at most {:.0} %",
            measured.faulty_share * 100.0,
            expected.faulty_share * 100.0
        ),
    );
    complaints
}

pub(super) fn print(outcomes: &[Outcome]) {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let header: [&str; COLUMNS] = [
        "fault",
        "GETs failed: expected",
        "of",
        "POSTs failed: expected",
        "of",
        "success",
        "POSTs twice: expected none",
        "attempts: expected",
        "struck tasks' share: expected",
        "p99 ms",
        "verdict",
    ];
    table.set_header(header);
    for outcome in outcomes {
        let Expected {
            get_failures,
            post_failures,
            attempts,
            faulty_share,
        } = outcome.expected;
        let Some(measured) = &outcome.measured else {
            let mut row = vec![String::new(); COLUMNS];
            row[0] = outcome.fault.to_owned();
            row[COLUMNS - 1] = outcome.verdict();
            table.add_row(row);
            continue;
        };
        let Measured { gets, posts, .. } = measured;
        let mut both = gets.clone();
        both.add(posts);
        table.add_row([
            outcome.fault.to_owned(),
            format!("{} ({}): {get_failures}", gets.failed, gets.failures()),
            gets.sent.to_string(),
            format!("{} ({}): {post_failures}", posts.failed, posts.failures()),
            posts.sent.to_string(),
            format!("{:.2} %", both.success() * 100.0),
            posts.duplicated.to_string(),
            format!("{:.3}: at most {attempts}", measured.attempts),
            format!(
                "{:.0} %: at most {:.0} %",
                measured.faulty_share * 100.0,
                faulty_share * 100.0
            ),
            format!("{:.0}", measured.p99_ms),
            outcome.verdict(),
        ]);
    }
    println!("{table}");
    for outcome in outcomes {
        if let Some(why) = &outcome.skipped {
            println!("skipped: {}: {why}", outcome.fault);
        }
    }
    let bad = outcomes.iter().filter(|outcome| !outcome.is_good()).count();
    match bad {
        0 => println!("verdict: GOOD"),
        _ => println!(
            "verdict: BAD: {bad} of {} differ from what was expected",
            outcomes.len()
        ),
    }
}
