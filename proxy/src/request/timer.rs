//! The timer rules of one stream: per-request, idle and body timeout on one deadline of the worker's sweep.
//!
//! Unset, the per-request timeout is 15 s and ends at the response head, after which only idle applies, so streams live. Set, it
//! covers the whole response (ECS `perRequestTimeoutSeconds`). It starts when the request is complete. Idle is no byte either way;
//! the body timeout is the same, and shorter, while the client owes the next byte of its request.

use std::cell::Cell;
use std::pin::Pin;
use std::time::Duration;

use outrigger_xds::model::DEFAULT_PER_REQUEST_TIMEOUT;
use tokio::time::Instant;

use crate::deadline::{Deadline, Sweep};
use crate::error::Kind;
use crate::hop::Left;
use crate::message::fields::{Fields, Known};

/// One stream's deadline.
pub(crate) struct Timer {
    deadline: Deadline,
    idle: Duration,
    body: Duration,
    per_request: Option<Duration>,
    /// Where that is unset, the time to the response head.
    to_head: Duration,
    whole: Cell<Option<Instant>>,
    /// The request is complete and no response head has come: silence is the task's.
    waiting: Cell<bool>,
    /// The response head has come.
    answered: Cell<bool>,
    /// The task would take more of the request, and the client has not sent it.
    owed: Cell<bool>,
    /// The client waits for a 100 before it sends the first byte: it owes nothing (RFC 9110 section 10.1.1).
    expects: Cell<bool>,
}

impl Timer {
    /// Starts with idle alone; zero durations are off.
    pub(crate) fn new(sweep: &Sweep, idle: Duration, per_request: Option<Duration>) -> Self {
        let timer = Self {
            deadline: sweep.deadline(),
            idle,
            body: Duration::ZERO,
            per_request,
            to_head: DEFAULT_PER_REQUEST_TIMEOUT,
            whole: Cell::new(None),
            waiting: Cell::new(false),
            answered: Cell::new(false),
            owed: Cell::new(false),
            expects: Cell::new(false),
        };
        timer.arm(sweep.now());
        timer
    }

    /// Bounds how long the client may owe the next byte of its request; zero is off. One that `expects` a 100 owes none before its
    /// first.
    pub(crate) fn with_body(self, body: Duration, expects: bool) -> Self {
        let expects = Cell::new(expects);
        Self {
            body,
            expects,
            ..self
        }
    }

    /// Takes over what the egress of a hop will wait for at most.
    pub(crate) fn with_hop(self, left: Option<Left>) -> Self {
        match left {
            None => self,
            Some(Left::Whole(left)) => Self {
                per_request: shorter(self.per_request, Some(left)),
                ..self
            },
            Some(Left::Head(left)) => Self {
                to_head: self.to_head.min(left),
                ..self
            },
        }
    }

    /// What a hop is told of it: what is left, or all of it while the request is not complete.
    pub(crate) fn left(&self) -> Option<Left> {
        let timeout = self.per_request.unwrap_or(self.to_head);
        let now = self.deadline.sweep().now();
        let whole = self.whole.get().map(|at| at.saturating_duration_since(now));
        let left = (!timeout.is_zero()).then(|| whole.unwrap_or(timeout))?;
        Some(match self.per_request {
            Some(_) => Left::Whole(left),
            None => Left::Head(left),
        })
    }

    fn arm(&self, now: Instant) {
        let quiet = if self.is_stalled() {
            self.body
        } else {
            self.idle
        };
        let quiet = (!quiet.is_zero()).then(|| now + quiet);
        self.deadline
            .set([quiet, self.whole.get()].into_iter().flatten().min());
    }

    /// The body timeout applies, and is the shorter one.
    fn is_stalled(&self) -> bool {
        let shorter = self.idle.is_zero() || self.body < self.idle;
        self.owed.get() && !self.body.is_zero() && shorter
    }

    /// A byte moved.
    pub(crate) fn touch(&self) {
        self.arm(self.deadline.sweep().tick());
    }

    /// A part of the request came.
    pub(crate) fn received(&self) {
        self.owed.set(false);
        self.expects.set(false);
        self.touch();
    }

    /// More of the request is wanted, and the client has not sent it yet.
    pub(crate) fn owed(&self) {
        if !self.body.is_zero() && !self.expects.get() && !self.owed.replace(true) {
            self.touch();
        }
    }

    /// The request's last byte is in: the per-request timeout starts.
    pub(crate) fn request_complete(&self) {
        let timeout = self.per_request.unwrap_or(self.to_head);
        let now = self.deadline.sweep().tick();
        let answered = self.answered.get();
        self.owed.set(false);
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
            _ if self.is_stalled() => Kind::BodyTimeout,
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
    async fn the_body_timeout_runs_only_while_the_client_owes_a_byte_and_each_byte_restarts_it() {
        let s = Duration::from_secs;
        let sweep = Sweep::new();
        let timer = Timer::new(&sweep, s(300), None).with_body(s(60), false);
        let due = || timer.deadline.due().map(|at| at - Instant::now());
        assert_eq!(due(), Some(s(300)), "nobody has asked for the body yet");
        timer.owed();
        assert_eq!(due(), Some(s(60)));
        tokio::time::advance(s(50)).await;
        timer.owed();
        assert_eq!(due(), Some(s(10)), "asking again extends nothing");
        timer.touch();
        assert_eq!(due(), Some(s(60)), "a byte of the answer moved");
        assert_eq!(timer.expired(), Kind::BodyTimeout);
        timer.received();
        assert_eq!(due(), Some(s(300)));
        timer.owed();
        timer.request_complete();
        assert_eq!(timer.expired(), Kind::RequestTimeout);
    }

    #[tokio::test]
    async fn a_client_that_waits_for_a_100_owes_nothing_before_its_first_byte() {
        let (s, sweep) = (Duration::from_secs, Sweep::new());
        let timer = Timer::new(&sweep, s(300), None).with_body(s(60), true);
        timer.owed();
        assert!(!timer.is_stalled());
        timer.received();
        timer.owed();
        assert!(timer.is_stalled());
    }

    #[tokio::test]
    async fn a_shorter_idle_timeout_wins_over_the_body_timeout_and_zero_is_off() {
        let s = Duration::from_secs;
        let sweep = Sweep::new();
        for (idle, body, kind) in [
            (s(5), s(60), Kind::IdleTimeout),
            (s(60), s(5), Kind::BodyTimeout),
            (s(60), s(0), Kind::IdleTimeout),
            (s(0), s(60), Kind::BodyTimeout),
        ] {
            let timer = Timer::new(&sweep, idle, None).with_body(body, false);
            timer.owed();
            assert_eq!(timer.expired(), kind, "{idle:?} {body:?}");
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

    #[tokio::test(start_paused = true)]
    async fn a_hop_shortens_a_timeout_and_lengthens_none() {
        let (s, sweep) = (Duration::from_secs, Sweep::new());
        let whole = |seconds| Some(Left::Whole(s(seconds)));
        let head = |seconds| Some(Left::Head(s(seconds)));
        for (own, told, left) in [
            (None, None, head(15)),
            (None, head(3), head(3)),
            (None, head(60), head(15)),
            (None, whole(3), whole(3)),
            (Some(s(5)), whole(3), whole(3)),
            (Some(s(5)), whole(9), whole(5)),
            (Some(s(5)), head(3), whole(5)),
            (Some(s(0)), None, None),
            (Some(s(0)), whole(3), whole(3)),
        ] {
            let timer = Timer::new(&sweep, s(300), own).with_hop(told);
            assert_eq!(timer.left(), left, "{own:?} {told:?}");
        }
        let timer = Timer::new(&sweep, s(300), Some(s(5)));
        timer.request_complete();
        tokio::time::advance(s(2)).await;
        sweep.tick();
        assert_eq!(timer.left(), whole(3));
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
