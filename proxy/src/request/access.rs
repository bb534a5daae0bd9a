//! Whether the caller may have what it asks for: the allow-list is asked, and what it says is heeded, counted and logged.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::worker::Worker;
use crate::error::{Kind, ProxyError};
use crate::message::head::RequestHead;
use crate::policy::authorize::{Met, Reason, Verdict};
use crate::routing::snapshot::ListenerPolicy;
use crate::tls::peer::Peer;

/// Refusals that one worker writes to the log within [`WITHIN`]; the others are counted.
const LINES: u32 = 10;
const WITHIN: Duration = Duration::from_secs(1);
/// Bytes of a path's first segment in a line of the log.
const MAX_SEGMENT: usize = 64;

/// Asked for every request, also of a connection that others came by.
pub(crate) fn request(
    worker: &Worker,
    listener: &ListenerPolicy,
    peer: Option<&Peer>,
    head: &RequestHead,
) -> Result<(), ProxyError> {
    // A plaintext connection may be older than the mode.
    let too_open = peer.is_none() && listener.is_strict();
    let verdict = match &listener.authorization {
        _ if too_open => Verdict::Refused(Reason::NoIdentity),
        None => return Ok(()),
        Some(allowed) => allowed.request(met(peer), &head.method, head.path()),
    };
    heed(worker, listener, verdict, |refusal| {
        let (method, path) = (head.method.as_str(), first_segment(head.path()));
        tracing::info!(
            listener = listener.name,
            caller = caller(peer),
            method,
            path = path.as_str(),
            reason = refusal.reason.as_str(),
            dry_run = refusal.dry_run,
            left_out = refusal.left_out,
            "caller is not allowed this request"
        );
    })
}

/// Asked once for a connection of opaque bytes, before the application is dialled.
pub(crate) fn connection(
    worker: &Worker,
    listener: &ListenerPolicy,
    peer: Option<&Peer>,
) -> Result<(), ProxyError> {
    let Some(allowed) = &listener.authorization else {
        return Ok(());
    };
    let verdict = allowed.connection(met(peer));
    heed(worker, listener, verdict, |refusal| {
        tracing::info!(
            listener = listener.name,
            caller = caller(peer),
            reason = refusal.reason.as_str(),
            dry_run = refusal.dry_run,
            left_out = refusal.left_out,
            "caller is not allowed this connection"
        );
    })
}

struct Refusal {
    reason: Reason,
    dry_run: bool,
    /// Lines like this one that were not written.
    left_out: u64,
}

fn heed(
    worker: &Worker,
    listener: &ListenerPolicy,
    verdict: Verdict,
    say: impl FnOnce(Refusal),
) -> Result<(), ProxyError> {
    let counts = &listener.metrics.shard(worker.id).access;
    let (reason, by_reason, dry_run) = match verdict {
        Verdict::Allowed(_) => {
            counts.allowed.add(1);
            return Ok(());
        }
        Verdict::Refused(reason) => (reason, &counts.denied, false),
        Verdict::WouldBeRefused(reason) => (reason, &counts.would_deny, true),
    };
    match reason {
        Reason::NoIdentity => by_reason.no_identity.add(1),
        Reason::NoRule => by_reason.no_rule.add(1),
    }
    if let Some(left_out) = worker.refusals.may_write(worker.sweep.now()) {
        say(Refusal {
            reason,
            dry_run,
            left_out,
        });
    }
    if dry_run {
        Ok(())
    } else {
        Err(Kind::Unauthorized.into())
    }
}

/// Who asks, if it has an identity.
pub(crate) fn met(peer: Option<&Peer>) -> Option<Met<'_>> {
    let peer = peer?;
    let (caller, own) = (peer.identity.as_ref()?, peer.own.as_ref());
    Some(Met { caller, own })
}

fn caller(peer: Option<&Peer>) -> &str {
    peer.and_then(|peer| peer.identity.as_ref())
        .map_or("no identity", |identity| identity.as_str())
}

/// What a rule is likely to be about. The rest of a path may be somebody's name.
fn first_segment(path: &[u8]) -> String {
    let end = path.iter().skip(1).position(|byte| *byte == b'/');
    let whole = end.is_none_or(|end| end + 2 == path.len());
    let end = end.map_or(path.len(), |end| end + 1).min(MAX_SEGMENT);
    let shown = path[..end].escape_ascii();
    if whole && end < MAX_SEGMENT {
        shown.to_string()
    } else {
        format!("{shown}/…")
    }
}

/// How many refusals a worker has written of late.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    since: Cell<Option<Instant>>,
    written: Cell<u32>,
    left_out: Cell<u64>,
}

impl Refusals {
    /// Whether another line may be written, and how many were not before it.
    fn may_write(&self, now: Instant) -> Option<u64> {
        if self.since.get().is_none_or(|since| now >= since + WITHIN) {
            self.since.set(Some(now));
            self.written.set(0);
        }
        if self.written.get() == LINES {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.written.set(self.written.get() + 1);
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_ten_lines_a_second_and_a_number() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let burst: Vec<_> = (0..15).map(|_| refusals.may_write(start)).collect();
        assert!(burst[..10].iter().all(|line| *line == Some(0)));
        assert!(burst[10..].iter().all(Option::is_none));
        assert_eq!(refusals.may_write(start + WITHIN), Some(5));
        assert_eq!(refusals.may_write(start + WITHIN), Some(0));
    }

    #[test]
    fn the_log_has_the_start_of_a_path_alone() {
        let long = format!("/{}", "a".repeat(200));
        let cut = format!("{}/…", &long[..64]);
        for (path, shown) in [
            ("*", "*"),
            ("/", "/"),
            ("/v1", "/v1"),
            ("/v1/", "/v1"),
            ("/v1/people/jo", "/v1/…"),
            ("//v1", "//…"),
            ("/\x1b[31m", "/\\x1b[31m"),
            (long.as_str(), cut.as_str()),
        ] {
            assert_eq!(first_segment(path.as_bytes()), shown, "{path:?}");
        }
    }
}
