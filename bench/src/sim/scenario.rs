//! A scenario: tasks, their callers' settings and what happens to them, read from TOML and checked once.

use std::path::Path;
use std::time::Duration;

use outrigger_proxy::config::{ConfigError, ConfigErrors};
use outrigger_xds::model::{self, DEFAULT_PER_REQUEST_TIMEOUT, Protocol, ServicePolicy};
use serde::Deserialize;
use toml::Table;

use super::read::Section;
use super::service_time::ServiceTime;
use super::timeline;
pub use super::timeline::{Dying, Step, What};

/// Requests of one run; more would take minutes and tell no more.
const MAX_REQUESTS: f64 = 50_000_000.0;
const MAX_TASKS: usize = 1000;
/// A real run is a test, not a soak.
const MAX_REAL: Duration = Duration::from_secs(30);

/// When requests are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Independent of each other, as many clients make them.
    #[default]
    Poisson,
    /// At equal distances.
    Uniform,
}

/// What a scenario file says, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// The seed of everything random.
    pub seed: u64,
    /// How long requests are sent.
    pub duration: Duration,
    /// The same with real processes; the timeline shrinks with it.
    pub real_duration: Duration,
    /// Requests per second.
    pub rate: u32,
    /// When they are due.
    pub arrivals: Arrivals,
    /// Share of requests that must not be executed twice, 0 to 1.
    pub non_idempotent: f64,
    /// One way between two tasks of a zone.
    pub network: Duration,
    /// One way between two zones.
    pub cross_zone: Duration,
    /// What the callers' sidecar was told.
    pub client: Client,
    /// Every task; number 1 is the first.
    pub tasks: Vec<TaskSpec>,
    /// What happens, in the order of time.
    pub steps: Vec<Step>,
}

/// One task's nature.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// Availability zone.
    pub zone: String,
    /// How long it works on a request.
    pub service_time: ServiceTime,
    /// Requests it works on at once.
    pub concurrency: usize,
    /// Requests that wait for that; it answers 503 to more.
    pub queue: usize,
}

/// What the callers' sidecar was told.
#[derive(Debug, Clone, PartialEq)]
pub struct Client {
    /// Availability zone of the callers.
    pub zone: String,
    /// `perRequestTimeoutSeconds`; zero is off.
    pub per_request_timeout: Duration,
    /// All else, in the words of the static file and of the service-connect document.
    pub policy: ServicePolicy,
}

impl Client {
    /// The resource that a sidecar with these settings runs on.
    pub fn cluster(&self) -> model::Cluster {
        let mut cluster = model::Cluster::new("scenario", Protocol::Http);
        self.policy.apply(&mut cluster);
        cluster
    }
}

impl Scenario {
    /// Reads and checks a file; reports all errors at once.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| {
            let shown = path.display().to_string();
            ConfigErrors(vec![ConfigError::new("scenario", shown, error.to_string())])
        })?;
        Self::parse(&text)
    }

    /// Checks the text of a scenario.
    pub fn parse(text: &str) -> Result<Self, ConfigErrors> {
        let table: Table = toml::from_str(text).map_err(|error| {
            let reason = format!("not TOML: {error}");
            ConfigErrors(vec![ConfigError::new("scenario", "", reason)])
        })?;
        let mut errors = Vec::new();
        let scenario = read(Section::new("", table), &mut errors);
        if errors.is_empty() {
            Ok(scenario)
        } else {
            Err(ConfigErrors(errors))
        }
    }

    /// The same events within [`Scenario::real_duration`]; what a sidecar is told stays as it is.
    pub fn scaled(&self) -> Self {
        let factor = self.real_duration.as_secs_f64() / self.duration.as_secs_f64();
        let mut scaled = self.clone();
        scaled.duration = self.real_duration;
        for step in &mut scaled.steps {
            step.at = step.at.mul_f64(factor);
        }
        scaled
    }
}

fn read(mut root: Section, errors: &mut Vec<ConfigError>) -> Scenario {
    let seed = root.take("seed", errors).unwrap_or(1);
    let duration = root
        .duration("duration", errors)
        .unwrap_or(Duration::from_secs(60));
    let real_duration = root
        .duration("real_duration", errors)
        .unwrap_or(duration.min(MAX_REAL));
    let rate = root.required("rate", errors).unwrap_or(1);
    let arrivals = root.take("arrivals", errors).unwrap_or_default();
    let non_idempotent = root.take("non_idempotent", errors).unwrap_or(0.0);
    let network = root
        .duration("network", errors)
        .unwrap_or(Duration::from_micros(250));
    let cross_zone = root.duration("cross_zone", errors).unwrap_or(network);
    let client = client(root.section("client", errors), errors);
    let groups = root.sections("tasks", errors);
    let tasks: Vec<_> = groups
        .into_iter()
        .flat_map(|group| tasks(group, errors))
        .collect();
    let events = root.sections("event", errors);
    let steps = timeline::read(events, &tasks, duration, errors);
    let mut check = |held: bool, field: &str, value: String, reason: &str| {
        if !held {
            root.wrong(field, value, reason, errors);
        }
    };
    let shown = |time: Duration| humantime::format_duration(time).to_string();
    check(
        !duration.is_zero(),
        "duration",
        shown(duration),
        "must be longer than 0",
    );
    check(
        !real_duration.is_zero() && real_duration <= MAX_REAL.min(duration),
        "real_duration",
        shown(real_duration),
        "must be longer than 0, and no longer than 30s and than duration",
    );
    check(
        rate > 0,
        "rate",
        rate.to_string(),
        "must be at least 1 request per second",
    );
    check(
        f64::from(rate) * duration.as_secs_f64() <= MAX_REQUESTS,
        "rate",
        rate.to_string(),
        "makes more than 50 million requests in the scenario's duration",
    );
    check(
        (0.0..=1.0).contains(&non_idempotent),
        "non_idempotent",
        non_idempotent.to_string(),
        "must be a share from 0 to 1",
    );
    check(
        (1..=MAX_TASKS).contains(&tasks.len()),
        "tasks",
        tasks.len().to_string(),
        "there must be 1 to 1000 tasks",
    );
    check(
        network.max(cross_zone) <= MAX_REAL,
        "network",
        shown(network),
        "must be at most 30s",
    );
    root.finish(errors);
    Scenario {
        seed,
        duration,
        real_duration,
        rate,
        arrivals,
        non_idempotent,
        network,
        cross_zone,
        client,
        tasks,
        steps,
    }
}

fn tasks(mut group: Section, errors: &mut Vec<ConfigError>) -> Vec<TaskSpec> {
    let count = group.take("count", errors).unwrap_or(1);
    let zone = group.take("zone", errors).unwrap_or_default();
    let service_time = group.required("service_time", errors);
    let concurrency = group.take("concurrency", errors).unwrap_or(16);
    let queue = group.take("queue", errors).unwrap_or(64);
    if !(1..=MAX_TASKS).contains(&count) {
        group.wrong("count", count, "must be 1 to 1000", errors);
    }
    if concurrency == 0 {
        group.wrong("concurrency", concurrency, "must be at least 1", errors);
    }
    group.finish(errors);
    let spec = TaskSpec {
        zone,
        service_time: service_time.unwrap_or(ServiceTime::Constant(Duration::ZERO)),
        concurrency,
        queue,
    };
    vec![spec; count.min(MAX_TASKS)]
}

fn client(mut section: Section, errors: &mut Vec<ConfigError>) -> Client {
    let zone = section.take("zone", errors).unwrap_or_default();
    let timeout = section.duration("per_request_timeout", errors);
    let policy = ServicePolicy::from_json(section.rest(), Protocol::Http).unwrap_or_else(|wrong| {
        for error in wrong {
            section.wrong(&error.field, error.value, error.reason, errors);
        }
        ServicePolicy::default()
    });
    if let Some(after) = policy.retry.hedge_after {
        let after = humantime::format_duration(after);
        section.wrong(
            "retry.hedge_after",
            after,
            "the simulator does not hedge",
            errors,
        );
    }
    if policy.health_check.is_some() {
        section.wrong(
            "health_check",
            "set",
            "the simulator does not probe",
            errors,
        );
    }
    Client {
        zone,
        per_request_timeout: timeout.unwrap_or(DEFAULT_PER_REQUEST_TIMEOUT),
        policy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "rate = 10\n[[tasks]]\nservice_time = \"1ms\"\n";

    #[test]
    fn the_smallest_scenario_has_service_connects_defaults() {
        let scenario = Scenario::parse(SMALLEST).unwrap();
        assert_eq!(scenario.client.policy, ServicePolicy::default());
        assert_eq!(scenario.client.per_request_timeout, Duration::from_secs(15));
        assert_eq!(scenario.tasks.len(), 1);
    }

    #[test]
    fn every_error_is_told_with_its_field_value_and_reason() {
        let text = "rate = 10\nspeed = 1\nnon_idempotent = 2.0\nduration = \"soon\"\n\
            [[tasks]]\nconcurrency = 0\nservice_time = \"fast\"\n\
            [client]\nlb = \"best\"\nretry = { num_retries = -1, back_off_base = \"x\", hedge = true }\n\
            outlier_detection = { consecutive_5xx = \"five\" }\n\
            [[event]]\nat = \"1s\"\ndo = \"explode\"\n\
            [[event]]\nat = \"2h\"\ndo = \"slow_down\"\ntasks = [7]\nshare = 0.5\n";
        let errors = Scenario::parse(text).unwrap_err().0;
        let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        for field in [
            "speed",
            "non_idempotent",
            "duration",
            "tasks[0].concurrency",
            "tasks[0].service_time",
            "client.lb",
            "client.retry.num_retries",
            "client.retry.back_off_base",
            "client.retry.hedge",
            "client.outlier_detection.consecutive_5xx",
            "event[0].do",
            "event[1].at",
            "event[1].tasks",
            "event[1].factor",
            "event[1].share",
        ] {
            assert!(fields.contains(&field), "{field} in {errors:#?}");
        }
        assert!(errors.iter().all(|error| !error.reason.is_empty()));
    }

    #[test]
    fn bounds_that_keep_a_run_short_are_checked() {
        for (line, field) in [
            ("duration = \"100000h\"", "rate"),
            ("real_duration = \"31s\"", "real_duration"),
            ("client.retry.num_retries = 11", "client.retry.num_retries"),
        ] {
            let text = format!("{line}\n{SMALLEST}");
            let errors = Scenario::parse(&text).unwrap_err().0;
            assert!(
                errors.iter().any(|error| error.field == field),
                "{line}: {errors:?}"
            );
        }
    }

    #[test]
    fn a_scaled_scenario_keeps_the_order_and_shrinks_the_times() {
        let events = "[[event]]\nat = \"20s\"\ndo = \"die\"\ntasks = [1]\n";
        let text = format!("duration = \"40s\"\nreal_duration = \"4s\"\n{SMALLEST}{events}");
        let scaled = Scenario::parse(&text).unwrap().scaled();
        assert_eq!(scaled.duration, Duration::from_secs(4));
        assert_eq!(scaled.steps[0].at, Duration::from_secs(2));
    }
}
