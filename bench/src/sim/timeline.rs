//! What happens to tasks in a scenario: the file's events, unfolded into steps that a model and real processes both can take.

use std::time::Duration;

use outrigger_proxy::config::ConfigError;
use serde::Deserialize;

use super::read::Section;
use super::scenario::TaskSpec;

/// Steps that flapping may unfold into.
const MAX_STEPS: usize = 10_000;

/// One step of a scenario.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// After the beginning.
    pub at: Duration,
    /// To whom and what.
    pub what: What,
}

/// What can happen. Tasks are counted from 0; after a deployment the same number is the new task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What {
    /// SIGKILL: what is under way breaks, connections are refused from then on.
    Die(usize, Dying),
    /// SIGSTOP: connections are accepted by the kernel, and nothing is ever said.
    Stop(usize),
    /// Everything is well again: a dead task is started, a stopped one goes on.
    Recover(usize),
    /// Work begun from now on takes so many times as long.
    SlowDown(usize, f64),
    /// This share of requests is answered 503, after having been acted upon or at once.
    Answer503(usize, f64, bool),
    /// Every task is replaced, one after the other.
    Deploy(Deployment),
}

/// How far death goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dying {
    /// Application and sidecar, as when a machine dies.
    #[default]
    Task,
    /// The application alone; the proxy before it goes on.
    Application,
}

/// A rolling deployment's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deployment {
    /// From a task's start until its application takes requests.
    pub startup: Duration,
    /// From a change in the registry until callers act upon it.
    pub propagation: Duration,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Do {
    Die,
    Stop,
    Recover,
    SlowDown,
    Flap,
    #[serde(rename = "answer_503")]
    Answer503,
    Deploy,
    LoseZone,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Lost {
    Mute,
    Refuse,
}

/// Unfolds the events, in the order of time.
pub(super) fn read(
    events: Vec<Section>,
    tasks: &[TaskSpec],
    duration: Duration,
    errors: &mut Vec<ConfigError>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for mut section in events {
        let at = section.duration("at", errors).unwrap_or_default();
        if at > duration {
            let shown = humantime::format_duration(at);
            section.wrong("at", shown, "is after the scenario's end", errors);
        }
        let targets = targets(&mut section, tasks, errors);
        if let Some(what) = section.required("do", errors) {
            unfold(what, at, &targets, &mut section, &mut steps, errors);
        }
        if steps.len() > MAX_STEPS {
            section.wrong("period", "", "unfolds into more than 10,000 steps", errors);
            steps.clear();
        }
        section.finish(errors);
    }
    steps.sort_by_key(|step| step.at);
    steps
}

/// The tasks by number or by zone, counted from 0; all of them when neither is said.
fn targets(section: &mut Section, tasks: &[TaskSpec], errors: &mut Vec<ConfigError>) -> Vec<usize> {
    let numbers: Option<Vec<usize>> = section.take("tasks", errors);
    let zone: Option<String> = section.take("zone", errors);
    match (numbers, zone) {
        (Some(_), Some(zone)) => {
            section.wrong("zone", zone, "does not go together with tasks", errors);
            Vec::new()
        }
        (Some(numbers), None) => {
            for number in &numbers {
                if !(1..=tasks.len()).contains(number) {
                    section.wrong(
                        "tasks",
                        number,
                        "is the number of no task (1 is the first)",
                        errors,
                    );
                }
            }
            numbers
                .into_iter()
                .map(|number| number.saturating_sub(1))
                .collect()
        }
        (None, Some(zone)) => {
            let all: Vec<_> = (0..tasks.len())
                .filter(|task| tasks[*task].zone == zone)
                .collect();
            if all.is_empty() {
                section.wrong("zone", zone, "is the zone of no task", errors);
            }
            all
        }
        (None, None) => (0..tasks.len()).collect(),
    }
}

fn unfold(
    what: Do,
    at: Duration,
    targets: &[usize],
    section: &mut Section,
    steps: &mut Vec<Step>,
    errors: &mut Vec<ConfigError>,
) {
    let mut each = |step: &dyn Fn(usize) -> What| {
        steps.extend(targets.iter().map(|task| Step {
            at,
            what: step(*task),
        }));
    };
    match what {
        Do::Die => {
            let of = section.take("of", errors).unwrap_or_default();
            each(&|task| What::Die(task, of));
        }
        Do::Stop => each(&What::Stop),
        Do::Recover => each(&What::Recover),
        Do::SlowDown => {
            let factor = section.required("factor", errors).unwrap_or(1.0);
            if !(0.0..=1e6).contains(&factor) {
                section.wrong("factor", factor, "must be 0 to 1,000,000", errors);
            }
            each(&|task| What::SlowDown(task, factor));
        }
        Do::Answer503 => {
            let share = section.take("share", errors).unwrap_or(1.0);
            let acted = section.take("acted", errors).unwrap_or(false);
            if !(0.0..=1.0).contains(&share) {
                section.wrong("share", share, "must be 0 to 1", errors);
            }
            each(&|task| What::Answer503(task, share, acted));
        }
        Do::LoseZone => match section.take("how", errors).unwrap_or(Lost::Mute) {
            Lost::Mute => each(&What::Stop),
            Lost::Refuse => each(&|task| What::Die(task, Dying::Task)),
        },
        Do::Flap => flap(at, targets, section, steps, errors),
        Do::Deploy => {
            let mut time = |field, default| section.duration(field, errors).unwrap_or(default);
            let deployment = Deployment {
                startup: time("startup", Duration::from_secs(2)),
                propagation: time("propagation", Duration::from_millis(200)),
            };
            steps.push(Step {
                at,
                what: What::Deploy(deployment),
            });
        }
    }
}

/// Dies for the first half of each period and is well for the second.
fn flap(
    at: Duration,
    targets: &[usize],
    section: &mut Section,
    steps: &mut Vec<Step>,
    errors: &mut Vec<ConfigError>,
) {
    let period = section
        .duration("period", errors)
        .unwrap_or(Duration::from_secs(2));
    let lasting = section
        .duration("lasting", errors)
        .unwrap_or(Duration::from_secs(10));
    if period < Duration::from_millis(1) {
        let shown = humantime::format_duration(period);
        return section.wrong("period", shown, "must be at least 1ms", errors);
    }
    let end = at + lasting;
    let mut from = at;
    while from < end && steps.len() <= MAX_STEPS {
        for task in targets {
            let what = What::Die(*task, Dying::Task);
            steps.push(Step { at: from, what });
            let at = (from + period / 2).min(end);
            steps.push(Step {
                at,
                what: What::Recover(*task),
            });
        }
        from += period;
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::Scenario;
    use super::*;

    fn steps(events: &str) -> Result<Vec<Step>, String> {
        let tasks = "[[tasks]]\nservice_time = \"1ms\"\nzone = \"a\"\n[[tasks]]\nservice_time = \"1ms\"\nzone = \"b\"\ncount = 2\n";
        let scenario = Scenario::parse(&format!("rate = 1\n{tasks}{events}"));
        scenario
            .map(|scenario| scenario.steps)
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_flapping_task_dies_and_recovers_until_its_time_is_over() {
        let flap = "[[event]]\nat = \"1s\"\ndo = \"flap\"\ntasks = [2]\nperiod = \"2s\"\nlasting = \"3s\"\n";
        let told: Vec<_> = steps(flap)
            .unwrap()
            .iter()
            .map(|step| (step.at.as_secs(), step.what))
            .collect();
        let die = What::Die(1, Dying::Task);
        let back = What::Recover(1);
        assert_eq!(told, [(1, die), (2, back), (3, die), (4, back)]);
    }

    #[test]
    fn a_lost_zone_is_each_of_its_tasks() {
        let lost = "[[event]]\nat = \"1s\"\ndo = \"lose_zone\"\nzone = \"b\"\n";
        let told: Vec<_> = steps(lost).unwrap().iter().map(|step| step.what).collect();
        assert_eq!(told, [What::Stop(1), What::Stop(2)]);
        assert!(
            steps(&lost.replace("\"b\"", "\"c\""))
                .unwrap_err()
                .contains("zone of no task")
        );
    }

    #[test]
    fn endless_flapping_is_refused() {
        let flap = "[[event]]\nat = \"1s\"\ndo = \"flap\"\ntasks = [2]\nperiod = \"1ms\"\nlasting = \"1000h\"\n";
        assert!(steps(flap).unwrap_err().contains("10,000 steps"));
    }
}
