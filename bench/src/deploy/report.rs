//! What the deployments cost: the audit and the latencies as a table, as JSON, and the verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use hdrhistogram::Histogram;
use http::Method;
use serde::Serialize;

use super::{Kind, Options};
use crate::ledger::Audit;
use crate::load::{Ended, Record, Sent, Wire};

/// Longer than any timeout.
const HOUR_MICROS: u64 = 3_600_000_000;

/// A run of deployments.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Tasks that were replaced.
    pub replaced: u32,
    /// From the first task's start to the last one's end.
    pub seconds: f64,
    /// Milliseconds from SIGTERM to the end of both processes.
    pub drain_ms: Latency,
    /// One for each kind of request.
    pub rows: Vec<Row>,
    /// What the client's sidecar answered itself, by its reason (`kind` of `outrigger_errors_total`).
    pub refusals: BTreeMap<String, u64>,
    /// What should not have been; empty when `good`.
    pub complaints: Vec<String>,
    /// The verdict.
    pub good: bool,
}

/// One kind of request.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Protocol and method.
    pub name: &'static str,
    /// Whether a request may be made twice (RFC 9110 section 9.2.2).
    pub idempotent: bool,
    /// What became of all of them.
    pub audit: Audit,
    /// Answers before the first deployment, milliseconds.
    pub quiet: Latency,
    /// Answers during the deployments, milliseconds.
    pub during: Latency,
    #[serde(skip)]
    streamed: bool,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half of them took no longer.
    pub p50: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, HOUR_MICROS, 3)
            .expect("1 µs to one hour at 3 digits is valid");
        for time in times {
            let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            histogram.saturating_record(micros.max(1));
        }
        if histogram.is_empty() {
            return Self::default();
        }
        let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            p50: ms(0.5),
            p99: ms(0.99),
            max: ms(1.0),
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} / {:.1} / {:.1}", self.p50, self.p99, self.max)
    }
}

impl Row {
    pub(super) fn new(kind: &Kind, record: &Record, audit: Audit, began: Instant) -> Self {
        let answered = |sent: &&Sent| sent.ended == Ended::Answered;
        let took = |sent: &Sent| sent.at.saturating_duration_since(sent.due);
        let (quiet, during): (Vec<_>, Vec<_>) = record
            .requests
            .iter()
            .filter(answered)
            .partition(|sent| sent.due < began);
        Self {
            name: kind.name,
            idempotent: kind.method != Method::POST,
            audit,
            quiet: Latency::of(quiet.into_iter().map(took)),
            during: Latency::of(during.into_iter().map(took)),
            streamed: kind.wire == Wire::Bidi,
        }
    }

    /// What a run must not show. Applications that close at once leave POSTs whose fate nobody knows: those are told as 502.
    fn complaints(&self, close_at_once: bool) -> Vec<String> {
        let Self { name, audit, .. } = self;
        let mut complaints = Vec::new();
        let mut expect_none = |count: u64, what: &str| {
            if count > 0 {
                complaints.push(format!("{name}: {count} {what}, none should be"));
            }
        };
        let excused = match close_at_once && !self.idempotent {
            false => 0,
            // A gRPC call hears of it by its grpc-status.
            true if self.streamed => audit.failed,
            true => audit.statuses.get(&502).copied().unwrap_or_default(),
        };
        expect_none(audit.failed - excused, "failed");
        expect_none(audit.duplicated, "acted upon more than once");
        expect_none(audit.phantom, "acted upon and never sent");
        expect_none(audit.unrecorded, "answered and never acted upon");
        if audit.answered == 0 {
            complaints.push(format!("{name}: nothing was answered"));
        }
        complaints
    }
}

impl Report {
    pub(super) fn new(
        options: &Options,
        seconds: f64,
        drains: &[Duration],
        rows: Vec<Row>,
        refusals: BTreeMap<String, u64>,
    ) -> Self {
        let complaints = rows
            .iter()
            .flat_map(|row| row.complaints(options.close_at_once));
        let complaints: Vec<_> = complaints.collect();
        Self {
            replaced: options.rounds * u32::from(options.tasks),
            seconds,
            drain_ms: Latency::of(drains.iter().copied()),
            good: complaints.is_empty(),
            complaints,
            refusals,
            rows,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header([
            "requests",
            "sent",
            "answered",
            "failed: as",
            "acted upon, yet failed",
            "duplicated",
            "phantom",
            "ms p50 / p99 / max: quiet",
            "through the deployments",
        ]);
        for row in &self.rows {
            let audit = &row.audit;
            table.add_row([
                row.name.to_owned(),
                audit.sent.to_string(),
                audit.answered.to_string(),
                format!("{}: {}", audit.failed, audit.failures()),
                audit.unknown.to_string(),
                audit.duplicated.to_string(),
                audit.phantom.to_string(),
                row.quiet.to_string(),
                row.during.to_string(),
            ]);
        }
        writeln!(f, "{table}")?;
        writeln!(
            f,
            "{} tasks replaced in {:.0} s; from SIGTERM to the end of a task {} ms",
            self.replaced, self.seconds, self.drain_ms
        )?;
        if !self.refusals.is_empty() {
            writeln!(
                f,
                "the client's sidecar answered itself: {:?}",
                self.refusals
            )?;
        }
        match self.complaints.as_slice() {
            [] => writeln!(f, "verdict: GOOD"),
            complaints => writeln!(f, "verdict: BAD: {}", complaints.join("; ")),
        }
    }
}
