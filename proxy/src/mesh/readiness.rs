//! Whether this task's application may be offered: the sidecar beside it asks it, over and over, and its callers are told.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use outrigger_xds::model::{HealthCheck, Probe};
use tokio::sync::watch;

use super::document::{PortMapping, Service};
use crate::observe::ready::Readiness;
use crate::upstream::health::Prober;

/// Between two looks at an application that has not passed yet, doubling.
const FIRST_POLL: Duration = Duration::from_millis(50);
const LAST_POLL: Duration = Duration::from_secs(2);

/// What is asked unless the service's policy has a health check: that it accepts, once a second.
fn default_check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        healthy_threshold: 1,
        unhealthy_threshold: 2,
    }
}

/// What the probes say so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has never passed, and not failed often enough to say that it does.
    Waiting,
    /// It has never passed, and fails: nothing is registered, but what an earlier run of this sidecar left behind is not to be believed.
    Refusing,
    Passing,
    /// It has passed once, and fails now.
    Failing,
}

/// The verdict, and how many probes in a row speak against it.
#[derive(Debug)]
struct Judge {
    verdict: Verdict,
    against: u32,
}

impl Judge {
    /// One more probe. The first that passes is believed at once.
    fn hear(&mut self, check: &HealthCheck, passed: bool) -> Verdict {
        let (other, needed) = match (self.verdict, passed) {
            (Verdict::Waiting | Verdict::Refusing, true) => (Verdict::Passing, 1),
            (Verdict::Waiting, false) => (Verdict::Refusing, check.unhealthy_threshold),
            (Verdict::Failing, true) => (Verdict::Passing, check.healthy_threshold),
            (Verdict::Passing, false) => (Verdict::Failing, check.unhealthy_threshold),
            (Verdict::Passing, true) | (Verdict::Refusing | Verdict::Failing, false) => {
                self.against = 0;
                return self.verdict;
            }
        };
        self.against += 1;
        if self.against >= needed {
            (self.verdict, self.against) = (other, 0);
        }
        self.verdict
    }
}

/// The application behind one service of this task.
pub(super) struct Application {
    address: SocketAddr,
    prober: Prober,
    /// Under which its state is told in `/ready`.
    key: String,
}

impl Application {
    pub(super) fn new(service: &Service, mapping: &PortMapping, ip: IpAddr) -> Self {
        let check = service.policy.health_check.clone();
        let check = check.unwrap_or_else(default_check);
        Self {
            address: SocketAddr::new(ip, mapping.container_port),
            prober: Prober::new(&check, mapping.protocol, &service.discovery_name),
            key: format!("application/{}", service.discovery_name),
        }
    }

    /// Asks for ever, and tells what follows from it.
    pub(super) async fn watch(&self, told: &watch::Sender<Verdict>, ready: &Readiness) {
        let check = &self.prober.check;
        let mut judge = Judge {
            verdict: Verdict::Waiting,
            against: 0,
        };
        let mut poll = FIRST_POLL;
        loop {
            let asked = self.prober.ask(self.address).await;
            let failure = asked.err().map(|error| error.to_string());
            let verdict = judge.hear(check, failure.is_none());
            self.tell(verdict, failure, poll == LAST_POLL, ready);
            told.send_if_modified(|known| std::mem::replace(known, verdict) != verdict);
            let pause = match verdict {
                Verdict::Waiting | Verdict::Refusing => poll,
                Verdict::Passing | Verdict::Failing => check.interval,
            };
            tokio::time::sleep(pause).await;
            poll = (poll * 2).min(LAST_POLL);
        }
    }

    /// An application may take a moment to start: what is usual is no problem.
    fn tell(&self, verdict: Verdict, failure: Option<String>, late: bool, ready: &Readiness) {
        let address = self.address;
        let words = match verdict {
            Verdict::Waiting | Verdict::Refusing if late => "not announced yet",
            Verdict::Failing => "its callers are told to spare this task",
            Verdict::Waiting | Verdict::Refusing | Verdict::Passing => {
                if verdict == Verdict::Passing {
                    ready.clear(&self.key);
                }
                return;
            }
        };
        // While it fails for want of one more success, the last reason stands.
        if let Some(failure) = failure {
            ready.problem(
                self.key.as_str(),
                format!("{words}: the application on {address} does not pass: {failure}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(check: &HealthCheck, probes: &str) -> String {
        let mut judge = Judge {
            verdict: Verdict::Waiting,
            against: 0,
        };
        let each = probes
            .chars()
            .map(|probe| match judge.hear(check, probe == '+') {
                Verdict::Waiting => 'w',
                Verdict::Refusing => 'r',
                Verdict::Passing => 'p',
                Verdict::Failing => 'f',
            });
        each.collect()
    }

    #[test]
    fn the_first_success_counts_at_once_and_later_the_thresholds_do() {
        assert_eq!(verdicts(&default_check(), "--+-+--++-+-"), "wrppppfppppp");
        let slower = HealthCheck {
            healthy_threshold: 3,
            unhealthy_threshold: 1,
            ..default_check()
        };
        assert_eq!(verdicts(&slower, "-+-+-+++-"), "rpfffffpf");
    }
}
