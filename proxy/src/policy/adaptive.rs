//! How many requests a service takes at once without queueing, found from its latency. No clock; no lock for a sample.
//!
//! Envoy's gradient controller (its adaptive concurrency filter), with the median as the latency of a window:
//! `gradient = (minRTT + buffer) / sampleRTT`, within 0.5 to 2, and `limit = gradient × limit + √limit`. The minimum is measured
//! anew every `min_rtt_interval` (up to 15 % later, so that sidecars do not do it together), and when the limit has lain at
//! its least for five windows: for so long as `min_rtt_requests` answers take, only `min_concurrency` requests are let through.
//!
//! A sample is the time from a request's arrival to its response head. Who records one past the end of a window turns the window;
//! an idle service costs nothing.

use std::array;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use outrigger_xds::model::AdaptiveConcurrency;

/// A histogram of microseconds: exact below 16, then 16 buckets for each doubling, up to 67 s.
const BUCKETS: usize = 368;
/// Windows at the least limit that show the minimum to be out of date (Envoy's number).
const WINDOWS_AT_LEAST: u32 = 5;

fn bucket(us: u64) -> usize {
    let doublings = (us | 16).ilog2() - 4;
    let index = doublings as usize * 16 + (us >> doublings) as usize;
    index.min(BUCKETS - 1)
}

/// The middle of a bucket.
fn middle(index: usize) -> u64 {
    let (doublings, part) = match index.checked_sub(16) {
        Some(above) => (above / 16, above % 16 + 16),
        None => (0, index),
    };
    ((2 * part as u64 + 1) << doublings) / 2
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// See the module.
#[derive(Debug)]
pub struct Adaptive {
    settings: AdaptiveConcurrency,
    limit: AtomicU32,
    /// In µs; 0 while it is not known.
    min_rtt: AtomicU64,
    /// Requests that began earlier (µs) do not count.
    since: AtomicU64,
    /// The window ends at this time (µs), or with so many samples.
    due: AtomicU64,
    wanted: AtomicU32,
    samples: Box<[AtomicU32; BUCKETS]>,
    count: AtomicU32,
    turn: Mutex<Turn>,
}

/// What only who turns the window looks at.
#[derive(Debug)]
struct Turn {
    measuring: bool,
    /// The limit while the minimum is measured.
    kept: f64,
    measure_at: Duration,
    at_least: u32,
}

impl Adaptive {
    /// Begins with a measurement of the least latency.
    pub fn new(settings: AdaptiveConcurrency) -> Self {
        let least = settings.min_concurrency.max(1);
        Self {
            limit: AtomicU32::new(least),
            min_rtt: AtomicU64::new(0),
            since: AtomicU64::new(0),
            due: AtomicU64::new(u64::MAX),
            wanted: AtomicU32::new(settings.min_rtt_requests.max(1)),
            samples: Box::new(array::from_fn(|_| AtomicU32::new(0))),
            count: AtomicU32::new(0),
            turn: Mutex::new(Turn {
                measuring: true,
                kept: f64::from(least),
                measure_at: Duration::ZERO,
                at_least: 0,
            }),
            settings,
        }
    }

    /// What it was asked for.
    pub fn settings(&self) -> &AdaptiveConcurrency {
        &self.settings
    }

    /// Requests that may be under way now.
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// The least latency, once it was measured.
    pub fn min_rtt(&self) -> Option<Duration> {
        let us = self.min_rtt.load(Relaxed);
        (us > 0).then(|| Duration::from_micros(us))
    }

    /// A request that began at `begun` has its response head at `now`, both as times since the cluster began.
    pub fn record(&self, begun: Duration, now: Duration) {
        if micros(begun) < self.since.load(Relaxed) {
            return;
        }
        let latency = micros(now.saturating_sub(begun));
        self.samples[bucket(latency)].fetch_add(1, Relaxed);
        let count = self.count.fetch_add(1, Relaxed) + 1;
        let over = micros(now) >= self.due.load(Relaxed) || count >= self.wanted.load(Relaxed);
        // Whoever finds it taken leaves it to the one who has it.
        if over && let Ok(mut turn) = self.turn.try_lock() {
            self.end_window(&mut turn, now);
        }
    }

    fn end_window(&self, turn: &mut Turn, now: Duration) {
        let count = self.count.load(Relaxed);
        let over = if turn.measuring {
            count >= self.settings.min_rtt_requests.max(1)
        } else {
            micros(now) >= self.due.load(Relaxed) && count > 0
        };
        if !over {
            return;
        }
        let median = self.take_median().max(1);
        if turn.measuring {
            self.min_rtt.store(median, Relaxed);
            turn.measuring = false;
            turn.at_least = 0;
            turn.measure_at = now + self.until_next_measurement(now);
            self.set_limit(turn.kept);
        } else {
            self.follow(turn, median as f64);
        }
        if turn.at_least >= WINDOWS_AT_LEAST || now >= turn.measure_at {
            turn.measuring = true;
            self.set_limit(0.0);
            self.since.store(micros(now), Relaxed);
            self.due.store(u64::MAX, Relaxed);
            self.wanted
                .store(self.settings.min_rtt_requests.max(1), Relaxed);
        } else {
            let due = now + self.settings.update_interval;
            self.due.store(micros(due), Relaxed);
            self.wanted.store(u32::MAX, Relaxed);
        }
    }

    /// The interval and up to 15 % of it; the clock's last digits are as good as chance.
    fn until_next_measurement(&self, now: Duration) -> Duration {
        let interval = self.settings.min_rtt_interval;
        interval + interval.mul_f64(0.15 * f64::from(now.subsec_micros() % 1000) / 1000.0)
    }

    /// One step of the gradient.
    fn follow(&self, turn: &mut Turn, sample_rtt: f64) {
        let min_rtt = self.min_rtt.load(Relaxed) as f64;
        let buffer = f64::from(self.settings.buffer_percent) / 100.0;
        let gradient = (min_rtt * (1.0 + buffer) / sample_rtt).clamp(0.5, 2.0);
        turn.kept = self.set_limit(gradient * turn.kept + turn.kept.sqrt());
        let least = f64::from(self.settings.min_concurrency.max(1));
        turn.at_least = if turn.kept <= least {
            turn.at_least + 1
        } else {
            0
        };
    }

    /// Sets the limit within its bounds; returns it as it is then.
    fn set_limit(&self, limit: f64) -> f64 {
        let least = f64::from(self.settings.min_concurrency.max(1));
        let most = f64::from(self.settings.max_concurrency).max(least);
        let limit = limit.clamp(least, most);
        self.limit.store(limit as u32, Relaxed);
        limit
    }

    /// The median of the window in µs, and an empty window.
    fn take_median(&self) -> u64 {
        self.count.store(0, Relaxed);
        let counts = self.samples.each_ref().map(|count| count.swap(0, Relaxed));
        let all: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        let mut seen = 0;
        let half = counts.iter().position(|count| {
            seen += u64::from(*count);
            seen * 2 >= all
        });
        middle(half.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
