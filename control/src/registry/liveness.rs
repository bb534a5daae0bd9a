//! Liveness: which nodes are connected, and whose instances are to be marked lost; time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// From the end of a node's last stream to its instances being lost; also the period in which losses are counted together.
pub(crate) const GRACE: Duration = Duration::from_secs(30);
/// A node that was connected to an earlier run of the server has this long to come back before its grace starts.
const START: Duration = Duration::from_secs(60);
/// More losses than this share of all nodes, and at least this many, look like our own failure.
const MAX_LOST_PERCENT: usize = 20;
const MIN_LOST_TO_PAUSE: usize = 3;

/// What to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Nodes whose liveness has expired.
    pub(crate) lost: Vec<String>,
    /// Nodes that would be lost, if so many at once were believable.
    pub(crate) held_back: usize,
    /// Lost nodes that are connected.
    pub(crate) back: Vec<String>,
}

/// The clock of every node that instances are bound to.
#[derive(Debug)]
pub(crate) struct Liveness {
    started: Instant,
    connected: BTreeSet<String>,
    /// Since when a bound node has had no stream.
    silent: BTreeMap<String, Instant>,
    /// Losses of the current period.
    recent: BTreeMap<String, Instant>,
}

impl Liveness {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            started: now,
            connected: BTreeSet::new(),
            silent: BTreeMap::new(),
            recent: BTreeMap::new(),
        }
    }

    /// Whether a node of an earlier run may still be on its way back.
    pub(crate) fn is_starting(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) < START
    }

    pub(crate) fn connected(&mut self, node: &str) {
        self.connected.insert(node.to_owned());
        self.silent.remove(node);
        self.recent.remove(node);
    }

    pub(crate) fn disconnected(&mut self, node: &str, now: Instant) {
        if self.connected.remove(node) {
            self.silent.insert(node.to_owned(), now);
        }
    }

    /// Looks at every bound node; `lost` are those that were marked before.
    pub(crate) fn tick<'a>(
        &mut self,
        now: Instant,
        bound: impl Iterator<Item = &'a str>,
        lost: &BTreeSet<String>,
    ) -> Verdict {
        let bound: BTreeSet<&str> = bound.collect();
        self.silent.retain(|node, _| bound.contains(node.as_str()));
        self.recent.retain(|_, at| now.duration_since(*at) < GRACE);
        let mut expired = Vec::new();
        for node in &bound {
            if self.connected.contains(*node) || lost.contains(*node) {
                continue;
            }
            let since = *self.silent.entry((*node).to_owned()).or_insert(now);
            if now.saturating_duration_since(since.max(self.started + START)) >= GRACE {
                expired.push((*node).to_owned());
            }
        }
        let back = lost
            .iter()
            .filter(|node| self.connected.contains(*node))
            .cloned()
            .collect();
        let believable =
            bound.iter().filter(|node| !lost.contains(**node)).count() + self.recent.len();
        let together = expired.len() + self.recent.len();
        if together >= MIN_LOST_TO_PAUSE && together * 100 > believable * MAX_LOST_PERCENT {
            return Verdict {
                lost: Vec::new(),
                held_back: expired.len(),
                back,
            };
        }
        for node in &expired {
            self.recent.insert(node.clone(), now);
            self.silent.remove(node);
        }
        Verdict {
            lost: expired,
            held_back: 0,
            back,
        }
    }
}
