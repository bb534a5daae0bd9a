//! What the engine asks of a caller's proxy: whom to try, whether again, whom to leave out. Ours answers, and Service Connect's.

use std::time::Duration;

use rand::rngs::StdRng;

use super::task::End;

/// A task as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) task: usize,
    pub(super) zone: String,
    pub(super) draining: bool,
}

/// How a deployment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deploys {
    /// A task is registered when its application is ready, and takes requests until every caller has acknowledged that it drains.
    Acknowledged,
    /// A task is registered when it starts, and its application ends while callers still know it (SERVICE_CONNECT.md 1.7, 2.5).
    Stale,
}

/// One caller's proxy.
pub(super) trait Policy {
    /// One request's attempts, and the places it holds.
    type Call;

    const DEPLOYS: Deploys;

    /// New membership has come.
    fn learn(&mut self, members: &[Member], now: Duration);

    /// A request comes; `None` when no more may be under way.
    fn enter(&mut self, idempotent: bool, now: Duration) -> Option<Self::Call>;

    /// The task of the next attempt; `None` when there is none.
    fn pick(&mut self, call: &mut Self::Call, rng: &mut StdRng, now: Duration) -> Option<usize>;

    /// An attempt has ended: after how long there is another one, if there is.
    fn again(
        &mut self,
        call: &mut Self::Call,
        end: End,
        rng: &mut StdRng,
        now: Duration,
    ) -> Option<Duration>;

    /// The request's own deadline has passed while an attempt was under way.
    fn cut_off(&mut self, call: &mut Self::Call, now: Duration);

    /// Lets back in, and whatever else depends on time alone.
    fn maintain(&mut self, now: Duration);

    /// When [`Policy::maintain`] is due.
    fn wake(&self) -> Option<Duration>;

    /// So far.
    fn ejections(&self) -> u64;

    /// For one attempt.
    fn per_try_timeout(&self) -> Option<Duration>;
}
