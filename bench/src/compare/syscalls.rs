//! System calls per request, counted by `strace -c`: it slows the proxy down, so nothing else is taken from that run.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::load::Load;

const LENGTH: Duration = Duration::from_secs(1);
const ATTACH: Duration = Duration::from_secs(5);

/// Calls of all these processes per request of a load that is running, and the calls by name, most frequent first.
pub(super) async fn per_request(
    ids: &[u32],
    load: &Load,
    folder: &Path,
) -> anyhow::Result<(f64, Vec<(String, f64)>)> {
    let out = folder.join("strace.txt");
    let mut command = Command::new("strace");
    command.args(["-c", "-f", "-o"]).arg(&out);
    for id in ids {
        command.args(["-p", &id.to_string()]);
    }
    let mut strace = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("strace, which --syscalls needs")?;
    attached(ids).await?;
    let (before, began) = (load.sent(), Instant::now());
    while began.elapsed() < LENGTH {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sent = load.sent() - before;
    let pid = strace.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    kill_process(pid.context("strace has ended")?, Signal::INT)?;
    strace.wait().await?;
    let counts = counts(&std::fs::read_to_string(&out)?);
    if counts.is_empty() || sent == 0 {
        bail!("strace counted nothing");
    }
    let each = |count: u64| count as f64 / sent as f64;
    let total = counts.iter().map(|(_, count)| count).sum();
    let named = counts
        .into_iter()
        .map(|(name, count)| (name, each(count)))
        .collect();
    Ok((each(total), named))
}

/// Waits until every thread of these processes is traced.
async fn attached(ids: &[u32]) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < ATTACH {
        let mut traced = true;
        for id in ids {
            for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
                let status = std::fs::read_to_string(thread?.path().join("status"))?;
                let tracer = status
                    .lines()
                    .find_map(|line| line.strip_prefix("TracerPid:"));
                traced &= tracer.is_some_and(|tracer| tracer.trim() != "0");
            }
        }
        if traced {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("strace did not attach in {ATTACH:?}: is ptrace allowed?")
}

/// The name and number of every call in strace's table, whose columns are % time, seconds, µs per call, calls, errors (may be
/// absent), name.
fn counts(table: &str) -> Vec<(String, u64)> {
    let mut counts: Vec<_> = table
        .lines()
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let name = *words.last()?;
            let count = words.get(3)?.parse().ok()?;
            (words.len() >= 5 && name != "total").then(|| (name.to_owned(), count))
        })
        .collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_with_and_without_errors() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
            60.00    0.000060          12         5           epoll_wait\n \
            40.00    0.000040           4        10         3 recvfrom\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.000100           6        15         3 total\n";
        let expected = [("recvfrom".to_owned(), 10), ("epoll_wait".to_owned(), 5)];
        assert_eq!(counts(table), expected);
        assert_eq!(counts(""), []);
    }
}
