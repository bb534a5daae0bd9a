//! Resident memory of proxies: at rest, and with many connections that idle.

use std::time::Duration;

use anyhow::bail;

use super::cost;
use crate::load::{self, Load};

const READ_EVERY: Duration = Duration::from_millis(250);
/// So many readings in a row within [`STABLE`] of each other are a stable one: 2.5 s, for who tidies up a second after its start.
const ALIKE: usize = 10;
const STABLE: f64 = 0.005;
const LONGEST: Duration = Duration::from_secs(15);

/// MiB, once they no longer change; after 15 s whatever it is then.
pub(super) async fn settled(ids: &[u32]) -> anyhow::Result<f64> {
    let mut readings: Vec<f64> = Vec::new();
    let end = tokio::time::Instant::now() + LONGEST;
    loop {
        readings.push(cost::rss_mib(ids)?);
        let last = &readings[readings.len().saturating_sub(ALIKE)..];
        let (low, high) = last
            .iter()
            .fold((f64::MAX, 0.0_f64), |(low, high), reading| {
                (low.min(*reading), high.max(*reading))
            });
        let stable = last.len() == ALIKE && high - low <= high * STABLE;
        if stable || tokio::time::Instant::now() >= end {
            return Ok(readings[readings.len() - 1]);
        }
        tokio::time::sleep(READ_EVERY).await;
    }
}

/// KiB that each of `count` connections costs while it idles after one request.
pub(super) async fn per_idle_connection(
    ids: &[u32],
    plan: load::Plan,
    count: usize,
) -> anyhow::Result<f64> {
    // Pools, buffers and code pages that the first requests need are not the connections'.
    let warm_up = load::Plan {
        requests: Some(2000),
        ..plan.clone()
    };
    let record = Load::start(warm_up).finished().await;
    if record.failed > 0 {
        bail!("{:?}", record.reasons);
    }
    let before = settled(ids).await?;
    let idle = load::hold_idle(&plan, count)
        .await
        .map_err(|reason| anyhow::anyhow!("{count} idle connections: {reason}"))?;
    let after = settled(ids).await?;
    drop(idle);
    Ok((after - before) * 1024.0 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_at_rest_settles() {
        let own = std::process::id();
        assert!(settled(&[own]).await.unwrap() > 0.0);
    }
}
