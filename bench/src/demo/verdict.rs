//! The plain verdict: what was sent, what failed in which phase, and how fast the new task got its first request.

use std::fmt;
use std::time::{Duration, Instant};

use crate::load::Record;

/// The new task must have answered by then; a push takes milliseconds, so this is only the line between well and ill.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// A stretch of traffic after one event.
#[derive(Debug)]
pub(super) struct Phase {
    name: &'static str,
    start: Instant,
}

impl Phase {
    pub(super) fn begin(name: &'static str) -> Self {
        Self {
            name,
            start: Instant::now(),
        }
    }
}

/// Everything the demo concludes from a run.
pub(super) struct Verdict<'a> {
    record: &'a Record,
    /// A phase's name and the failures known in it.
    failed: Vec<(&'static str, usize)>,
    /// From the last moment without the new task in the registry to its first answer.
    first_answer: Option<Duration>,
    complaints: Vec<String>,
}

impl<'a> Verdict<'a> {
    pub(super) fn new(record: &'a Record, phases: Vec<Phase>, change: Option<Instant>) -> Self {
        let ends = phases
            .iter()
            .skip(1)
            .map(|phase| Some(phase.start))
            .chain([None]);
        let failed = phases.iter().zip(ends).map(|(phase, end)| {
            let within = |at: Instant| at >= phase.start && end.is_none_or(|end| at < end);
            (
                phase.name,
                record
                    .failures
                    .iter()
                    .filter(|failure| within(failure.at))
                    .count(),
            )
        });
        let first = record.by_task.get("orders-4").map(|seen| seen.first);
        let first_answer = change
            .zip(first)
            .map(|(change, first)| first.saturating_duration_since(change));
        let mut verdict = Self {
            record,
            failed: failed.collect(),
            first_answer,
            complaints: Vec::new(),
        };
        verdict.complaints = verdict.complaints();
        verdict
    }

    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.record.failed > 0 {
            complaints.push(format!(
                "{} idempotent requests failed, none should",
                self.record.failed
            ));
        }
        for n in 1..=4 {
            if !self.record.by_task.contains_key(&format!("orders-{n}")) {
                complaints.push(format!("orders-{n} answered nothing"));
            }
        }
        if let Some(late) = self.first_answer.filter(|time| *time > FIRST_ANSWER) {
            complaints.push(format!(
                "the new task's first answer took {late:?}, more than {FIRST_ANSWER:?}"
            ));
        }
        complaints
    }

    pub(super) fn is_good(&self) -> bool {
        self.complaints.is_empty()
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.record;
        writeln!(f, "\nrequests sent    {}", record.sent)?;
        writeln!(f, "failed           {}", record.failed)?;
        for (phase, failed) in &self.failed {
            writeln!(f, "    {phase:<22} {failed}")?;
        }
        for (reason, count) in &record.reasons {
            writeln!(f, "    {count} × {reason}")?;
        }
        let at = |quantile| record.latency_ms(quantile);
        writeln!(
            f,
            "latency          p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            at(0.5),
            at(0.99),
            at(1.0)
        )?;
        for (task, seen) in &record.by_task {
            writeln!(f, "{task:<16} {} answers", seen.answers)?;
        }
        if let Some(time) = self.first_answer {
            let ms = time.as_secs_f64() * 1000.0;
            writeln!(
                f,
                "registry change to first answer of the new task: {ms:.1} ms at most, 10 ms of it the answer itself"
            )?;
        }
        match self.complaints.as_slice() {
            [] => writeln!(f, "verdict: GOOD"),
            complaints => writeln!(f, "verdict: BAD: {}", complaints.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Failure, TaskSeen};

    fn record(now: Instant) -> Record {
        let mut record = Record {
            sent: 40,
            ..Record::default()
        };
        for n in 1..=4 {
            record.by_task.insert(
                format!("orders-{n}"),
                TaskSeen {
                    answers: 10,
                    first: now,
                },
            );
        }
        record
    }

    #[test]
    fn a_run_without_failures_in_which_every_task_answered_is_good() {
        let now = Instant::now();
        let record = record(now + Duration::from_millis(12));
        let verdict = Verdict::new(
            &record,
            vec![Phase {
                name: "all",
                start: now,
            }],
            Some(now),
        );
        assert!(verdict.is_good());
        assert!(
            verdict
                .to_string()
                .contains("12.0 ms at most, 10 ms of it the answer itself\nverdict: GOOD"),
            "{verdict}"
        );
    }

    #[test]
    fn a_failure_is_bad_and_counted_in_its_phase() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let mut record = record(now);
        record.failed = 1;
        record.failures.push(Failure {
            sent: now,
            at: later,
            reason: "reset".to_owned(),
        });
        let phases = vec![
            Phase {
                name: "before",
                start: now,
            },
            Phase {
                name: "kill",
                start: later,
            },
        ];
        let verdict = Verdict::new(&record, phases, Some(now));
        assert!(!verdict.is_good());
        assert_eq!(verdict.failed, [("before", 0), ("kill", 1)]);
    }

    #[test]
    fn a_task_without_an_answer_or_a_slow_first_answer_is_bad() {
        let now = Instant::now();
        let mut silent = record(now);
        silent.by_task.remove("orders-4");
        assert!(!Verdict::new(&silent, Vec::new(), Some(now)).is_good());
        let slow = record(now + Duration::from_secs(3));
        assert!(!Verdict::new(&slow, Vec::new(), Some(now)).is_good());
    }
}
