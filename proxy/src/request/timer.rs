//! The timer rules of one stream: per-request timeout and idle timeout on one deadline of the worker's sweep.
//!
//! Unset, the per-request timeout is 15 s and ends at the response head, after which only idle applies, so streams live. Set, it
//! covers the whole response (ECS `perRequestTimeoutSeconds`). It starts when the request is complete. Idle is no byte either way.

use std::cell::Cell;
use std::pin::Pin;
use std::time::Duration;

use outrigger_xds::model::DEFAULT_PER_REQUEST_TIMEOUT;
use tokio::time::Instant;

use crate::deadline::{Deadline, Sweep};
use crate::error::Kind;
use crate::message::fields::{Fields, Known};

/// One stream's deadline.
pub(crate) struct Timer {
    deadline: Deadline,
    idle: Duration,
    per_request: Option<Duration>,
    whole: Cell<Option<Instant>>,
    /// The request is complete and no response head has come: silence is the task's.
    waiting: Cell<bool>,
    /// The response head has come.
    answered: Cell<bool>,
}

impl Timer {
    /// Starts with idle alone; zero durations are off.
    pub(crate) fn new(sweep: &Sweep, idle: Duration, per_request: Option<Duration>) -> Self {
        let timer = Self {
            deadline: sweep.deadline(),
            idle,
            per_request,
            whole: Cell::new(None),
            waiting: Cell::new(false),
            answered: Cell::new(false),
        };
        timer.arm(sweep.now());
        timer
    }

    fn arm(&self, now: Instant) {
        let idle = (!self.idle.is_zero()).then(|| now + self.idle);
        self.deadline
            .set([idle, self.whole.get()].into_iter().flatten().min());
    }

    /// A byte moved.
    pub(crate) fn touch(&self) {
        self.arm(self.deadline.sweep().tick());
    }

    /// The request's last byte is in: the per-request timeout starts.
    pub(crate) fn request_complete(&self) {
        let timeout = self.per_request.unwrap_or(DEFAULT_PER_REQUEST_TIMEOUT);
        let now = self.deadline.sweep().tick();
        let answered = self.answered.get();
        self.waiting.set(!answered);
        // Unset, it ends at the response head, also where that comes before the request's end.
        if !timeout.is_zero() && (self.per_request.is_some() || !answered) {
            self.whole.set(Some(now + timeout));
        }
        self.arm(now);
    }

    /// The response head is here: an unset per-request timeout ends.
    pub(crate) fn response_head(&self) {
        self.waiting.set(false);
        self.answered.set(true);
        if self.per_request.is_none() {
            self.whole.set(None);
        }
        self.touch();
    }

    /// Runs `work` to its end or to the deadline's.
    pub(crate) async fn bound<F: Future>(&self, work: Pin<&mut F>) -> Result<F::Output, Kind> {
        self.deadline
            .bound(work)
            .await
            .ok_or_else(|| self.expired())
    }

    /// Which of the two timeouts has passed, if one has.
    pub(crate) fn poll(&self, cx: &std::task::Context<'_>) -> std::task::Poll<Kind> {
        self.deadline.poll_expired(cx).map(|()| self.expired())
    }

    fn expired(&self) -> Kind {
        match self.whole.get() {
            Some(at) if at <= self.deadline.sweep().tick() => Kind::RequestTimeout,
            _ if self.waiting.get() => Kind::RequestTimeout,
            _ => Kind::IdleTimeout,
        }
    }
}

/// The `grpc-timeout` header (gRPC over HTTP/2, "Timeout"): up to eight digits and a unit.
pub(crate) fn grpc_timeout(fields: &Fields) -> Option<Duration> {
    let text = std::str::from_utf8(fields.value(Known::GrpcTimeout)?).ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    };
    // Zero means "off" here, but "already over" there.
    Some(timeout.max(Duration::from_nanos(1)))
}

/// The shorter of the route's timeout and the caller's; an unset route timeout counts as its default.
pub(crate) fn shorter(route: Option<Duration>, caller: Option<Duration>) -> Option<Duration> {
    let Some(caller) = caller else { return route };
    match route {
        Some(route) if route.is_zero() => Some(caller),
        Some(route) => Some(route.min(caller)),
        None if caller < DEFAULT_PER_REQUEST_TIMEOUT => Some(caller),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_that_ends_after_its_answer_began_starts_no_timeout_unless_one_was_set() {
        let sweep = Sweep::new();
        for (set, bounded) in [(None, false), (Some(Duration::from_secs(2)), true)] {
            let timer = Timer::new(&sweep, Duration::ZERO, set);
            timer.response_head();
            timer.request_complete();
            assert_eq!(timer.whole.get().is_some(), bounded, "{set:?}");
            assert!(!timer.waiting.get());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_starts_when_the_request_ends_however_long_ago_its_last_byte_came() {
        let sweep = Sweep::new();
        let timer = Timer::new(&sweep, Duration::ZERO, Some(Duration::from_secs(2)));
        tokio::time::advance(Duration::from_secs(9)).await;
        timer.request_complete();
        assert_eq!(
            timer.whole.get(),
            Some(Instant::now() + Duration::from_secs(2))
        );
    }

    #[test]
    fn grpc_timeouts_are_read_in_every_unit() {
        let read = |text: &'static str| {
            let mut fields = Fields::default();
            fields.push("grpc-timeout", text.as_bytes());
            grpc_timeout(&fields)
        };
        assert_eq!(read("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(read("0m"), Some(Duration::from_nanos(1)));
        assert_eq!(read("100m"), Some(Duration::from_millis(100)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "S", "1", "1x", "123456789S", "-1S"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_shorter_timeout_wins_and_zero_is_off() {
        let s = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(shorter(s(5), s(2)), s(2));
        assert_eq!(shorter(s(5), s(9)), s(5));
        assert_eq!(shorter(s(0), s(9)), s(9));
        assert_eq!(shorter(None, s(2)), s(2));
        assert_eq!(shorter(None, s(60)), None);
        assert_eq!(shorter(None, None), None);
    }
}
