//! Medians, quantiles, and the bootstrap interval that decides what a ratio means.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::results::Reading;

/// Fewer pairs than this decide nothing.
pub(super) const ENOUGH_PAIRS: usize = 15;

const RESAMPLES: usize = 10_000;
/// The same data always give the same interval.
const SEED: u64 = 0x0a7c_1193;

/// The middle value, the mean of both middle ones where there are two; NaN of none.
pub(super) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value at `q` (0 to 1), between two neighbours in proportion; NaN of none.
pub(super) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (place.floor(), place.ceil());
    let (low, high) = (sorted[below as usize], sorted[above as usize]);
    low + (high - low) * (place - below)
}

/// The 95 % percentile bootstrap interval of the median.
pub(super) fn bootstrap(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mut random = StdRng::seed_from_u64(SEED);
    let mut sample = vec![0.0; values.len()];
    let medians: Vec<_> = (0..RESAMPLES)
        .map(|_| {
            for place in &mut sample {
                *place = values[random.random_range(0..values.len())];
            }
            median(&sample)
        })
        .collect();
    (quantile(&medians, 0.025), quantile(&medians, 0.975))
}

/// What an interval says of a target.
pub(super) fn read(low: f64, high: f64, pairs: usize, target: f64) -> Reading {
    if pairs < ENOUGH_PAIRS {
        Reading::Tied
    } else if high < target {
        Reading::Better
    } else if low > target {
        Reading::Missed
    } else {
        Reading::Tied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[test]
    fn a_quantile_lies_between_its_neighbours() {
        let values = [10.0, 0.0, 5.0];
        assert_eq!(quantile(&values, 0.0), 0.0);
        assert_eq!(quantile(&values, 0.25), 2.5);
        assert_eq!(quantile(&values, 1.0), 10.0);
    }

    /// Draws near 1 ± 0.1.
    fn draws(seed: u64, count: usize) -> Vec<f64> {
        let mut random = StdRng::seed_from_u64(seed);
        (0..count)
            .map(|_| 0.9 + 0.2 * random.random::<f64>())
            .collect()
    }

    #[test]
    fn the_interval_holds_the_true_median_about_nineteen_times_in_twenty() {
        let held = (0..100)
            .filter(|seed| {
                let (low, high) = bootstrap(&draws(*seed, 15));
                low <= 1.0 && 1.0 <= high
            })
            .count();
        assert!((88..=100).contains(&held), "{held}");
    }

    #[test]
    fn the_interval_narrows_with_more_pairs_and_is_the_same_every_time() {
        let width = |count| {
            let (low, high) = bootstrap(&draws(1, count));
            assert_eq!((low, high), bootstrap(&draws(1, count)));
            high - low
        };
        assert!(width(200) < width(15) / 2.0);
        assert_eq!(bootstrap(&[2.0; 20]), (2.0, 2.0));
    }

    #[test]
    fn only_a_whole_interval_of_enough_pairs_decides() {
        assert_eq!(read(0.8, 0.9, 15, 0.95), Reading::Better);
        assert_eq!(read(0.8, 0.96, 15, 0.95), Reading::Tied);
        assert_eq!(read(0.96, 1.1, 15, 0.95), Reading::Missed);
        assert_eq!(read(0.8, 0.9, 14, 0.95), Reading::Tied);
        assert_eq!(read(f64::NAN, f64::NAN, 15, 0.95), Reading::Tied);
    }
}
