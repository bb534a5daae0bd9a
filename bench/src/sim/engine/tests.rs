//! The simulation in virtual time: what is counted, what is lost and why, and that every run ends.

use super::super::client::Ours;
use super::super::service_connect::ServiceConnect;
use super::*;

fn scenario(text: &str) -> Scenario {
    Scenario::parse(text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn ours(text: &str) -> Figures {
    let scenario = scenario(text);
    run(&scenario, scenario.seed, Ours::new(&scenario.client))
}

fn theirs(text: &str) -> Figures {
    let scenario = scenario(text);
    run(&scenario, scenario.seed, ServiceConnect::default())
}

/// Requests at equal distances of 10 ms for 10 s, to tasks that take exactly 5 ms.
fn steady(tasks: usize, more: &str) -> String {
    format!(
        "rate = 100\narrivals = \"uniform\"\nduration = \"10s\"\nnetwork = \"1ms\"\n{more}\n\
         [[tasks]]\ncount = {tasks}\nservice_time = \"5ms\"\n"
    )
}

fn event(at: &str, rest: &str) -> String {
    format!("[[event]]\nat = \"{at}\"\n{rest}\n")
}

fn lost(figures: &Figures) -> Vec<(&str, u64)> {
    let each = figures.why_lost.iter();
    each.map(|(why, count)| (why.as_str(), *count)).collect()
}

#[test]
fn requests_come_at_the_rate_and_take_the_way_there_the_work_and_the_way_back() {
    let figures = ours(&steady(2, ""));
    assert_eq!((figures.requests, figures.answered), (999, 999));
    assert_eq!(figures.attempts_per_request, 1.0);
    // Two connections are made: three ways there and one back. Later ones find them.
    assert!((figures.max_ms - 9.0).abs() < 0.01, "{}", figures.max_ms);
    assert!((figures.p50_ms - 7.0).abs() < 0.01, "{}", figures.p50_ms);
}

#[test]
fn the_same_seed_is_the_same_run_and_another_one_is_not() {
    let text = |seed| {
        format!(
            "seed = {seed}\nrate = 500\nduration = \"20s\"\n[[tasks]]\ncount = 3\nservice_time = \"exponential 10ms\"\n"
        )
    };
    assert_eq!(ours(&text(1)), ours(&text(1)));
    assert_ne!(ours(&text(1)), ours(&text(2)));
}

#[test]
fn what_a_dead_task_refuses_is_answered_by_another_whatever_its_method() {
    let die = event("0s", "do = \"die\"\ntasks = [1]");
    let figures = ours(&(steady(2, "non_idempotent = 1.0") + &die));
    assert_eq!((figures.answered, figures.ejections), (999, 1));
    // Five failures, then it is left out.
    assert!((figures.attempts_per_request - 1004.0 / 999.0).abs() < 1e-9);
}

#[test]
fn a_post_whose_task_dies_under_it_is_lost_once_and_executed_once() {
    // Sent at 1.00 s, at its task from 1.001 s to 1.006 s.
    let die = event("1003ms", "do = \"die\"");
    let back = event("1004ms", "do = \"recover\"");
    let post = ours(&(steady(1, "non_idempotent = 1.0") + &die + &back));
    assert_eq!(lost(&post), [("connection broken", 1)]);
    assert_eq!((post.unknown, post.duplicates), (1, 0));
    let get = ours(&(steady(1, "") + &die + &back));
    assert_eq!((get.answered, get.duplicates), (999, 0));
}

#[test]
fn service_connect_executes_a_post_twice_when_the_application_dies_under_it() {
    let die = event("1003ms", "do = \"die\"\nof = \"application\"");
    let back = event("1004ms", "do = \"recover\"");
    let text = steady(1, "non_idempotent = 1.0") + &die + &back;
    assert_eq!(theirs(&text).duplicates, 1);
    assert_eq!(theirs(&text).answered, 999);
    assert_eq!((ours(&text).duplicates, ours(&text).unknown), (0, 1));
}

#[test]
fn a_stopped_task_reads_later_what_its_callers_gave_up() {
    let stop = event("1s", "do = \"stop\"\ntasks = [1]");
    let go = event("5s", "do = \"recover\"\ntasks = [1]");
    let client = "non_idempotent = 1.0\nclient.per_request_timeout = \"1s\"";
    let figures = ours(&(steady(2, client) + &stop + &go));
    let held = figures.why_lost["timeout"];
    assert!(held > 0);
    assert_eq!(
        figures.unknown, held,
        "each is acted upon when the task goes on"
    );
    assert_eq!(figures.duplicates, 0);
}

#[test]
fn a_timeout_for_one_attempt_saves_the_get_and_not_the_post() {
    let stop = event("1s", "do = \"stop\"\ntasks = [1]");
    let client = "client.retry.per_try_timeout = \"100ms\"";
    let get = ours(&(steady(2, client) + &stop));
    assert_eq!(get.answered, 999);
    let post = ours(&(steady(2, &format!("non_idempotent = 1.0\n{client}")) + &stop));
    assert_eq!(
        post.why_lost.keys().collect::<Vec<_>>(),
        ["attempt timed out"]
    );
}

#[test]
fn a_budget_bounds_what_is_repeated_when_everything_answers_503() {
    let unavailable = event("0s", "do = \"answer_503\"");
    let client = "client.circuit_breakers = { min_retry_concurrency = 0, retry_budget_percent = 0 }\nclient.outlier_detection = false";
    let figures = ours(&(steady(3, client) + &unavailable));
    assert_eq!((figures.answered, figures.attempts_per_request), (0, 1.0));
    assert!(theirs(&(steady(3, "") + &unavailable)).attempts_per_request > 2.9);
}

#[test]
fn more_than_may_be_under_way_is_refused() {
    let stop = event("0s", "do = \"stop\"");
    let client = "client.circuit_breakers.max_requests = 10\nclient.per_request_timeout = \"0s\"";
    let figures = ours(&(steady(1, client) + &stop));
    assert_eq!((figures.requests, figures.refused), (999, 989));
    assert_eq!(lost(&figures), [("no answer", 10)]);
}

#[test]
fn a_deployment_of_ours_loses_and_repeats_nothing_and_theirs_repeats() {
    let deploy = event(
        "1s",
        "do = \"deploy\"\nstartup = \"500ms\"\npropagation = \"200ms\"",
    );
    let text = steady(3, "non_idempotent = 0.5") + &deploy;
    let figures = ours(&text);
    assert_eq!((figures.answered, figures.attempts_per_request), (999, 1.0));
    let stale = theirs(&text);
    assert!(
        stale.attempts_per_request > 1.01,
        "{}",
        stale.attempts_per_request
    );
}

#[test]
fn the_emptiest_and_the_worst_settings_end() {
    let all = [
        event("0s", "do = \"stop\""),
        event("0s", "do = \"die\""),
        event("0s", "do = \"flap\"\nperiod = \"2ms\"\nlasting = \"1s\""),
        event("0s", "do = \"slow_down\"\nfactor = 1000000.0"),
        event(
            "0s",
            "do = \"deploy\"\nstartup = \"0s\"\npropagation = \"0s\"",
        ),
    ];
    let client = "client.per_request_timeout = \"0s\"\n\
        client.retry = { num_retries = 10, back_off_base = \"1ms\", back_off_max = \"1ms\", retry_non_idempotent = true }\n\
        client.outlier_detection = { consecutive_5xx = 1, base_ejection_time = \"1ms\", max_ejection_time = \"1ms\", interval = \"1ms\" }\n\
        client.circuit_breakers.min_retry_concurrency = 100000";
    for happens in all {
        let figures = ours(&(steady(3, client) + &happens));
        assert_eq!(figures.requests, 999);
        assert_eq!(
            figures.answered + figures.lost + figures.refused,
            999,
            "{happens}"
        );
        theirs(&(steady(3, client) + &happens));
    }
}
