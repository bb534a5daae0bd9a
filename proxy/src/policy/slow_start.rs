//! How much of its weight an endpoint carries that has just become healthy (Envoy's slow start, aggression 1, minimum 10 %).

use std::time::Duration;

/// What it begins with, in percent (Envoy's `min_weight_percent`).
const LEAST: u32 = 10;
/// Times its part grows within the window.
const STEPS: u32 = 20;

/// The part of its weight, in percent, that an endpoint carries after `age` of the window. 100 is all of it.
pub(crate) fn percent(window: Duration, age: Duration) -> u32 {
    if age >= window {
        return 100;
    }
    let grown = age.as_secs_f64() / window.as_secs_f64() * 100.0;
    (grown as u32).max(LEAST)
}

/// Until its part grows again.
pub(crate) fn step(window: Duration) -> Duration {
    (window / STEPS).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_at_first_then_in_a_line_to_all() {
        let window = Duration::from_secs(60);
        let parts = [0, 3, 6, 15, 30, 59, 60, 600];
        let parts = parts.map(|age| percent(window, Duration::from_secs(age)));
        assert_eq!(parts, [10, 10, 10, 25, 50, 98, 100, 100]);
        assert_eq!(percent(Duration::ZERO, Duration::ZERO), 100);
    }
}
