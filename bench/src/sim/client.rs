//! Our policy: the core that the sidecar runs on, driven with virtual time. The only file of the simulator that knows the core.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use outrigger_proxy::policy::cluster::Cluster;
use outrigger_proxy::policy::endpoint::Lease;
use outrigger_proxy::policy::limits::Share;
use outrigger_proxy::policy::outlier::Outcome;
use outrigger_proxy::policy::retry::{Attempts, Ended, Pushback, Retriable};
use outrigger_xds::model::{Address, Endpoint, EndpointHealth, RetryPolicy};
use rand::rngs::StdRng;

use super::policy::{Deploys, Member, Policy};
use super::scenario::Client;
use super::task::End;

/// The sidecar of one caller.
pub(super) struct Ours<'a> {
    cluster: Cluster,
    retry: &'a RetryPolicy,
    wake: Option<Duration>,
}

impl<'a> Ours<'a> {
    pub(super) fn new(client: &'a Client) -> Self {
        Self {
            cluster: Cluster::new(Arc::new(client.cluster()), &client.zone),
            retry: &client.policy.retry,
            wake: None,
        }
    }

    /// Outlier detection sees every attempt; the sidecar's control runtime acts within microseconds.
    fn report(&mut self, lease: &Lease, outcome: Outcome, now: Duration) {
        if self.cluster.report(lease.endpoint(), outcome) {
            self.maintain(now);
        }
    }
}

/// One request, as `request::attempts` of the sidecar holds it.
pub(super) struct Call<'a> {
    attempts: Attempts<'a>,
    lease: Option<Lease>,
    /// Held from the decision to retry until that retry has ended.
    budget: Option<Share>,
    begun: Duration,
    _live: Share,
}

impl<'a> Policy for Ours<'a> {
    type Call = Call<'a>;

    const DEPLOYS: Deploys = Deploys::Acknowledged;

    fn learn(&mut self, members: &[Member], now: Duration) {
        let endpoints: Vec<_> = members.iter().map(endpoint).collect();
        let addresses = members.iter().map(|member| address(member.task));
        self.cluster.set_endpoints(addresses.zip(&endpoints), now);
    }

    fn enter(&mut self, idempotent: bool, now: Duration) -> Option<Call<'a>> {
        let method = if idempotent {
            Method::GET
        } else {
            Method::POST
        };
        Some(Call {
            _live: self.cluster.enter()?,
            attempts: Attempts::new(self.retry, &method),
            lease: None,
            budget: None,
            begun: now,
        })
    }

    fn pick(&mut self, call: &mut Call<'a>, rng: &mut StdRng, _: Duration) -> Option<usize> {
        let lease = self.cluster.pick(rng, b"/", call.attempts.tried())?;
        call.attempts.begin(lease.endpoint().id);
        let task = task(lease.endpoint().address);
        call.lease = Some(lease);
        Some(task)
    }

    fn again(
        &mut self,
        call: &mut Call<'a>,
        end: End,
        rng: &mut StdRng,
        now: Duration,
    ) -> Option<Duration> {
        let lease = call.lease.take()?;
        self.report(&lease, outcome(end), now);
        // What ends gives its share back before the next one asks for one.
        call.budget = None;
        let Some((wait, budget)) = self.cluster.again(&call.attempts, ended(end), rng) else {
            if let End::Status(_) = end {
                self.cluster.answered(call.begun, now);
            }
            return None;
        };
        call.budget = Some(budget);
        Some(wait)
    }

    fn cut_off(&mut self, call: &mut Call<'a>, now: Duration) {
        if let Some(lease) = call.lease.take() {
            self.report(&lease, Outcome::LocalOrigin, now);
            self.cluster.answered(call.begun, now);
        }
    }

    fn maintain(&mut self, now: Duration) {
        self.wake = self.cluster.maintain(now, |_| ());
    }

    fn wake(&self) -> Option<Duration> {
        self.wake
    }

    fn ejections(&self) -> u64 {
        self.cluster
            .ejections()
            .iter()
            .map(|(_, count)| count)
            .sum()
    }

    fn per_try_timeout(&self) -> Option<Duration> {
        self.retry.per_try_timeout
    }
}

/// What the sidecar's connections make of it: `Kind::retriable`. The ingress says *undelivered* when its application took no byte.
fn ended(end: End) -> Ended {
    match end {
        End::Refused(_) => Ended::Failed(Retriable::Undelivered),
        End::Broken(_) | End::TimedOut => Ended::Failed(Retriable::Unknown),
        End::Status(status) => Ended::Answered(status, Pushback::None),
    }
}

fn outcome(end: End) -> Outcome {
    match end {
        End::Refused(_) | End::Broken(_) | End::TimedOut => Outcome::LocalOrigin,
        End::Status(status) => Outcome::of(status),
    }
}

/// Every task has an address of its own, in which its number can be read.
fn address(task: usize) -> SocketAddr {
    let [.., high, low] = u32::try_from(task).unwrap_or(u32::MAX).to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 80))
}

fn task(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(address) => {
            let [_, _, high, low] = address.ip().octets();
            usize::from(high) << 8 | usize::from(low)
        }
        SocketAddr::V6(_) => unreachable!("`address` makes none"),
    }
}

fn endpoint(member: &Member) -> Endpoint {
    Endpoint {
        zone: member.zone.clone(),
        health: if member.draining {
            EndpointHealth::Draining
        } else {
            EndpointHealth::Healthy
        },
        instance: member.task.to_string(),
        ..Endpoint::new(Address::Ip(address(member.task)))
    }
}

#[cfg(test)]
mod tests {
    use outrigger_xds::model::{CircuitBreakers, ServicePolicy};
    use rand::SeedableRng;

    use super::super::timeline::Dying;
    use super::*;

    #[test]
    fn a_retry_gives_its_place_back_before_the_next_one_asks_for_one() {
        let policy = ServicePolicy {
            circuit_breakers: CircuitBreakers {
                min_retry_concurrency: 1,
                ..CircuitBreakers::default()
            },
            ..ServicePolicy::default()
        };
        let client = Client {
            zone: String::new(),
            per_request_timeout: Duration::ZERO,
            policy,
        };
        let (now, rng) = (Duration::ZERO, &mut StdRng::seed_from_u64(1));
        let mut ours = Ours::new(&client);
        let member = |task| Member {
            task,
            zone: String::new(),
            draining: false,
        };
        ours.learn(&[0, 1, 2].map(member), now);
        let mut call = ours.enter(true, now).expect("nothing is under way");
        for retry in 1..=2 {
            assert!(ours.pick(&mut call, rng, now).is_some());
            let again = ours.again(&mut call, End::Refused(Dying::Task), rng, now);
            assert!(again.is_some(), "retry {retry}");
        }
    }

    #[test]
    fn every_task_is_known_by_its_address() {
        for number in [0, 1, 255, 256, 999, 65_535] {
            assert_eq!(task(address(number)), number);
        }
    }
}
