//! What one comparison found: written by `compare` as JSON, read by `report`.

use serde::{Deserialize, Serialize};

/// One run of `compare`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// The command line that made it.
    pub command: String,
    /// When it began, RFC 3339.
    pub began: String,
    /// Where it ran.
    pub machine: Machine,
    /// Every peer that was asked for, the missing ones too.
    pub peers: Vec<Peer>,
    /// In the order they were measured.
    pub cells: Vec<Cell>,
}

/// The machine of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machine {
    /// CPUs the run could use.
    pub cpus: usize,
    /// CPU model as the kernel names it.
    pub model: String,
    /// Kernel release.
    pub kernel: String,
    /// MiB.
    pub memory_mib: u64,
    /// How processes were pinned, in words.
    pub pinning: String,
}

/// A proxy under comparison.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Peer {
    /// `outrigger`, `envoy`, `haproxy`, `nginx`, or `direct` (no proxy).
    pub name: String,
    /// As the program states it; `None` when missing.
    pub version: Option<String>,
    /// Why it could not be had.
    pub missing: Option<String>,
}

/// One job that every peer was given.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Cell {
    /// Key, such as `h1-64-1k`.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// What `Round::cpu_user` and `cpu_system` are divided by: `100k requests`, `1,000 handshakes` or `GB`.
    pub per: String,
    /// Requests per second; `None` is the closed loop.
    pub rate: Option<u32>,
    /// One per peer and number of hops.
    pub subjects: Vec<Subject>,
    /// Our figures against peers'.
    pub verdicts: Vec<Verdict>,
    /// Why the cell has no figures for somebody, or none at all.
    pub notes: Vec<String>,
}

/// One peer in one cell.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Subject {
    /// [`Peer::name`].
    pub peer: String,
    /// Proxies in the path; 0 is direct.
    pub hops: u8,
    /// Rounds in the order they were interleaved.
    pub rounds: Vec<Round>,
    /// Latency of all rounds together: (percentile 0–100, µs), for curves.
    pub latency: Vec<(f64, f64)>,
    /// Named single figures, such as `rss_idle_mib` or `syscalls_per_request`.
    pub figures: Vec<Figure>,
    /// Name and text of every configuration file it ran with.
    pub configuration: Vec<(String, String)>,
}

/// One named figure of a subject.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Figure {
    /// Key.
    pub name: String,
    /// Value.
    pub value: f64,
    /// Unit.
    pub unit: String,
}

/// One round of one subject.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Round {
    /// CPU seconds in user mode per [`Cell::per`], all proxies of the path.
    pub cpu_user: f64,
    /// CPU seconds in the kernel per [`Cell::per`], all proxies of the path.
    pub cpu_system: f64,
    /// Requests per second, or bytes per second for opaque TCP.
    pub throughput: f64,
    /// µs, from the intended send time.
    pub p50: f64,
    /// µs.
    pub p99: f64,
    /// µs.
    pub p999: f64,
    /// Requests without a complete 2xx answer.
    pub failed: u64,
    /// Share of requests that the slow endpoint got, where there is one (0–1).
    pub slow_share: Option<f64>,
    /// Memory in [`Cell::per`] (MiB, or KiB per connection), in the cells that measure nothing else.
    #[serde(default)]
    pub memory: Option<f64>,
}

/// Ours against a peer's (or the best peer's) in one metric.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// Such as `cpu`, `cpu_user`, `added_p50`, `rss_idle`.
    pub metric: String,
    /// The peer that ours is divided by; `best` names it in brackets: `best (nginx)`.
    pub against: String,
    /// Ours divided by theirs: median over interleaved pairs.
    pub ratio: f64,
    /// 95 % bootstrap interval of that median.
    pub low: f64,
    /// 95 % bootstrap interval of that median.
    pub high: f64,
    /// Interleaved pairs.
    pub pairs: usize,
    /// The ratio that is aimed at.
    pub target: f64,
    /// What the interval says of the target.
    pub reading: Reading,
}

/// What an interval says of a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// The whole interval lies below the target.
    Better,
    /// The interval holds the target, or there are fewer than 15 pairs.
    #[default]
    Tied,
    /// The whole interval lies above the target.
    Missed,
}
