//! What the kernel says a process has used.

use std::fs;

use anyhow::Context;

use crate::fleet::Process;

/// CPU seconds of all threads of these processes, from the scheduler's nanoseconds. A thread that has ended is not in the
/// sum, which is why it is taken around a run in which none does.
pub(super) fn cpu_seconds(processes: &[Process]) -> anyhow::Result<f64> {
    let mut nanoseconds = 0;
    for process in processes {
        let id = process
            .id()
            .with_context(|| format!("{} has ended:\n{}", process.name(), process.log_tail()))?;
        for thread in fs::read_dir(format!("/proc/{id}/task"))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds +=
                first_number(&text).with_context(|| format!("schedstat said {text:?}"))?;
        }
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// Resident MiB of one of these processes, on average; 0 for none.
pub(super) fn rss_mib(processes: &[Process]) -> anyhow::Result<f64> {
    let mut kib = 0;
    for process in processes {
        let id = process
            .id()
            .with_context(|| format!("{} has ended:\n{}", process.name(), process.log_tail()))?;
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        kib += line
            .and_then(first_number)
            .context("/proc/PID/status has VmRSS")?;
    }
    Ok(kib as f64 / 1024.0 / processes.len().max(1) as f64)
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The middle value, the mean of both middle ones where there are two; 0 of none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len() / 2, values.len() % 2) {
        (0, 0) => 0.0,
        (middle, 0) => f64::midpoint(values[middle - 1], values[middle]),
        (middle, _) => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0]), 3.0);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[tokio::test]
    async fn a_running_process_has_memory_and_an_ended_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = tokio::process::Command::new("sleep");
        command.arg("60");
        let mut sleeper = [Process::spawn("sleeper", command, folder.path()).unwrap()];
        assert!(rss_mib(&sleeper).unwrap() > 0.0);
        assert!(cpu_seconds(&sleeper).unwrap() < 1.0);
        sleeper[0].kill().await.unwrap();
        assert!(
            rss_mib(&sleeper)
                .unwrap_err()
                .to_string()
                .contains("sleeper")
        );
    }
}
