//! The other policy: Service Connect's defaults, as documented (SERVICE_CONNECT.md 1.2, 1.7, 2.5); what is not documented is Envoy's.
//!
//! Two retries of any method after a failed connection or a 503, never to a host tried before if five draws find another; round robin;
//! a host with five failures within 30 s is left out for 30 s, the next time for 60 s, and so on to 300 s. At most half of the hosts
//! are out at once (not documented; ours, so that the comparison is not about it). When all are out, all are offered.

use std::collections::VecDeque;
use std::time::Duration;

use http::StatusCode;
use rand::Rng;
use rand::rngs::StdRng;

use super::policy::{Deploys, Member, Policy};
use super::scenario::Dying;
use super::task::End;

const RETRIES: usize = 2;
/// Envoy's `host_selection_retry_max_attempts`, as App Mesh sets it.
const DRAWS: usize = 5;
const FAILURES: usize = 5;
const WINDOW: Duration = Duration::from_secs(30);
const BASE_EJECTION: Duration = Duration::from_secs(30);
const LONGEST_EJECTION: Duration = Duration::from_secs(300);
/// Envoy's default: fully jittered between 0 and (2^n - 1) times this.
const BACK_OFF: Duration = Duration::from_millis(25);

/// The Envoy of one caller.
#[derive(Default)]
pub(super) struct ServiceConnect {
    hosts: Vec<Host>,
    next: usize,
    ejections: u64,
}

struct Host {
    task: usize,
    failures: VecDeque<Duration>,
    ejected_until: Option<Duration>,
    ejections: u32,
}

impl Host {
    fn new(task: usize) -> Self {
        Self {
            task,
            failures: VecDeque::new(),
            ejected_until: None,
            ejections: 0,
        }
    }
}

/// One request: the hosts it was sent to.
#[derive(Default)]
pub(super) struct Call {
    tried: Vec<usize>,
}

impl ServiceConnect {
    fn draw(&mut self) -> Option<usize> {
        let count = self.hosts.len();
        for _ in 0..count {
            self.next = (self.next + 1) % count;
            if self.hosts[self.next].ejected_until.is_none() {
                return Some(self.hosts[self.next].task);
            }
        }
        // All are out: all are offered (Envoy's panic mode).
        self.hosts.get(self.next).map(|host| host.task)
    }

    fn report(&mut self, task: Option<&usize>, end: End, now: Duration) {
        let failed = match end {
            End::Status(status) => status.is_server_error(),
            End::Refused(_) | End::Broken(_) | End::TimedOut => true,
        };
        let out = self
            .hosts
            .iter()
            .filter(|host| host.ejected_until.is_some())
            .count();
        let spared = (self.hosts.len() / 2).max(usize::from(self.hosts.len() > 1));
        let known = self.hosts.iter_mut().find(|host| Some(&host.task) == task);
        let Some(host) = known.filter(|_| failed) else {
            return;
        };
        host.failures.retain(|at| *at + WINDOW > now);
        host.failures.push_back(now);
        if host.failures.len() >= FAILURES && host.ejected_until.is_none() && out < spared {
            host.failures.clear();
            host.ejections += 1;
            let length = (BASE_EJECTION * host.ejections).min(LONGEST_EJECTION);
            host.ejected_until = Some(now + length);
            self.ejections += 1;
        }
    }
}

impl Policy for ServiceConnect {
    type Call = Call;

    const DEPLOYS: Deploys = Deploys::Stale;

    fn learn(&mut self, members: &[Member], _: Duration) {
        let mut before = std::mem::take(&mut self.hosts);
        let known = |member: &Member| {
            let place = before.iter().position(|host| host.task == member.task);
            place.map_or_else(|| Host::new(member.task), |place| before.swap_remove(place))
        };
        self.hosts = members.iter().map(known).collect();
        self.next = 0;
    }

    /// All circuit breakers are set to their largest value.
    fn enter(&mut self, _: bool, _: Duration) -> Option<Call> {
        Some(Call::default())
    }

    fn pick(&mut self, call: &mut Call, _: &mut StdRng, _: Duration) -> Option<usize> {
        let mut chosen = self.draw()?;
        for _ in 0..DRAWS {
            if !call.tried.contains(&chosen) {
                break;
            }
            chosen = self.draw()?;
        }
        call.tried.push(chosen);
        Some(chosen)
    }

    fn again(
        &mut self,
        call: &mut Call,
        end: End,
        rng: &mut StdRng,
        now: Duration,
    ) -> Option<Duration> {
        self.report(call.tried.last(), end, now);
        let retried = match end {
            // The task's own Envoy says 503, whether its application was refused or broken off.
            End::Refused(_) | End::Broken(Dying::Application) => true,
            End::Status(status) => status == StatusCode::SERVICE_UNAVAILABLE,
            End::Broken(Dying::Task) | End::TimedOut => false,
        };
        let nth = call.tried.len();
        (retried && nth <= RETRIES).then(|| {
            let longest = BACK_OFF * ((1 << nth) - 1);
            rng.random_range(Duration::ZERO..longest)
        })
    }

    fn cut_off(&mut self, call: &mut Call, now: Duration) {
        self.report(call.tried.last(), End::TimedOut, now);
    }

    fn maintain(&mut self, now: Duration) {
        for host in &mut self.hosts {
            host.ejected_until = host.ejected_until.filter(|until| *until > now);
        }
    }

    fn wake(&self) -> Option<Duration> {
        self.hosts
            .iter()
            .filter_map(|host| host.ejected_until)
            .min()
    }

    fn ejections(&self) -> u64 {
        self.ejections
    }

    fn per_try_timeout(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn of(count: usize) -> ServiceConnect {
        let mut policy = ServiceConnect::default();
        let member = |task| Member {
            task,
            zone: String::new(),
            draining: false,
        };
        policy.learn(&(0..count).map(member).collect::<Vec<_>>(), WINDOW);
        policy
    }

    fn rng() -> StdRng {
        StdRng::seed_from_u64(1)
    }

    #[test]
    fn hosts_are_taken_in_turn_and_a_retry_goes_to_another_one() {
        let mut policy = of(3);
        let mut one = Call::default();
        let turns: Vec<_> = (0..4)
            .map(|_| policy.pick(&mut Call::default(), &mut rng(), WINDOW))
            .collect();
        assert_eq!(turns, [Some(1), Some(2), Some(0), Some(1)]);
        policy.pick(&mut one, &mut rng(), WINDOW);
        policy.pick(&mut one, &mut rng(), WINDOW);
        assert_eq!(one.tried, [2, 0]);
    }

    #[test]
    fn any_method_is_retried_twice_after_503_and_never_after_a_reset_or_a_timeout() {
        let mut policy = of(3);
        let unavailable = End::Status(StatusCode::SERVICE_UNAVAILABLE);
        for (end, retried) in [
            (unavailable, true),
            (End::Refused(Dying::Task), true),
            (End::Broken(Dying::Application), true),
            (End::Broken(Dying::Task), false),
            (End::TimedOut, false),
            (End::Status(StatusCode::BAD_GATEWAY), false),
        ] {
            let mut call = policy.enter(false, WINDOW).unwrap();
            policy.pick(&mut call, &mut rng(), WINDOW);
            let again = policy.again(&mut call, end, &mut rng(), WINDOW);
            assert_eq!(again.is_some(), retried, "{end:?}");
        }
        let mut call = policy.enter(false, WINDOW).unwrap();
        let mut attempts = 0;
        loop {
            policy.pick(&mut call, &mut rng(), WINDOW);
            attempts += 1;
            if policy
                .again(&mut call, unavailable, &mut rng(), WINDOW)
                .is_none()
            {
                break;
            }
        }
        assert_eq!(attempts, 3);
    }

    #[test]
    fn five_failures_within_30_s_leave_a_host_out_for_30_s_and_then_60() {
        let mut policy = of(2);
        let fail = |policy: &mut ServiceConnect, at: u64| {
            policy.report(Some(&0), End::TimedOut, Duration::from_secs(at));
        };
        for at in [0, 10, 20, 30, 40] {
            fail(&mut policy, at);
        }
        assert_eq!(policy.wake(), None, "the first is older than 30 s");
        fail(&mut policy, 41);
        fail(&mut policy, 42);
        assert_eq!(policy.wake(), Some(Duration::from_secs(72)));
        let only: Vec<_> = (0..3).filter_map(|_| policy.draw()).collect();
        assert_eq!(only, [1, 1, 1]);
        policy.maintain(Duration::from_secs(72));
        for _ in 0..5 {
            fail(&mut policy, 73);
        }
        assert_eq!(policy.wake(), Some(Duration::from_secs(133)));
        assert_eq!(policy.ejections(), 2);
    }

    #[test]
    fn the_only_host_is_never_left_out() {
        let mut policy = of(1);
        for _ in 0..10 {
            policy.report(Some(&0), End::TimedOut, WINDOW);
        }
        assert_eq!(policy.draw(), Some(0));
    }
}
