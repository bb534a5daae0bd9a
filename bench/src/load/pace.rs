//! When the requests of a constant rate are due, and a wait for it that is exact to some ten microseconds.

use std::io;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// How the requests of a constant rate are spread over time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// At equal distances.
    #[default]
    Uniform,
    /// At random, independent of each other, as many clients make them: distances are exponential.
    Poisson,
}

/// Gives the send times in order, each when it has come.
#[derive(Debug)]
pub(super) struct Pacer {
    start: Instant,
    mean: f64,
    arrivals: Arrivals,
    random: StdRng,
    /// Seconds after `start` at which the next request is due.
    next: f64,
    sent: u64,
    /// tokio's own timers tick in milliseconds.
    timer: Option<Receiver>,
}

impl Pacer {
    /// Must be called on a runtime with I/O.
    pub(super) fn new(start: Instant, rate: u32, arrivals: Arrivals, seed: u64) -> Self {
        let timer = timer()
            .inspect_err(|error| tracing::warn!(%error, "no timerfd: send times are exact to 1 ms"))
            .ok();
        Self {
            start,
            mean: 1.0 / f64::from(rate.max(1)),
            arrivals,
            random: StdRng::seed_from_u64(seed),
            next: 0.0,
            sent: 0,
            timer,
        }
    }

    /// Waits until the next request is due, and gives that time with how late the caller learns of it if it had to wait;
    /// `None` at once when that would be after `end`. Being dropped while it waits loses nothing.
    pub(super) async fn next(
        &mut self,
        end: Option<Instant>,
    ) -> Option<(Instant, Option<Duration>)> {
        let due = self.start + Duration::from_secs_f64(self.next);
        if end.is_some_and(|end| due >= end) {
            return None;
        }
        let mut late = None;
        if due > Instant::now() {
            self.wait_until(due).await;
            late = Some(due.elapsed());
        }
        self.sent += 1;
        self.next = match self.arrivals {
            Arrivals::Uniform => self.sent as f64 * self.mean,
            Arrivals::Poisson => {
                // 1 - [0, 1) is never zero, whose logarithm is infinite.
                self.next - (1.0 - self.random.random::<f64>()).ln() * self.mean
            }
        };
        Some((due, late))
    }

    async fn wait_until(&mut self, due: Instant) {
        while let Some(left) = due
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            let waited = match &mut self.timer {
                Some(timer) => wait(timer, left).await,
                None => Err(io::ErrorKind::Unsupported.into()),
            };
            if waited.is_err() {
                tokio::time::sleep(left).await;
            }
        }
    }
}

/// tokio reads a timer's descriptor as it reads a pipe's: when it has become readable.
fn timer() -> io::Result<Receiver> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    Receiver::from_owned_fd_unchecked(timer)
}

async fn wait(timer: &mut Receiver, left: Duration) -> io::Result<()> {
    let once = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: left.try_into().map_err(io::Error::other)?,
    };
    // Setting it also clears an expiry that a dropped wait has left behind.
    timerfd_settime(&*timer, TimerfdTimerFlags::empty(), &once)?;
    // Eight bytes come; with room for more tokio knows that it has read all, and does not try again.
    timer.read(&mut [0; 16]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn times(arrivals: Arrivals, seed: u64, count: usize) -> Vec<Duration> {
        // A start long ago: all of them are due, none is waited for.
        let start = Instant::now() - Duration::from_secs(100);
        let mut pacer = Pacer::new(start, 1000, arrivals, seed);
        let mut times = Vec::new();
        for _ in 0..count {
            let (due, late) = pacer.next(None).await.unwrap();
            assert_eq!(late, None);
            times.push(due - start);
        }
        times
    }

    #[tokio::test]
    async fn uniform_arrivals_lie_at_equal_distances() {
        let times = times(Arrivals::Uniform, 1, 5).await;
        assert_eq!(times[0], Duration::ZERO);
        assert_eq!(times[4], Duration::from_millis(4));
    }

    #[tokio::test]
    async fn poisson_arrivals_keep_the_mean_and_repeat_with_their_seed() {
        let one = times(Arrivals::Poisson, 7, 20_000).await;
        assert_eq!(one, times(Arrivals::Poisson, 7, 20_000).await);
        assert_ne!(one, times(Arrivals::Poisson, 8, 20_000).await);
        let mean = one[19_999].as_secs_f64() / 19_999.0;
        assert!((mean - 0.001).abs() < 0.00005, "{mean}");
    }

    #[tokio::test]
    async fn a_request_that_is_not_yet_due_is_waited_for() {
        let start = Instant::now() + Duration::from_millis(20);
        let mut pacer = Pacer::new(start, 10, Arrivals::Uniform, 0);
        let (due, late) = pacer.next(None).await.unwrap();
        assert_eq!(due, start);
        assert!(late.is_some() && Instant::now() >= start);
        // The second is due after the end: no wait.
        assert_eq!(pacer.next(Some(start)).await, None);
    }
}
