//! What a run of load saw: counts, latencies, the tasks that answered, and every failure with its time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Failures kept with their time; more are only counted.
const KEPT_FAILURES: usize = 1000;

/// An hour in microseconds: longer than any timeout a plan sets.
const LONGEST_MICROS: u64 = 3_600_000_000;

/// What a run of load saw.
#[derive(Debug, Clone)]
pub struct Record {
    /// Requests that ended, either way.
    pub sent: u64,
    /// Requests without a complete 2xx answer.
    pub failed: u64,
    /// Answers by the name in `x-task`.
    pub by_task: BTreeMap<String, TaskSeen>,
    /// Failures by reason.
    pub reasons: BTreeMap<String, u64>,
    /// The first 1,000 failures.
    pub failures: Vec<Failure>,
    /// Bytes of response bodies.
    pub bytes: u64,
    /// Microseconds from the intended send time to the last byte, of complete 2xx answers.
    pub latency: Histogram<u64>,
    /// Microseconds by which the generator itself sent late although a connection was free; they are in `latency` too.
    pub late: Histogram<u64>,
    /// How each request ended, of a plan with ids.
    pub requests: Vec<Sent>,
}

/// One request that carried an id.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Its number within the load.
    pub number: u64,
    /// When it should have been sent.
    pub due: Instant,
    /// When its end was known.
    pub at: Instant,
    /// How it ended.
    pub ended: Ended,
}

/// What a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A complete 2xx answer.
    Answered,
    /// Another status.
    Status(u16),
    /// No complete answer.
    Broken,
}

/// One task's share.
#[derive(Debug, Clone)]
pub struct TaskSeen {
    /// Complete 2xx answers.
    pub answers: u64,
    /// When its first answer was complete.
    pub first: Instant,
}

/// One request that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When it should have been sent.
    pub sent: Instant,
    /// When it was known to have failed.
    pub at: Instant,
    /// Why.
    pub reason: String,
}

/// A complete answer: the task's name, the status and the body's size.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) task: Option<http::HeaderValue>,
    pub(super) status: http::StatusCode,
    pub(super) bytes: u64,
}

impl Answer {
    pub(super) fn new(head: &http::response::Parts, bytes: u64) -> Self {
        Self {
            task: head.headers.get(crate::origin::TASK_HEADER).cloned(),
            status: head.status,
            bytes,
        }
    }
}

impl Default for Record {
    fn default() -> Self {
        Self {
            sent: 0,
            failed: 0,
            by_task: BTreeMap::new(),
            reasons: BTreeMap::new(),
            failures: Vec::new(),
            bytes: 0,
            latency: Histogram::new_with_bounds(1, LONGEST_MICROS, 3)
                .expect("1 µs to one hour at 3 digits is valid"),
            late: Histogram::new_with_bounds(1, LONGEST_MICROS, 2)
                .expect("1 µs to one hour at 2 digits is valid"),
            requests: Vec::new(),
        }
    }
}

impl Record {
    pub(super) fn note(&mut self, sent: Instant, now: Instant, outcome: Result<Answer, String>) {
        self.sent += 1;
        let answer = match outcome {
            Ok(answer) if answer.status.is_success() => answer,
            Ok(answer) => return self.fail(sent, now, status_reason(&answer)),
            Err(reason) => return self.fail(sent, now, reason),
        };
        self.bytes += answer.bytes;
        let micros = u64::try_from((now - sent).as_micros()).unwrap_or(LONGEST_MICROS);
        self.latency.saturating_record(micros.max(1));
        let Some(task) = answer.task.as_ref().and_then(|name| name.to_str().ok()) else {
            return;
        };
        match self.by_task.get_mut(task) {
            Some(seen) => seen.answers += 1,
            None => {
                self.by_task.insert(
                    task.to_owned(),
                    TaskSeen {
                        answers: 1,
                        first: now,
                    },
                );
            }
        }
    }

    /// Keeps how one request with an id ended.
    pub(super) fn keep(
        &mut self,
        number: u64,
        due: Instant,
        at: Instant,
        outcome: &Result<Answer, String>,
    ) {
        let ended = match outcome {
            Ok(answer) if answer.status.is_success() => Ended::Answered,
            Ok(answer) => Ended::Status(answer.status.as_u16()),
            Err(_) => Ended::Broken,
        };
        self.requests.push(Sent {
            number,
            due,
            at,
            ended,
        });
    }

    pub(super) fn note_late(&mut self, late: Duration) {
        let micros = u64::try_from(late.as_micros()).unwrap_or(LONGEST_MICROS);
        self.late.saturating_record(micros.max(1));
    }

    fn fail(&mut self, sent: Instant, at: Instant, reason: String) {
        self.failed += 1;
        if self.failures.len() < KEPT_FAILURES {
            self.failures.push(Failure {
                sent,
                at,
                reason: reason.clone(),
            });
        }
        *self.reasons.entry(reason).or_default() += 1;
    }

    /// Adds what another connection saw.
    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.failed += other.failed;
        self.bytes += other.bytes;
        self.latency
            .add(&other.latency)
            .expect("both histograms have the same bounds");
        self.late
            .add(&other.late)
            .expect("both histograms have the same bounds");
        for (task, seen) in &other.by_task {
            let mine = self.by_task.entry(task.clone()).or_insert(TaskSeen {
                answers: 0,
                first: seen.first,
            });
            mine.answers += seen.answers;
            mine.first = mine.first.min(seen.first);
        }
        for (reason, count) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
        self.requests.extend_from_slice(&other.requests);
        let room = KEPT_FAILURES - self.failures.len();
        self.failures
            .extend(other.failures.iter().take(room).cloned());
    }

    /// Milliseconds at a quantile (0.0 to 1.0).
    pub fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }
}

fn status_reason(answer: &Answer) -> String {
    match answer.task.as_ref().and_then(|task| task.to_str().ok()) {
        Some(task) => format!("status {} from {task}", answer.status.as_u16()),
        None => format!("status {} made by a proxy", answer.status.as_u16()),
    }
}
