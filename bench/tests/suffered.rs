//! Tasks that die, freeze, lie or vanish behind a real sidecar: each costs what it was expected to, and no POST is made twice.

mod common;

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, ensure};
use common::binaries;
use outrigger_bench::faults::{Fault, Measured, Options, Outcome, suffer};

const LONGEST: Duration = Duration::from_secs(60);

async fn suffered(fault: Fault, mutant: Option<&str>) -> anyhow::Result<Outcome> {
    // Building is no part of what is bounded.
    tokio::task::spawn_blocking(binaries).await??;
    let options = Options {
        mutant: mutant.map(str::to_owned),
        ..Options::default()
    };
    let suffering = suffer(fault, &options);
    let outcome = tokio::time::timeout(LONGEST, suffering).await;
    outcome.with_context(|| format!("{} takes over {LONGEST:?}", fault.what()))?
}

/// What was measured, if it was as expected; `None` where the fault cannot be made.
async fn as_expected(fault: Fault) -> anyhow::Result<Option<Measured>> {
    let outcome = suffered(fault, None).await?;
    if let Some(why) = &outcome.skipped {
        // Past the capture of tests that pass: nobody should believe that this one was tried.
        writeln!(std::io::stderr(), "skipped: {}: {why}", outcome.fault)?;
    }
    ensure!(outcome.is_good(), "{outcome:#?}");
    Ok(outcome.measured)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_task_costs_no_get() -> anyhow::Result<()> {
    as_expected(Fault::Kill).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_task_costs_posts_their_time_and_no_get() -> anyhow::Result<()> {
    as_expected(Fault::Freeze).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_resets_what_it_accepts_costs_no_get() -> anyhow::Result<()> {
    as_expected(Fault::ResetOnAccept).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mute_task_costs_posts_their_time_and_no_get() -> anyhow::Result<()> {
    as_expected(Fault::Mute).await.map(drop)
}

/// Each POST that the struck task acted upon and did not answer is told so, and made once.
async fn unanswered_posts_are_told_as_502(fault: Fault) -> anyhow::Result<()> {
    let measured = as_expected(fault)
        .await?
        .context("loopback is everywhere")?;
    let posts = &measured.posts;
    ensure!(
        posts.unknown > 0 && posts.unknown == posts.failed,
        "{posts:?}"
    );
    ensure!(posts.deliveries == posts.sent, "{posts:?}");
    // Whoever reads 503 sends again.
    ensure!(posts.statuses.keys().eq([&502]), "{posts:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_was_acted_upon_and_not_answered_is_told_as_failed_and_made_once()
-> anyhow::Result<()> {
    unanswered_posts_are_told_as_502(Fault::Break).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_killed_behind_its_sidecar_costs_no_get() -> anyhow::Result<()> {
    as_expected(Fault::AppKill).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_tells_the_caller_s_one_what_its_application_may_have_acted_upon()
-> anyhow::Result<()> {
    unanswered_posts_are_told_as_502(Fault::AppBreak).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flapping_task_costs_no_get() -> anyhow::Result<()> {
    as_expected(Fault::Flapping).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_says_503_to_everything_is_ejected() -> anyhow::Result<()> {
    as_expected(Fault::Unavailable).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_task_says_503_each_post_is_made_once_and_a_get_three_times_at_most()
-> anyhow::Result<()> {
    let measured = as_expected(Fault::AllUnavailable).await?;
    let Measured { gets, posts, .. } = measured.context("loopback is everywhere")?;
    ensure!(posts.deliveries == posts.sent, "{posts:?}");
    ensure!(gets.deliveries <= 3 * gets.sent, "{gets:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_200_ms_away_is_left_alone_while_the_near_one_carries_its_part() -> anyhow::Result<()>
{
    as_expected(Fault::FarZone).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_that_is_lost_costs_no_get_for_the_far_one_takes_over() -> anyhow::Result<()> {
    as_expected(Fault::ZoneLost).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_vanishes_leaves_half_open_connections_that_cost_no_get() -> anyhow::Result<()>
{
    as_expected(Fault::HalfOpen).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenth_of_the_packets_lost_costs_time_and_no_request() -> anyhow::Result<()> {
    as_expected(Fault::Loss).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_packets_are_refused_costs_no_get() -> anyhow::Result<()> {
    as_expected(Fault::Reject).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_on_a_slow_line_gets_the_smaller_part() -> anyhow::Result<()> {
    as_expected(Fault::Bandwidth).await.map(drop)
}

/// What these tests would show if a safeguard were missing.
#[cfg(debug_assertions)]
mod without_safeguards {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn retrying_what_may_have_been_delivered_makes_posts_twice() -> anyhow::Result<()> {
        let outcome = suffered(Fault::Break, Some("retry-unknown-posts")).await?;
        let measured = outcome
            .measured
            .as_ref()
            .context("loopback is everywhere")?;
        ensure!(measured.posts.duplicated > 0, "{outcome:#?}");
        ensure!(!outcome.is_good(), "{outcome:#?}");
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sidecar_that_calls_everything_undelivered_makes_posts_twice() -> anyhow::Result<()> {
        let outcome = suffered(Fault::AppBreak, Some("hop-blind-verdict")).await?;
        let measured = outcome
            .measured
            .as_ref()
            .context("loopback is everywhere")?;
        ensure!(measured.posts.duplicated > 0, "{outcome:#?}");
        ensure!(!outcome.is_good(), "{outcome:#?}");
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_retries_a_resetting_task_costs_gets() -> anyhow::Result<()> {
        let outcome = suffered(Fault::ResetOnAccept, Some("no-retry")).await?;
        let measured = outcome
            .measured
            .as_ref()
            .context("loopback is everywhere")?;
        ensure!(measured.gets.failed > 0, "{outcome:#?}");
        ensure!(!outcome.is_good(), "{outcome:#?}");
        Ok(())
    }
}
