//! How a sidecar leaves: its callers are told first, what is in flight finishes, and only then does anything close.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Parts;
use crate::drain::{self, Phase};
use crate::mesh::announce::Announcer;
use crate::mutants::{self, Mutant};
use crate::observe::metrics::Traffic;

/// With nothing in flight, for clients to close by themselves: other sidecars do at once, and whatever they had sent before is
/// in flight again by then. Only a client that nobody has told keeps its idle connection for so long.
const LAST_CLIENTS: Duration = Duration::from_millis(500);
/// An application that has had no exchange for so long is taken to be in the middle of nothing: one that lives on, connected and
/// silent, is not waited for, and what it calls after that fails. It runs together with [`LAST_CLIENTS`].
const QUIET: Duration = Duration::from_millis(500);
/// The end of the bound, for deregistering; a quarter of a bound that is shorter than four times this.
const DEREGISTRATION: Duration = Duration::from_secs(2);
/// For connections to be flushed and closed at the very end, after the bound if need be.
pub(super) const CLOSING: Duration = Duration::from_secs(1);

/// When a sidecar that leaves is through with what: all within `--drain-timeout`, from the signal on, whatever the control server does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    bound: Duration,
    /// Everybody is told, and what they had sent is waited for.
    drained: Instant,
    /// The task is out of the registry, and what is still in flight is cut off.
    pub(super) gone: Instant,
}

impl Deadlines {
    pub(super) fn within(bound: Duration) -> Self {
        let gone = Instant::now() + bound;
        Self {
            bound,
            drained: gone - DEREGISTRATION.min(bound / 4),
            gone,
        }
    }
}

fn until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Tells everybody, and finishes what they had sent before; sockets accept all the while. Answers what became of it.
pub(super) async fn drain_ingress(
    parts: &Parts,
    announcer: Option<&Arc<Announcer>>,
    deadlines: Deadlines,
) -> String {
    parts.ready.set_draining();
    let told = match announcer {
        Some(announcer) => Some(tell(announcer, until(deadlines.drained)).await),
        None => None,
    };
    let in_flight = || parts.metrics.traffic("ingress").in_flight;
    let before = in_flight();
    parts.drain.enter(Phase::Draining);
    let left = drain::until_idle(in_flight, until(deadlines.drained)).await;
    let mut summary = told.map_or_else(String::new, |told| told + ", ");
    let finished = before.saturating_sub(left);
    summary += &format!("{finished} in flight finished");
    if left > 0 {
        let bound = deadlines.bound;
        summary += &format!(", {left} left near the bound of {bound:?}");
    }
    summary
}

/// Lets the last clients go, and takes the task out of the registry.
pub(super) async fn part(
    parts: &Parts,
    announcer: Option<&Arc<Announcer>>,
    deadlines: Deadlines,
    summary: String,
) {
    let open = || parts.metrics.traffic("ingress").connections;
    if !mutants::is(Mutant::SkipAcknowledgements) {
        let bound = LAST_CLIENTS.min(until(deadlines.drained));
        drain::until_idle(open, bound).await;
    }
    tracing::info!("drained: {summary}");
    parts.ready.set_drained(summary);
    if let Some(announcer) = announcer {
        let bound = DEREGISTRATION.min(until(deadlines.gone));
        announcer.deregister(bound).await;
    }
}

/// What it says of itself is what the log does.
async fn tell(announcer: &Arc<Announcer>, bound: Duration) -> String {
    if mutants::is(Mutant::SilentDrain) {
        return "nobody told".to_owned();
    }
    if mutants::is(Mutant::SkipAcknowledgements) {
        let announcer = Arc::clone(announcer);
        tokio::spawn(async move { announcer.drain(bound).await });
        return "nobody waited for".to_owned();
    }
    match announcer.drain(bound).await {
        Ok(report) => report.to_string(),
        Err(error) => format!("not published ({error})"),
    }
}

/// Ends what remains; what is in flight has until then.
pub(super) async fn close(parts: &Parts, gone: Instant) {
    parts.drain.enter(Phase::Stopped);
    // Until then whoever waits to be accepted is no connection yet, and until it has sent its request nothing is in flight.
    drain::until_idle(|| parts.workers.queues(), CLOSING).await;
    let connections = || parts.workers.connections();
    drain::until_idle(connections, CLOSING).await;
    let metrics = &parts.metrics;
    let in_flight = || metrics.traffic("ingress").in_flight + metrics.traffic("egress").in_flight;
    if drain::until_idle(in_flight, until(gone)).await == 0 {
        drain::until_idle(connections, CLOSING).await;
    }
}

/// The application may be ending at the same time: its own calls are served until it has been quiet for a while, or for good. With
/// no connection of its, and none since the end began, there is nobody to wait for.
pub(super) async fn quiet(parts: &Parts, gone: Instant) {
    let look = || {
        let traffic = |direction| parts.metrics.traffic(direction);
        (traffic("ingress"), traffic("egress"))
    };
    // At the bound it ends in the middle of whatever there is.
    let _quiet = tokio::time::timeout_at(gone, quiet_for_a_while(look)).await;
}

async fn quiet_for_a_while(look: impl Fn() -> (Traffic, Traffic)) {
    let at_start = look().1.requests;
    let (mut before, mut since) = (at_start, Instant::now());
    loop {
        let (ingress, egress) = look();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deregistering_has_its_time_within_the_bound() {
        let start = Instant::now();
        let at = |bound| {
            let deadlines = Deadlines::within(Duration::from_secs(bound));
            (deadlines.drained - start, deadlines.gone - start)
        };
        assert_eq!(at(20), (Duration::from_secs(18), Duration::from_secs(20)));
        assert_eq!(at(1), (Duration::from_millis(750), Duration::from_secs(1)));
        assert_eq!(at(0), (Duration::ZERO, Duration::ZERO));
    }

    fn egress(connections: u64, requests: u64, in_flight: u64) -> (Traffic, Traffic) {
        let egress = Traffic {
            connections,
            requests,
            in_flight,
        };
        (Traffic::default(), egress)
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_is_waited_for_until_it_has_been_quiet_and_nobody_is_not() {
        let start = Instant::now();
        quiet_for_a_while(|| egress(0, 7, 0)).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        quiet_for_a_while(|| egress(1, 7, 0)).await;
        assert_eq!(start.elapsed(), QUIET);
        let until = start + Duration::from_secs(3);
        quiet_for_a_while(|| egress(1, 8, u64::from(Instant::now() < until))).await;
        let quiet = (until + QUIET).saturating_duration_since(start);
        assert!(start.elapsed() >= quiet - drain::POLL && start.elapsed() <= quiet + drain::POLL);
    }
}
