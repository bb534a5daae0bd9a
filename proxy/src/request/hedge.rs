//! A request that is slow to be answered is sent to a second task as well, and the first answer counts (Dean and Barroso, "The Tail
//! at Scale"). Only where the service's owner asks for it, and only what may be repeated and has no body.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::attempts::{Asked, Trying, try_once};
use super::worker::Worker;
use super::{Answer, verdict};
use crate::error::ProxyError;
use crate::policy::endpoint::Lease;
use crate::policy::limits::Share;
use crate::policy::retry::Attempts;
use crate::routing::route::Route;

type Attempted = Result<Answer, ProxyError>;

/// The attempt on `lease` and, after so long without an answer, one more on another endpoint if there is one and the budget allows.
/// Answers with the one that counts: the first that is not to be tried again, else the second to end. What the other one did is
/// not held against its endpoint, unless it failed.
pub(super) async fn hedged(
    worker: &Rc<Worker>,
    route: &Route,
    asked: &mut Asked<'_>,
    attempts: &mut Attempts<'_>,
    (lease, after): (Lease, Duration),
    trying: &Trying,
) -> (Attempted, Lease) {
    let mut twin = asked.twin();
    let deadline = worker.sweep.deadline();
    deadline.set_after(after);
    let mut second = None;
    let (attempted, by_second) = {
        let mut first = pin!(try_once(worker, route, &lease, asked));
        match deadline.bound(first.as_mut()).await {
            Some(attempted) => (attempted, false),
            None => match beside(worker, route, attempts, &twin) {
                None => (first.await, false),
                Some((other, _budget)) => {
                    let other = &*second.insert(other);
                    let second = pin!(try_once(worker, route, other, &mut twin));
                    let race = Race {
                        first: Some(first),
                        second: Some(second),
                        fallback: None,
                    };
                    let lease_of = |by_second| if by_second { other } else { &lease };
                    let (winner, other) = race
                        .run(|attempted, by_second| {
                            let endpoint = lease_of(by_second).endpoint();
                            !attempts.may_follow(verdict::ended(attempted, endpoint))
                        })
                        .await;
                    if let Some((attempted, by_second)) = other
                        && let Some(outcome) = verdict::outcome(&attempted)
                    {
                        let endpoint = lease_of(by_second).endpoint();
                        route.cluster.report(endpoint, outcome);
                    }
                    winner
                }
            },
        }
    };
    let lease = match second {
        Some(second) if by_second => second,
        _ => lease,
    };
    trying.set(Some(Arc::clone(lease.endpoint())));
    (attempted, lease)
}

/// A second endpoint and a place in the budget, counted as a retry.
fn beside(
    worker: &Worker,
    route: &Route,
    attempts: &mut Attempts<'_>,
    twin: &Asked<'_>,
) -> Option<(Lease, Share)> {
    let cluster = &route.cluster;
    if cluster.offered() < 2 {
        return None;
    }
    let key = twin.head.path();
    let other = cluster.pick(&mut *worker.rng.borrow_mut(), key, attempts.tried())?;
    if attempts.tried().contains(&other.endpoint().id) {
        return None;
    }
    let budget = cluster.try_retry()?;
    attempts.begin(other.endpoint().id);
    cluster.metrics.shard(worker.id).retries.add(1);
    Some((other, budget))
}

/// An attempt that has ended, and whether it is the second.
type Ended = (Attempted, bool);

/// Two attempts side by side.
struct Race<F, S> {
    first: Option<F>,
    second: Option<S>,
    /// One has ended, and the other may do better.
    fallback: Option<Ended>,
}

impl<F, S> Race<Pin<&mut F>, Pin<&mut S>>
where
    F: Future<Output = Attempted>,
    S: Future<Output = Attempted>,
{
    /// The one that counts, and the other if it has ended before.
    async fn run(mut self, counts: impl Fn(&Attempted, bool) -> bool) -> (Ended, Option<Ended>) {
        poll_fn(|cx| {
            let polled = [poll(&mut self.first, cx), poll(&mut self.second, cx)];
            for (attempted, by_second) in polled.into_iter().zip([false, true]) {
                let Poll::Ready(attempted) = attempted else {
                    continue;
                };
                let ended = (attempted, by_second);
                if counts(&ended.0, by_second) {
                    return Poll::Ready((ended, self.fallback.take()));
                }
                match self.fallback.take() {
                    None => self.fallback = Some(ended),
                    // Any answer is better than none.
                    Some(before) if before.0.is_ok() => return Poll::Ready((before, Some(ended))),
                    Some(before) => return Poll::Ready((ended, Some(before))),
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Polls what has not ended yet.
fn poll<A: Future>(attempt: &mut Option<Pin<&mut A>>, cx: &mut Context<'_>) -> Poll<A::Output> {
    let Some(running) = attempt else {
        return Poll::Pending;
    };
    let polled = running.as_mut().poll(cx);
    if polled.is_ready() {
        *attempt = None;
    }
    polled
}
