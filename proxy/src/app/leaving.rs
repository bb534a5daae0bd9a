//! How a sidecar leaves: its callers are told first, what is in flight finishes, and only then does anything close.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Parts;
use crate::drain::{self, Phase};
use crate::mesh::announce::Announcer;
use crate::mutants::{self, Mutant};

/// With nothing in flight, for clients to close by themselves: other sidecars do at once, and whatever they had sent before is
/// in flight again by then. Only a client that nobody has told keeps its idle connection for so long.
const LAST_CLIENTS: Duration = Duration::from_millis(500);
/// An application that has had no exchange for so long is not in the middle of anything.
const QUIET: Duration = Duration::from_millis(500);
/// For connections to be flushed and closed at the very end.
pub(super) const CLOSING: Duration = Duration::from_secs(1);

/// Tells everybody, and finishes what they had sent before; sockets accept all the while. `bound` runs from when they know;
/// answers what is left of it.
pub(super) async fn drain_ingress(
    parts: &Parts,
    announcer: Option<&Arc<Announcer>>,
    bound: Duration,
) -> Duration {
    parts.ready.set_draining();
    let told = match announcer {
        Some(announcer) => Some(tell(announcer).await),
        None => None,
    };
    let told_at = Instant::now();
    let in_flight = || parts.metrics.traffic("ingress").in_flight;
    let before = in_flight();
    parts.drain.enter(Phase::Draining);
    let left = drain::until_idle(in_flight, bound).await;
    let rest = bound.saturating_sub(told_at.elapsed());
    let open = || parts.metrics.traffic("ingress").connections;
    if !mutants::is(Mutant::SkipAcknowledgements) {
        drain::until_idle(open, LAST_CLIENTS.min(rest)).await;
    }
    let mut summary = told.map_or_else(String::new, |told| told + ", ");
    let finished = before.saturating_sub(left);
    summary += &format!("{finished} in flight finished");
    if left > 0 {
        summary += &format!(", {left} left at the bound of {bound:?}");
    }
    tracing::info!("drained: {summary}");
    parts.ready.set_drained(summary);
    if let Some(announcer) = announcer {
        announcer.deregister().await;
    }
    bound.saturating_sub(told_at.elapsed())
}

/// What it says of itself is what the log does.
async fn tell(announcer: &Arc<Announcer>) -> String {
    if mutants::is(Mutant::SilentDrain) {
        return "nobody told".to_owned();
    }
    if mutants::is(Mutant::SkipAcknowledgements) {
        let announcer = Arc::clone(announcer);
        tokio::spawn(async move { announcer.drain().await });
        return "nobody waited for".to_owned();
    }
    match announcer.drain().await {
        Ok(report) => report.to_string(),
        Err(error) => format!("not published ({error})"),
    }
}

/// Ends what remains. The application may be ending at the same time: its own calls are served until it has been quiet for a
/// while, or `bound` is over; with no connection of its, and none since the end began, there is nobody to wait for.
pub(super) async fn close(parts: &Parts, bound: Duration) {
    let start = Instant::now();
    // At the bound it ends in the middle of whatever there is.
    let _quiet = tokio::time::timeout(bound, quiet(parts)).await;
    parts.drain.enter(Phase::Stopped);
    // Until then whoever waits to be accepted is no connection yet, and until it has sent its request nothing is in flight.
    drain::until_idle(|| parts.workers.queues(), CLOSING).await;
    let connections = || parts.workers.connections();
    drain::until_idle(connections, CLOSING).await;
    let metrics = &parts.metrics;
    let in_flight = || metrics.traffic("ingress").in_flight + metrics.traffic("egress").in_flight;
    if drain::until_idle(in_flight, bound.saturating_sub(start.elapsed())).await == 0 {
        drain::until_idle(connections, CLOSING).await;
    }
}

async fn quiet(parts: &Parts) {
    let begun = || parts.metrics.traffic("egress").requests;
    let (at_start, mut before, mut since) = (begun(), begun(), Instant::now());
    loop {
        let (ingress, egress) = (
            parts.metrics.traffic("ingress"),
            parts.metrics.traffic("egress"),
        );
        if ingress.in_flight + egress.in_flight > 0 || egress.requests != before {
            (before, since) = (egress.requests, Instant::now());
        } else {
            let nobody = egress.connections == 0 && egress.requests == at_start;
            if nobody || since.elapsed() >= QUIET {
                return;
            }
        }
        tokio::time::sleep(drain::POLL).await;
    }
}
