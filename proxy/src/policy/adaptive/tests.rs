//! The limit follows a server with so many slots and a queue before them, in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

/// A server, and callers that ask it as often as they are told to, whether it answers or not.
struct World {
    adaptive: Adaptive,
    now: Duration,
    slots: usize,
    service: Duration,
    /// When a request in a slot ends, and when it began.
    busy: BinaryHeap<Reverse<(Duration, Duration)>>,
    queue: VecDeque<Duration>,
    rng: SmallRng,
}

/// What happened in one run.
#[derive(Debug, Default)]
struct Seen {
    asked: u32,
    refused: u32,
    answered: u32,
    latencies: Vec<Duration>,
    limits: Vec<u32>,
}

impl Seen {
    fn median(&mut self) -> Duration {
        self.latencies.sort_unstable();
        self.latencies[self.latencies.len() / 2]
    }

    fn mean_limit(&self) -> u32 {
        self.limits.iter().sum::<u32>() / self.limits.len() as u32
    }
}

const SERVICE: Duration = Duration::from_millis(10);

impl World {
    fn new(slots: usize) -> Self {
        Self {
            adaptive: Adaptive::new(AdaptiveConcurrency::default()),
            now: Duration::ZERO,
            slots,
            service: SERVICE,
            busy: BinaryHeap::new(),
            queue: VecDeque::new(),
            rng: SmallRng::seed_from_u64(3),
        }
    }

    fn serve(&mut self, begun: Duration) {
        let length = self.service.mul_f64(self.rng.random_range(0.8..1.2));
        self.busy.push(Reverse((self.now + length, begun)));
    }

    fn answer(&mut self, seen: &mut Seen) {
        let Some(Reverse((end, begun))) = self.busy.pop() else {
            return;
        };
        self.now = end;
        self.adaptive.record(begun, end);
        seen.answered += 1;
        seen.latencies.push(end - begun);
        if self.busy.len() < self.slots
            && let Some(next) = self.queue.pop_front()
        {
            self.serve(next);
        }
    }

    fn ask(&mut self, seen: &mut Seen) {
        let under_way = self.busy.len() + self.queue.len();
        seen.asked += 1;
        seen.limits.push(self.adaptive.limit());
        if under_way >= self.adaptive.limit() as usize {
            seen.refused += 1;
        } else if self.busy.len() < self.slots {
            self.serve(self.now);
        } else {
            self.queue.push_back(self.now);
        }
    }

    /// So many seconds of so many requests in each.
    fn run(&mut self, seconds: u64, rate: u32) -> Seen {
        let mut seen = Seen::default();
        let (mut next, end) = (self.now, self.now + Duration::from_secs(seconds));
        while next < end {
            while let Some(Reverse((done, _))) = self.busy.peek()
                && *done <= next
            {
                self.answer(&mut seen);
            }
            self.now = next;
            self.ask(&mut seen);
            next += Duration::from_secs(1) / rate;
        }
        seen
    }
}

#[test]
fn twice_of_what_a_server_takes_is_refused_before_it_queues() {
    let mut world = World::new(10);
    world.run(10, 2000);
    let mut seen = world.run(20, 2000);
    assert!(
        (10..=25).contains(&seen.mean_limit()),
        "{}",
        seen.mean_limit()
    );
    assert!(seen.answered > 18_000, "{} of 20,000", seen.answered);
    assert!(seen.median() < SERVICE * 5 / 2, "{:?}", seen.median());
}

#[test]
fn the_limit_follows_a_capacity_that_grows_and_shrinks() {
    let mut world = World::new(10);
    let mut limits = Vec::new();
    for slots in [10, 40, 10] {
        world.slots = slots;
        world.run(15, 400 * slots as u32);
        let mut seen = world.run(15, 400 * slots as u32);
        limits.push(seen.mean_limit());
        let all = 15 * 100 * slots as u32;
        assert!(seen.answered > all * 9 / 10, "{} of {all}", seen.answered);
        assert!(seen.median() < SERVICE * 5 / 2, "{:?}", seen.median());
    }
    let within = |limit: u32, slots: u32| limit >= slots && limit <= slots * 5 / 2;
    let all = within(limits[0], 10) && within(limits[1], 40) && within(limits[2], 10);
    assert!(all, "{limits:?} for 10, 40, 10 slots");
}

/// The limit lies low until the minimum is measured anew: after a minute or, where it reaches its least, after five windows.
#[test]
fn a_server_that_became_slower_for_good_is_measured_anew_and_fully_used() {
    for (min_concurrency, seconds) in [(3, 70), (5, 3)] {
        let mut world = World::new(10);
        world.adaptive = Adaptive::new(AdaptiveConcurrency {
            min_concurrency,
            ..AdaptiveConcurrency::default()
        });
        world.run(10, 2000);
        world.service = SERVICE * 5;
        world.run(seconds, 400);
        let seen = world.run(30, 400);
        let min_rtt = world.adaptive.min_rtt().expect("it was measured");
        assert!(min_rtt > SERVICE * 4, "{min_rtt:?}");
        assert!(seen.mean_limit() >= 10, "{}", seen.mean_limit());
        let all = 30 * 200;
        assert!(seen.answered > all * 9 / 10, "{} of {all}", seen.answered);
    }
}

#[test]
fn it_recovers_when_a_slow_server_is_fast_again() {
    let mut world = World::new(10);
    world.run(10, 2000);
    world.service = SERVICE * 20;
    world.run(20, 2000);
    world.service = SERVICE;
    world.run(90, 2000);
    let mut seen = world.run(20, 2000);
    assert!(seen.answered > 18_000, "{} of 20,000", seen.answered);
    assert!(seen.median() < SERVICE * 5 / 2, "{:?}", seen.median());
}

#[test]
fn what_a_server_takes_easily_is_never_refused() {
    let mut world = World::new(10);
    let seen = world.run(100, 100);
    assert_eq!((seen.asked, seen.refused), (10_000, 0));
}

#[test]
fn the_limit_stays_within_its_bounds() {
    let settings = AdaptiveConcurrency {
        min_concurrency: 5,
        max_concurrency: 8,
        ..AdaptiveConcurrency::default()
    };
    let mut world = World::new(100);
    world.adaptive = Adaptive::new(settings);
    let seen = world.run(10, 2000);
    let limits = (seen.limits.iter().min(), seen.limits.iter().max());
    assert_eq!(limits, (Some(&5), Some(&8)));
}

#[test]
fn a_measurement_takes_only_requests_that_began_within_it() {
    let settings = AdaptiveConcurrency {
        min_rtt_requests: 1,
        min_rtt_interval: Duration::from_secs(1),
        ..AdaptiveConcurrency::default()
    };
    let adaptive = Adaptive::new(settings);
    let at = Duration::from_millis;
    adaptive.record(at(0), at(10));
    let first = adaptive.min_rtt().expect("one sample is enough");
    // Past the interval: the window turns, and the next sample that counts is the minimum.
    adaptive.record(at(2000), at(2010));
    assert_eq!(adaptive.limit(), 3);
    adaptive.record(at(1000), at(2500));
    assert_eq!(adaptive.min_rtt(), Some(first));
    adaptive.record(at(2500), at(2540));
    assert!(
        adaptive
            .min_rtt()
            .is_some_and(|rtt| rtt > at(35) && rtt < at(45))
    );
}

#[test]
fn a_bucket_is_no_wider_than_a_sixteenth() {
    for us in (0..100_000).chain([1 << 20, 60_000_000]) {
        let middle = middle(bucket(us));
        assert!(middle.abs_diff(us) * 16 <= us, "{us} is found at {middle}");
    }
    assert_eq!(bucket(u64::MAX), BUCKETS - 1);
}
