//! The live table on a terminal; elsewhere only the events, one line each.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::load::{Load, Record};

const REDRAW: Duration = Duration::from_millis(250);

/// Where the demo is shown.
pub(super) struct Screen {
    /// `None` when standard output is not a terminal.
    live: Option<ProgressBar>,
    start: Instant,
    states: Mutex<BTreeMap<String, &'static str>>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let live = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            bar.set_style(
                ProgressStyle::with_template("{msg}")
                    .expect("a template of one known key is valid"),
            );
            bar
        });
        Self {
            live,
            start: Instant::now(),
            states: Mutex::default(),
        }
    }

    /// One line that stays.
    pub(super) fn say(&self, line: &str) {
        let line = format!("{:6.2} s  {line}", self.start.elapsed().as_secs_f64());
        match &self.live {
            Some(bar) => bar.println(line),
            None => println!("{line}"),
        }
    }

    /// What has become of a task, shown beside it.
    pub(super) fn mark(&self, task: &str, state: &'static str) {
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(task.to_owned(), state);
    }

    /// Redraws while `work` runs.
    pub(super) async fn during<T>(
        &self,
        load: &Load,
        what: &str,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = std::pin::pin!(work);
        let mut redraw = tokio::time::interval(REDRAW);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = redraw.tick() => {
                    if let Some(bar) = &self.live {
                        bar.set_message(self.table(&load.snapshot(), what));
                        bar.tick();
                    }
                }
            }
        }
    }

    /// Takes the live table away.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.live {
            bar.finish_and_clear();
        }
    }

    fn table(&self, record: &Record, what: &str) -> String {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = tasks(record, |task| {
            states.get(task).copied().unwrap_or("running")
        });
        table.set_header(["task", "", "answers", "share", ""]);
        let (p50, p99) = (record.latency_ms(0.5), record.latency_ms(0.99));
        let (sent, failed) = (record.sent, record.failed);
        format!(
            "{what}\nrequests {sent}   failed {failed}   p50 {p50:.2} ms   p99 {p99:.2} ms\n{table}"
        )
    }
}

/// One row for each task that answered.
pub(super) fn tasks<'a>(record: &Record, state: impl Fn(&str) -> &'a str) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let total: u64 = record.by_task.values().map(|seen| seen.answers).sum();
    for (task, seen) in &record.by_task {
        let share = 100.0 * seen.answers as f64 / total.max(1) as f64;
        let bar = "▇".repeat((share / 4.0).round() as usize);
        table.add_row([
            task.clone(),
            state(task).to_owned(),
            seen.answers.to_string(),
            format!("{share:.1} %"),
            bar,
        ]);
    }
    for column in [2, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
