//! The simulation: requests come, are tried and answered, and tasks fail, all in virtual time and from one seed.
//!
//! It ends: requests come for the scenario's duration, each makes at most 11 attempts, and what hangs then is given as long as a
//! request may take.

use std::time::Duration;

use http::StatusCode;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::policy::{Member, Policy};
use super::queue::Queue;
use super::requests::Requests;
use super::rollout::Rollout;
use super::scenario::{Arrivals, Dying, Scenario, What};
use super::service_time::exponential;
use super::tally::{Figures, Tally};
use super::task::{Copy, End, Id, Taken, Task};

/// Between two looks of a policy at its timers: that of the sidecar, whose ejections end on a millisecond.
const TICK: Duration = Duration::from_millis(1);
/// For requests without a timeout, after the last one has come.
const LAST_ANSWERS: Duration = Duration::from_secs(60);

/// What happens.
pub(super) enum Event {
    Arrival,
    /// The next attempt of a request is due.
    Attempt(Id),
    /// A copy comes to its task.
    Reaches(Copy),
    /// The work on it is done.
    Finished(Copy),
    /// Its end comes to the caller.
    Ends(Copy, End),
    /// The caller's end of its connection comes to the task.
    Abandoned(Copy),
    TryTimeout(Copy),
    RequestTimeout(Id),
    Maintain,
    Step(What),
    Learn(Vec<Member>),
    Rollout(Rollout),
}

/// One run of one policy.
pub(super) struct Simulation<'a, P: Policy> {
    pub(super) scenario: &'a Scenario,
    policy: P,
    pub(super) queue: Queue<Event>,
    requests: Requests<P::Call>,
    /// All that ever were.
    pub(super) tasks: Vec<Task>,
    /// Connections kept to each of them.
    idle: Vec<u32>,
    /// Which task is the scenario's n-th.
    pub(super) incumbents: Vec<usize>,
    /// What the registry says.
    pub(super) members: Vec<Member>,
    arrivals: StdRng,
    work: StdRng,
    choices: StdRng,
    tally: Tally,
    maintained_at: Option<Duration>,
}

/// Runs a scenario with a policy.
pub(super) fn run<P: Policy>(scenario: &Scenario, seed: u64, policy: P) -> Figures {
    let mut simulation = Simulation::new(scenario, seed, policy);
    let longest = match scenario.client.per_request_timeout {
        Duration::ZERO => LAST_ANSWERS,
        timeout => timeout + LAST_ANSWERS.min(timeout),
    };
    let end = scenario.duration + longest;
    while let Some(event) = simulation.queue.next(end) {
        simulation.happens(event);
    }
    simulation.figures()
}

impl<'a, P: Policy> Simulation<'a, P> {
    fn new(scenario: &'a Scenario, seed: u64, policy: P) -> Self {
        // Streams of their own: both policies meet the same requests.
        let stream = |number: u64| StdRng::seed_from_u64(seed.wrapping_mul(4).wrapping_add(number));
        let tasks: Vec<_> = scenario.tasks.iter().cloned().map(Task::new).collect();
        let mut simulation = Self {
            scenario,
            policy,
            queue: Queue::new(),
            requests: Requests::new(),
            idle: vec![0; tasks.len()],
            incumbents: (0..tasks.len()).collect(),
            members: Vec::new(),
            tasks,
            arrivals: stream(0),
            work: stream(1),
            choices: stream(2),
            tally: Tally::new(),
            maintained_at: None,
        };
        for task in 0..simulation.tasks.len() {
            let member = simulation.member(task);
            simulation.members.push(member);
        }
        simulation.learn(&simulation.members.clone());
        for step in &scenario.steps {
            simulation.queue.at(step.at, Event::Step(step.what));
        }
        simulation.next_arrival();
        simulation
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrival => self.arrive(),
            Event::Attempt(id) => self.attempt(id),
            Event::Reaches(copy) => self.reaches(copy),
            Event::Finished(copy) => self.finished(copy),
            Event::Ends(copy, end) => self.ends(copy, end),
            Event::Abandoned(copy) => self.abandoned(copy),
            Event::TryTimeout(copy) => self.try_timeout(copy),
            Event::RequestTimeout(id) => self.request_timeout(id),
            Event::Maintain => {
                self.maintained_at = None;
                self.policy.maintain(self.queue.now());
                self.tend();
            }
            Event::Step(what) => self.step(what),
            Event::Learn(members) => self.learn(&members),
            Event::Rollout(rollout) => self.rollout(rollout, P::DEPLOYS),
        }
    }

    pub(super) fn member(&self, task: usize) -> Member {
        Member {
            task,
            zone: self.tasks[task].spec().zone.clone(),
            draining: false,
        }
    }

    fn learn(&mut self, members: &[Member]) {
        let now = self.queue.now();
        self.policy.learn(members, now);
        self.policy.maintain(now);
        self.tend();
    }

    /// Sees to it that the policy is called when its timers are due.
    fn tend(&mut self) {
        let Some(wake) = self.policy.wake() else {
            return;
        };
        let at = wake.max(self.queue.now() + TICK);
        if self.maintained_at.is_none_or(|before| at < before) {
            self.maintained_at = Some(at);
            self.queue.at(at, Event::Maintain);
        }
    }

    fn next_arrival(&mut self) {
        let mean = Duration::from_secs(1) / self.scenario.rate;
        let wait = match self.scenario.arrivals {
            Arrivals::Uniform => mean,
            Arrivals::Poisson => mean.mul_f64(exponential(&mut self.arrivals)),
        };
        if self.queue.now() + wait < self.scenario.duration {
            self.queue.after(wait, Event::Arrival);
        }
    }

    fn arrive(&mut self) {
        self.next_arrival();
        self.tally.requests += 1;
        let idempotent = !self.arrivals.random_bool(self.scenario.non_idempotent);
        let Some(call) = self.policy.enter(idempotent, self.queue.now()) else {
            self.tally.refused += 1;
            return;
        };
        let id = self.requests.begin(self.queue.now(), idempotent, call);
        let timeout = self.scenario.client.per_request_timeout;
        if !timeout.is_zero() {
            self.queue.after(timeout, Event::RequestTimeout(id));
        }
        self.attempt(id);
    }

    fn attempt(&mut self, id: Id) {
        let now = self.queue.now();
        let Some(request) = self.requests.get(id) else {
            return;
        };
        let Some(call) = &mut request.call else {
            return;
        };
        let Some(task) = self.policy.pick(call, &mut self.choices, now) else {
            return self.lose(id, "no task");
        };
        request.attempts += 1;
        request.copies += 1;
        let copy = Copy {
            request: id,
            attempt: request.attempts,
            task,
            kept: self.idle[task] > 0,
        };
        request.waits_for = Some(copy);
        self.tally.attempts += 1;
        let way = self.way_to(task);
        let travel = if copy.kept {
            self.idle[task] -= 1;
            way
        } else {
            // SYN and its answer go before.
            way * 3
        };
        self.queue.after(travel, Event::Reaches(copy));
        if let Some(timeout) = self.policy.per_try_timeout() {
            self.queue.after(timeout, Event::TryTimeout(copy));
        }
    }

    fn way_to(&self, task: usize) -> Duration {
        if self.tasks[task].spec().zone == self.scenario.client.zone {
            self.scenario.network
        } else {
            self.scenario.cross_zone
        }
    }

    fn reaches(&mut self, copy: Copy) {
        match self.tasks[copy.task].take(copy, &mut self.work) {
            Taken::Begun(work) => self.begun(copy, work),
            Taken::Waits => {}
            Taken::Ends(end) => self.tell(copy, end),
        }
    }

    /// A task acts upon a copy from now on.
    fn begun(&mut self, copy: Copy, work: Duration) {
        self.queue.after(work, Event::Finished(copy));
        let Some(request) = self.requests.get(copy.request) else {
            return;
        };
        request.executions += 1;
        if request.executions == 2 && !request.idempotent {
            self.tally.duplicates += 1;
        }
        if request.executions == 1 && request.lost {
            self.tally.unknown += 1;
        }
        if request.waits_for != Some(copy) {
            // A stopped task that goes on has read it, and then reads that its caller is gone.
            self.abandoned(copy);
        }
    }

    fn finished(&mut self, copy: Copy) {
        if let Some(status) = self.tasks[copy.task].finish(copy) {
            self.tell(copy, End::Status(status));
            self.next_of_queue(copy.task);
        }
    }

    fn next_of_queue(&mut self, task: usize) {
        while let Some((copy, work)) = self.tasks[task].next(&mut self.work) {
            self.begun(copy, work);
        }
    }

    /// Sends a copy's end to its caller.
    fn tell(&mut self, copy: Copy, end: End) {
        let way = self.way_to(copy.task);
        self.queue.after(way, Event::Ends(copy, end));
    }

    /// The end of a copy comes to its caller, who may have given it up.
    fn ends(&mut self, copy: Copy, end: End) {
        if let Some(request) = self.requests.get(copy.request) {
            request.copies -= 1;
        }
        if self.requests.waiting_for(copy).is_some() {
            if matches!(end, End::Status(_)) {
                self.idle[copy.task] += 1;
            }
            self.attempt_ended(copy.request, end);
        }
        self.requests.tidy(copy.request);
    }

    fn attempt_ended(&mut self, id: Id, end: End) {
        let now = self.queue.now();
        let Some(request) = self.requests.get(id) else {
            return;
        };
        request.waits_for = None;
        let Some(call) = &mut request.call else {
            return;
        };
        let again = self.policy.again(call, end, &mut self.choices, now);
        match (again, end) {
            (Some(wait), _) => self.queue.after(wait, Event::Attempt(id)),
            (None, End::Status(status)) if status.is_success() => {
                let latency = now - request.began;
                request.call = None;
                self.tally.answer(latency);
            }
            (None, end) => self.lose(id, why(end)),
        }
        self.tend();
    }

    fn lose(&mut self, id: Id, why: &'static str) {
        if let Some(request) = self.requests.get(id) {
            request.call = None;
            request.lost = true;
            request.waits_for = None;
            self.tally.lose(why, request.executions > 0);
        }
        self.requests.tidy(id);
    }

    /// Closes the connection on which a copy is under way.
    fn give_up(&mut self, copy: Copy) {
        let way = self.way_to(copy.task);
        self.queue.after(way, Event::Abandoned(copy));
    }

    fn abandoned(&mut self, copy: Copy) {
        if !self.tasks[copy.task].abandon(copy) {
            return;
        }
        if let Some(request) = self.requests.get(copy.request) {
            request.copies -= 1;
        }
        self.requests.tidy(copy.request);
        self.next_of_queue(copy.task);
    }

    fn try_timeout(&mut self, copy: Copy) {
        if self.requests.waiting_for(copy).is_some() {
            self.give_up(copy);
            self.attempt_ended(copy.request, End::TimedOut);
        }
    }

    fn request_timeout(&mut self, id: Id) {
        let now = self.queue.now();
        let Some(request) = self.requests.get(id) else {
            return;
        };
        let Some(call) = &mut request.call else {
            return;
        };
        if let Some(copy) = request.waits_for {
            self.policy.cut_off(call, now);
            self.give_up(copy);
        }
        self.lose(id, "timeout");
        self.tend();
    }

    fn step(&mut self, what: What) {
        match what {
            What::Die(place, of) => self.die(self.incumbents[place], of),
            What::Stop(place) => self.tasks[self.incumbents[place]].stop(),
            What::Recover(place) => self.recover(self.incumbents[place]),
            What::SlowDown(place, factor) => {
                self.tasks[self.incumbents[place]].slow_down(factor);
            }
            What::Answer503(place, share, acted) => {
                self.tasks[self.incumbents[place]].answer_503(share, acted);
            }
            What::Deploy(deployment) => self.deploy(deployment),
        }
    }

    pub(super) fn die(&mut self, task: usize, of: Dying) {
        self.idle[task] = 0;
        for copy in self.tasks[task].die(of) {
            self.tell(copy, End::Broken(of));
        }
    }

    fn recover(&mut self, task: usize) {
        let (late, unread) = self.tasks[task].recover();
        for copy in late {
            self.finished(copy);
        }
        for copy in unread {
            self.reaches(copy);
        }
        self.next_of_queue(task);
    }

    /// Adds a task that is not in the registry yet.
    pub(super) fn add(&mut self, task: Task) -> usize {
        self.tasks.push(task);
        self.idle.push(0);
        self.tasks.len() - 1
    }

    fn figures(mut self) -> Figures {
        // No policy, ours or theirs, answers these within the time that a request may take.
        for _ in 0..self.requests.unanswered() {
            self.tally.lose("no answer", false);
        }
        self.tally.figures(self.policy.ejections())
    }
}

fn why(end: End) -> &'static str {
    match end {
        End::Refused(_) => "connection refused",
        End::Broken(_) => "connection broken",
        End::TimedOut => "attempt timed out",
        End::Status(StatusCode::SERVICE_UNAVAILABLE) => "answered 503",
        End::Status(_) => "answered an error",
    }
}

#[cfg(test)]
mod tests;
