//! When a certificate is replaced, as functions of time alone.

use std::time::{Duration, SystemTime};

use outrigger_xds::tls::CLOCK_SKEW;

/// Not more often, whatever the lifetime.
const SHORTEST: Duration = Duration::from_millis(250);
/// The first pause after a failure; each further one is twice as long.
const FIRST_BACK_OFF: Duration = Duration::from_millis(250);
/// The longest one without a certificate: nothing works until there is one.
const LONGEST_WITHOUT: Duration = Duration::from_secs(5);
/// Between these is the longest one with a certificate, a tenth of its time.
const LONGEST_WITH: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// The wall clock may be set: nobody sleeps longer without looking at it again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// When a certificate that came at `received` is replaced: at two thirds of what was left of it then, times `jitter` (0.9 to 1.1).
/// When it began does not count: a CA may date it back.
pub(super) fn renewal(received: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    let lifetime = not_after.duration_since(received).unwrap_or_default();
    received + (lifetime.mul_f64(jitter) * 2 / 3).max(SHORTEST)
}

/// How long to sleep for now on the way to `due`; `None` when it is time.
pub(super) fn sleep(now: SystemTime, due: SystemTime) -> Option<Duration> {
    let left = due.duration_since(now).ok().filter(|left| !left.is_zero());
    left.map(|left| left.min(LOOK_AGAIN))
}

/// How long to wait after so many failures in a row, at least one, with a certificate of this lifetime or without any; `jitter` is
/// a share from 0.5 to 1.
pub(super) fn back_off(failures: u32, lifetime: Option<Duration>, jitter: f64) -> Duration {
    let [least, most] = LONGEST_WITH;
    let longest = lifetime.map_or(LONGEST_WITHOUT, |lifetime| {
        (lifetime / 10).clamp(least, most)
    });
    let doubled = FIRST_BACK_OFF * 2u32.pow(failures.saturating_sub(1).min(16));
    doubled.min(longest).mul_f64(jitter)
}

/// Whether a certificate that was just made is good by this clock, or nearly so.
pub(super) fn clocks(
    not_before: SystemTime,
    not_after: SystemTime,
    now: SystemTime,
) -> Result<(), String> {
    let late = not_before.duration_since(now).unwrap_or_default();
    let early = now.duration_since(not_after).unwrap_or_default();
    let (apart, words) = match late > early {
        true => (late, "begins later than now"),
        false => (early, "is over already"),
    };
    if apart <= CLOCK_SKEW {
        return Ok(());
    }
    let seconds = apart.as_secs();
    Err(format!(
        "the clocks differ by at least {seconds} s: a certificate that the control server has just made {words} by the clock here"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + HOUR * 480_000
    }

    #[test]
    fn renewal_is_at_two_thirds_of_what_was_left_give_or_take_a_tenth() {
        let at = |lifetime, jitter| {
            let renewal = renewal(start(), start() + lifetime, jitter);
            renewal.duration_since(start()).unwrap()
        };
        assert_eq!(at(24 * HOUR, 1.0), 16 * HOUR);
        assert!(at(24 * HOUR, 0.9) > 14 * HOUR && at(24 * HOUR, 1.1) < 18 * HOUR);
        let short = Duration::from_secs(4);
        assert!(at(short, 1.1) < Duration::from_secs(3));
        assert_eq!(at(Duration::ZERO, 1.0), SHORTEST);
        assert!(renewal(start(), start() - HOUR, 1.0) > start());
    }

    #[test]
    fn nobody_sleeps_past_a_clock_that_is_set() {
        assert_eq!(sleep(start(), start() + 16 * HOUR), Some(LOOK_AGAIN));
        let soon = Duration::from_secs(2);
        assert_eq!(sleep(start(), start() + soon), Some(soon));
        assert_eq!(sleep(start(), start()), None);
        assert_eq!(sleep(start() + HOUR, start()), None);
    }

    #[test]
    fn failures_wait_twice_as_long_each_time_up_to_what_the_certificate_allows() {
        let after = |failures, lifetime| back_off(failures, lifetime, 1.0);
        assert_eq!(after(1, None), FIRST_BACK_OFF);
        assert_eq!(after(3, None), FIRST_BACK_OFF * 4);
        assert_eq!(after(u32::MAX, None), LONGEST_WITHOUT);
        let [least, most] = LONGEST_WITH;
        assert_eq!(after(99, Some(Duration::from_secs(4))), least);
        assert_eq!(after(99, Some(HOUR / 12)), HOUR / 120);
        assert_eq!(after(99, Some(24 * HOUR)), most);
        assert_eq!(back_off(99, Some(24 * HOUR), 0.5), most / 2);
    }

    #[test]
    fn clocks_that_differ_by_more_than_five_minutes_are_reported() {
        let at = |before: u64, after: u64| {
            let now = start() + HOUR;
            let offset = |seconds: u64| start() + Duration::from_secs(seconds);
            clocks(offset(before), offset(after), now)
        };
        assert_eq!(at(3590, 7200), Ok(()));
        assert_eq!(at(3600 + 300, 7200), Ok(()));
        assert_eq!(at(0, 3300), Ok(()));
        assert!(
            at(3600 + 420, 7200)
                .unwrap_err()
                .contains("differ by at least 420 s")
        );
        assert!(
            at(0, 3200)
                .unwrap_err()
                .contains("400 s: a certificate that the control server has just made is over")
        );
    }
}
