//! How long a task keeps an idle connection: what it says of it (`Keep-Alive: timeout=`, RFC 9112 appendix C.2.2 names the field) and
//! what is seen. A connection is retired before the task would close it, so that no request meets that close on its way.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::fields::{Fields, Known};

/// What a request may take on its way to the task, at most.
const MARGIN: Duration = Duration::from_secs(1);
/// Younger connections are not closed for their age: the task goes, or restarts.
const LEAST_OBSERVED: Duration = Duration::from_secs(1);
/// For so long a close that was seen counts: the task may have been one of a kind.
const REMEMBERED: Duration = Duration::from_secs(300);

/// How long the task says it keeps the connection, less the margin.
pub(crate) fn announced(fields: &Fields) -> Option<Duration> {
    let parameters = fields
        .values(Known::KeepAlive)
        .flat_map(|value| value.split(|b| *b == b','));
    let timeout = parameters.filter_map(|parameter| {
        let parameter = std::str::from_utf8(parameter.trim_ascii()).ok()?;
        let (name, seconds) = parameter.split_once('=')?;
        let seconds: u64 = seconds.trim().parse().ok()?;
        name.trim()
            .eq_ignore_ascii_case("timeout")
            .then_some(seconds)
    });
    timeout.min().map(Duration::from_secs).map(before)
}

/// Early enough, also for a timeout no longer than the margin.
fn before(timeout: Duration) -> Duration {
    timeout.saturating_sub(MARGIN).max(timeout / 2)
}

/// What has been seen of one task.
#[derive(Debug, Default)]
pub(crate) struct Observed(Option<(Duration, Instant)>);

impl Observed {
    /// The task has closed a connection that had idled for `age` when it was last seen open.
    pub(crate) fn closed(&mut self, age: Duration, now: Instant) {
        if age >= LEAST_OBSERVED {
            let shorter = before(age).max(LEAST_OBSERVED);
            let known = self.limit(now).unwrap_or(shorter);
            self.0 = Some((shorter.min(known), now));
        }
    }

    /// How long a connection may idle, if anything has been seen.
    pub(crate) fn limit(&self, now: Instant) -> Option<Duration> {
        let (limit, _) = self.0.filter(|(_, seen)| now - *seen < REMEMBERED)?;
        Some(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::fields::tests::fields;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_timeout_that_is_announced_is_not_waited_out() {
        for (value, expected) in [
            ("timeout=5", Some(seconds(4))),
            ("max=100, Timeout = 75", Some(seconds(74))),
            ("timeout=1", Some(Duration::from_millis(500))),
            ("timeout=0", Some(Duration::ZERO)),
            ("timeout=9, timeout=3", Some(seconds(2))),
            ("timeout=soon", None),
            ("max=7", None),
        ] {
            assert_eq!(
                announced(&fields(&[("Keep-Alive", value)])),
                expected,
                "{value}"
            );
        }
        assert_eq!(announced(&fields(&[])), None);
    }

    #[test]
    fn closes_that_are_seen_shorten_the_limit_until_they_are_forgotten() {
        let now = Instant::now();
        let mut observed = Observed::default();
        observed.closed(Duration::from_millis(300), now);
        assert_eq!(observed.limit(now), None, "the task restarts");
        observed.closed(seconds(9), now);
        assert_eq!(observed.limit(now), Some(seconds(8)));
        observed.closed(seconds(20), now);
        assert_eq!(observed.limit(now), Some(seconds(8)));
        observed.closed(seconds(6), now);
        assert_eq!(observed.limit(now), Some(seconds(5)));
        observed.closed(LEAST_OBSERVED, now);
        assert_eq!(observed.limit(now), Some(LEAST_OBSERVED));
        assert_eq!(observed.limit(now + REMEMBERED), None);
    }
}
