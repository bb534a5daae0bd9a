//! The model of a task: an application with so many workers and a queue before them, and the ways in which it fails.

use std::collections::VecDeque;
use std::time::Duration;

use http::StatusCode;
use rand::Rng;

use super::scenario::{Dying, TaskSpec};
use super::service_time::times;

/// One attempt of one request, as it lies on the wire or in a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copy {
    /// Whose.
    pub(super) request: Id,
    /// Which attempt of that request; the first is 1.
    pub(super) attempt: u32,
    /// Where it goes.
    pub(super) task: usize,
    /// Whether it travels on a connection that was kept from an earlier one.
    pub(super) kept: bool,
}

/// A request: its place among those under way, and a number that tells it from the place's earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) place: u32,
    pub(super) generation: u32,
}

/// How an attempt ends, as its caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing took the connection. With [`Dying::Application`] the proxy before the application says so.
    Refused(Dying),
    /// The connection or the application ended after the request had been sent.
    Broken(Dying),
    /// An answer.
    Status(StatusCode),
    /// No answer within the time for one attempt.
    TimedOut,
}

/// What becomes of a request that reaches a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is acted upon, and done after so long.
    Begun(Duration),
    /// It waits for a worker, or for the process to go on.
    Waits,
    /// It ends at once.
    Ends(End),
}

/// Whether requests are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Well,
    Stopped,
    Dead(Dying),
    /// Told to end: what is under way is finished, and nothing new is taken.
    Leaving,
}

/// One task.
#[derive(Debug)]
pub(super) struct Task {
    spec: TaskSpec,
    state: State,
    factor: f64,
    /// Share answered 503, and whether those are acted upon.
    unavailable: (f64, bool),
    working: Vec<(Copy, StatusCode)>,
    queue: VecDeque<Copy>,
    /// While stopped: what lies in the sockets, and what would have been done.
    unread: VecDeque<Copy>,
    late: Vec<Copy>,
}

impl Task {
    pub(super) fn new(spec: TaskSpec) -> Self {
        Self {
            spec,
            state: State::Well,
            factor: 1.0,
            unavailable: (0.0, false),
            working: Vec::new(),
            queue: VecDeque::new(),
            unread: VecDeque::new(),
            late: Vec::new(),
        }
    }

    /// One whose application does not listen yet; the proxy before it does.
    pub(super) fn starting(spec: TaskSpec) -> Self {
        Self {
            state: State::Dead(Dying::Application),
            ..Self::new(spec)
        }
    }

    pub(super) fn spec(&self) -> &TaskSpec {
        &self.spec
    }

    pub(super) fn slow_down(&mut self, factor: f64) {
        self.factor = factor;
    }

    pub(super) fn answer_503(&mut self, share: f64, acted: bool) {
        self.unavailable = (share, acted);
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.working.is_empty() && self.queue.is_empty() && self.unread.is_empty()
    }

    /// A request has come.
    pub(super) fn take(&mut self, copy: Copy, rng: &mut impl Rng) -> Taken {
        match self.state {
            State::Dead(of) if copy.kept => Taken::Ends(End::Broken(of)),
            State::Dead(of) => Taken::Ends(End::Refused(of)),
            State::Leaving => Taken::Ends(End::Refused(Dying::Application)),
            State::Stopped => {
                self.unread.push_back(copy);
                Taken::Waits
            }
            State::Well => self.admit(copy, rng),
        }
    }

    fn admit(&mut self, copy: Copy, rng: &mut impl Rng) -> Taken {
        let (share, acted) = self.unavailable;
        let unavailable = share > 0.0 && rng.random_bool(share);
        let refusal = Taken::Ends(End::Status(StatusCode::SERVICE_UNAVAILABLE));
        if unavailable && !acted {
            return refusal;
        }
        if self.working.len() < self.spec.concurrency {
            let status = if unavailable {
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                StatusCode::OK
            };
            return Taken::Begun(self.begin(copy, status, rng));
        }
        if self.queue.len() >= self.spec.queue {
            return refusal;
        }
        self.queue.push_back(copy);
        Taken::Waits
    }

    fn begin(&mut self, copy: Copy, status: StatusCode, rng: &mut impl Rng) -> Duration {
        self.working.push((copy, status));
        times(self.spec.service_time.sample(rng), self.factor)
    }

    /// The work on a request is done: its answer, unless it was broken off or the process stands still.
    pub(super) fn finish(&mut self, copy: Copy) -> Option<StatusCode> {
        let place = self
            .working
            .iter()
            .position(|(working, _)| *working == copy)?;
        if self.state == State::Stopped {
            self.late.push(copy);
            return None;
        }
        Some(self.working.swap_remove(place).1)
    }

    /// The caller has closed the connection. Returns whether the request was there to be broken off; a stopped process does not
    /// notice.
    pub(super) fn abandon(&mut self, copy: Copy) -> bool {
        if self.state == State::Stopped {
            return false;
        }
        let before = self.working.len() + self.queue.len();
        self.working.retain(|(working, _)| *working != copy);
        self.queue.retain(|queued| *queued != copy);
        self.working.len() + self.queue.len() < before
    }

    /// The next of the queue, if a worker is free for it.
    pub(super) fn next(&mut self, rng: &mut impl Rng) -> Option<(Copy, Duration)> {
        if matches!(self.state, State::Stopped) || self.working.len() >= self.spec.concurrency {
            return None;
        }
        let copy = self.queue.pop_front()?;
        Some((copy, self.begin(copy, StatusCode::OK, rng)))
    }

    /// It ends at once. Returns what was under way.
    pub(super) fn die(&mut self, of: Dying) -> Vec<Copy> {
        self.state = State::Dead(of);
        self.late.clear();
        let working = self.working.drain(..).map(|(copy, _)| copy);
        working
            .chain(self.queue.drain(..))
            .chain(self.unread.drain(..))
            .collect()
    }

    pub(super) fn stop(&mut self) {
        if self.state == State::Well {
            self.state = State::Stopped;
        }
    }

    /// It is told to end, and finishes what is under way.
    pub(super) fn leave(&mut self) {
        self.state = State::Leaving;
    }

    /// All is well again. Returns what was done meanwhile, and what now is read.
    pub(super) fn recover(&mut self) -> (Vec<Copy>, VecDeque<Copy>) {
        self.state = State::Well;
        self.factor = 1.0;
        self.unavailable = (0.0, false);
        (
            std::mem::take(&mut self.late),
            std::mem::take(&mut self.unread),
        )
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::service_time::ServiceTime;
    use super::*;

    const WORK: Duration = Duration::from_millis(10);

    fn task() -> Task {
        Task::new(TaskSpec {
            zone: String::new(),
            service_time: ServiceTime::Constant(WORK),
            concurrency: 1,
            queue: 1,
        })
    }

    fn copy(place: u32, kept: bool) -> Copy {
        let request = Id {
            place,
            generation: 0,
        };
        Copy {
            request,
            attempt: 1,
            task: 0,
            kept,
        }
    }

    fn rng() -> StdRng {
        StdRng::seed_from_u64(1)
    }

    #[test]
    fn workers_then_the_queue_then_503() {
        let mut task = task();
        assert_eq!(task.take(copy(1, true), &mut rng()), Taken::Begun(WORK));
        assert_eq!(task.take(copy(2, true), &mut rng()), Taken::Waits);
        let shed = Taken::Ends(End::Status(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(task.take(copy(3, true), &mut rng()), shed);
        assert_eq!(task.next(&mut rng()), None);
        assert_eq!(task.finish(copy(1, true)), Some(StatusCode::OK));
        assert_eq!(task.next(&mut rng()), Some((copy(2, true), WORK)));
        assert!(!task.is_idle());
    }

    #[test]
    fn a_dead_task_refuses_new_connections_and_breaks_kept_ones() {
        let mut task = task();
        task.take(copy(1, true), &mut rng());
        assert_eq!(task.die(Dying::Task), [copy(1, true)]);
        let refused = Taken::Ends(End::Refused(Dying::Task));
        assert_eq!(task.take(copy(2, false), &mut rng()), refused);
        let broken = Taken::Ends(End::Broken(Dying::Task));
        assert_eq!(task.take(copy(3, true), &mut rng()), broken);
        assert_eq!(task.finish(copy(1, true)), None);
    }

    #[test]
    fn a_stopped_task_is_mute_and_goes_on_where_it_was() {
        let mut task = task();
        task.take(copy(1, true), &mut rng());
        task.stop();
        assert_eq!(task.take(copy(2, false), &mut rng()), Taken::Waits);
        assert_eq!(task.finish(copy(1, true)), None);
        assert!(
            !task.abandon(copy(2, false)),
            "nobody reads the end of the connection"
        );
        let (late, unread) = task.recover();
        assert_eq!(
            (late, unread),
            (vec![copy(1, true)], VecDeque::from([copy(2, false)]))
        );
        assert_eq!(task.finish(copy(1, true)), Some(StatusCode::OK));
    }

    #[test]
    fn what_its_caller_gave_up_frees_its_worker() {
        let mut task = task();
        task.take(copy(1, true), &mut rng());
        assert!(task.abandon(copy(1, true)));
        assert!(!task.abandon(copy(1, true)));
        assert!(task.is_idle());
    }

    #[test]
    fn a_slow_task_takes_longer_for_what_begins_then_and_an_unavailable_one_says_so() {
        let mut task = task();
        task.slow_down(3.0);
        assert_eq!(task.take(copy(1, true), &mut rng()), Taken::Begun(WORK * 3));
        task.answer_503(1.0, true);
        task.abandon(copy(1, true));
        assert_eq!(task.take(copy(2, true), &mut rng()), Taken::Begun(WORK * 3));
        assert_eq!(
            task.finish(copy(2, true)),
            Some(StatusCode::SERVICE_UNAVAILABLE)
        );
    }
}
