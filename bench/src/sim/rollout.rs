//! A rolling deployment: every task is replaced, one after the other, as ours does it and as Service Connect does.

use std::time::Duration;

use super::engine::{Event, Simulation};
use super::policy::{Deploys, Policy};
use super::scenario::Dying;
use super::task::Task;
use super::timeline::Deployment;

/// Between two looks whether a task that leaves has finished.
const LOOK: Duration = Duration::from_millis(10);
/// A sidecar's `--drain-timeout`; what is under way then is cut off.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// The next thing of a deployment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rollout {
    times: Deployment,
    /// The scenario's n-th task is being replaced.
    place: usize,
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Start,
    /// The new task's application takes requests.
    Ready(usize),
    /// Callers know the new task; the old one is told to end.
    Retire {
        old: usize,
    },
    /// Callers no longer offer the old one; it goes when it has finished.
    Leave {
        old: usize,
        since: Duration,
    },
}

impl<P: Policy> Simulation<'_, P> {
    pub(super) fn deploy(&mut self, times: Deployment) {
        let rollout = Rollout {
            times,
            place: 0,
            stage: Stage::Start,
        };
        self.queue.after(Duration::ZERO, Event::Rollout(rollout));
    }

    pub(super) fn rollout(&mut self, mut rollout: Rollout, deploys: Deploys) {
        let Some(spec) = self.scenario.tasks.get(rollout.place) else {
            return;
        };
        let times = rollout.times;
        let (wait, stage) = match rollout.stage {
            Stage::Start => {
                let new = self.add(Task::starting(spec.clone()));
                if deploys == Deploys::Stale {
                    self.register(new, times);
                }
                (times.startup, Stage::Ready(new))
            }
            Stage::Ready(new) => {
                self.tasks[new].recover();
                if deploys == Deploys::Acknowledged {
                    self.register(new, times);
                }
                let old = std::mem::replace(&mut self.incumbents[rollout.place], new);
                (times.propagation, Stage::Retire { old })
            }
            Stage::Retire { old } => {
                self.retire(old, deploys, times);
                let since = self.queue.now() + times.propagation;
                // What was sent before the caller knew is on its way for so long.
                let on_the_wire = self.scenario.network.max(self.scenario.cross_zone) * 3;
                (times.propagation + on_the_wire, Stage::Leave { old, since })
            }
            Stage::Leave { old, since } => {
                let waited = self.queue.now().saturating_sub(since);
                if self.tasks[old].is_idle() || waited >= DRAIN_TIMEOUT {
                    self.die(old, Dying::Task);
                    self.unregister(old, times);
                    rollout.place += 1;
                    (Duration::ZERO, Stage::Start)
                } else {
                    (LOOK, rollout.stage)
                }
            }
        };
        rollout.stage = stage;
        self.queue.after(wait, Event::Rollout(rollout));
    }

    fn retire(&mut self, old: usize, deploys: Deploys, times: Deployment) {
        match deploys {
            Deploys::Acknowledged => {
                for member in &mut self.members {
                    member.draining |= member.task == old;
                }
                self.publish(times);
            }
            Deploys::Stale => {
                self.tasks[old].leave();
                self.unregister(old, times);
            }
        }
    }

    fn register(&mut self, new: usize, times: Deployment) {
        let member = self.member(new);
        self.members.push(member);
        self.publish(times);
    }

    fn unregister(&mut self, old: usize, times: Deployment) {
        let before = self.members.len();
        self.members.retain(|member| member.task != old);
        if self.members.len() < before {
            self.publish(times);
        }
    }

    fn publish(&mut self, times: Deployment) {
        let learn = Event::Learn(self.members.clone());
        self.queue.after(times.propagation, learn);
    }
}
