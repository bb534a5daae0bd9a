//! How long a task works on a request: a distribution with a written form that a scenario and a real application both read.

use std::f64::consts::TAU;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::Rng;
use serde::Deserialize;

/// A standard normal variable is below it in 99 of 100 cases.
const NORMAL_P99: f64 = 2.326_347_9;
/// No single request takes longer, however long a distribution's tail is.
const LONGEST: Duration = Duration::from_secs(3600);

/// A distribution of service times, written `20ms`, `exponential 20ms` (the mean) or `log_normal 10ms 80ms` (median and p99).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ServiceTime {
    /// Always the same.
    Constant(Duration),
    /// With this mean.
    Exponential(Duration),
    /// With this median and this 99th percentile.
    LogNormal(Duration, Duration),
}

impl ServiceTime {
    /// One request's.
    pub fn sample(self, rng: &mut impl Rng) -> Duration {
        match self {
            Self::Constant(time) => time,
            Self::Exponential(mean) => times(mean, exponential(rng)),
            Self::LogNormal(median, p99) => {
                let sigma = (p99.as_secs_f64() / median.as_secs_f64()).ln() / NORMAL_P99;
                times(median, (sigma * normal(rng)).exp())
            }
        }
    }
}

/// Scales a time, within what one request may take.
pub(super) fn times(time: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(time.as_secs_f64() * factor)
        .map_or(LONGEST, |time| time.min(LONGEST))
}

/// With mean 1.
pub(super) fn exponential(rng: &mut impl Rng) -> f64 {
    // 1 - [0, 1) is never zero, whose logarithm is infinite.
    -(1.0 - rng.random::<f64>()).ln()
}

/// Standard normal (Box and Muller 1958).
fn normal(rng: &mut impl Rng) -> f64 {
    (2.0 * exponential(rng)).sqrt() * (TAU * rng.random::<f64>()).cos()
}

impl FromStr for ServiceTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<_> = text.split_whitespace().collect();
        let read = |word: &str| {
            let time = humantime::parse_duration(word);
            time.map_err(|error| format!("{word:?} is no duration: {error}"))
        };
        match words[..] {
            ["exponential", mean] => Ok(Self::Exponential(read(mean)?)),
            ["log_normal", median, p99] => match (read(median)?, read(p99)?) {
                (median, p99) if median.is_zero() || p99 < median => {
                    Err("the median must be longer than 0 and no longer than the p99".into())
                }
                (median, p99) => Ok(Self::LogNormal(median, p99)),
            },
            [time] => Ok(Self::Constant(read(time)?)),
            _ => Err("must be like \"20ms\", \"exponential 20ms\" (the mean) or \"log_normal 10ms 80ms\" (median, p99)".into()),
        }
    }
}

impl TryFrom<String> for ServiceTime {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for ServiceTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = humantime::format_duration;
        match self {
            Self::Constant(time) => write!(f, "{}", joined(text(*time))),
            Self::Exponential(mean) => write!(f, "exponential {}", joined(text(*mean))),
            Self::LogNormal(median, p99) => {
                write!(
                    f,
                    "log_normal {} {}",
                    joined(text(*median)),
                    joined(text(*p99))
                )
            }
        }
    }
}

/// `1s 500ms` as one word.
fn joined(duration: humantime::FormattedDuration) -> String {
    duration.to_string().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn sorted(text: &str) -> Vec<f64> {
        let time: ServiceTime = text.parse().unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let mut all: Vec<_> = (0..50_000)
            .map(|_| time.sample(&mut rng).as_secs_f64() * 1000.0)
            .collect();
        all.sort_by(f64::total_cmp);
        all
    }

    #[test]
    fn distributions_have_the_mean_median_and_p99_they_were_given() {
        let exponential = sorted("exponential 20ms");
        let mean = exponential.iter().sum::<f64>() / exponential.len() as f64;
        assert!((mean - 20.0).abs() < 0.5, "{mean}");
        let normal = sorted("log_normal 10ms 80ms");
        assert!((normal[25_000] - 10.0).abs() < 0.3, "{}", normal[25_000]);
        assert!((normal[49_500] - 80.0).abs() < 6.0, "{}", normal[49_500]);
        assert_eq!(sorted("7ms")[0], 7.0);
    }

    #[test]
    fn what_is_printed_is_read_again_and_nonsense_is_not() {
        for text in ["1s500ms", "exponential 20ms", "log_normal 10ms 1m"] {
            assert_eq!(text.parse::<ServiceTime>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "20",
            "exponential",
            "log_normal 80ms 10ms",
            "log_normal 0s 1s",
            "gamma 1s",
        ] {
            assert!(text.parse::<ServiceTime>().is_err(), "{text}");
        }
    }
}
