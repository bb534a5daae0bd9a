//! What the kernel says processes have used: CPU of all their threads, user and system apart, and memory.

use std::collections::BTreeMap;
use std::fs;
use std::ops::{Add, Sub};

use anyhow::{Context, bail};

use crate::fleet::Process;

/// CPU seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cpu {
    /// From the scheduler's nanoseconds, exact.
    total: f64,
    /// From ticks: good only for the proportion.
    user: f64,
    system: f64,
}

impl Cpu {
    /// Seconds in user mode: the exact total, split in the proportion of the ticks.
    pub(crate) fn user(self) -> f64 {
        match self.user + self.system {
            ticks if ticks > 0.0 => self.total * self.user / ticks,
            _ => 0.0,
        }
    }

    /// Seconds in the kernel.
    pub(crate) fn system(self) -> f64 {
        self.total - self.user()
    }
}

impl Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            total: self.total + other.total,
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            total: self.total - before.total,
            user: self.user - before.user,
            system: self.system - before.system,
        }
    }
}

/// These processes and all their descendants: nginx serves from a child.
pub(super) fn family(processes: &[Process]) -> anyhow::Result<Vec<u32>> {
    let mut family = Vec::new();
    for process in processes {
        let id = process
            .id()
            .with_context(|| format!("{} has ended:\n{}", process.name(), process.log_tail()))?;
        family.push(id);
    }
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // It may have ended since.
        let text = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = field(&text, 4).and_then(|text| text.parse().ok()) {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut next = 0;
    while next < family.len() {
        family.extend(children.get(&family[next]).into_iter().flatten());
        next += 1;
    }
    Ok(family)
}

/// What they have used since they began. A thread that has ended is missing from the exact total, so the difference is
/// taken over a run in which none does.
pub(crate) fn cpu(ids: &[u32]) -> anyhow::Result<Cpu> {
    let tick = rustix::param::clock_ticks_per_second() as f64;
    let mut sum = Cpu::default();
    for id in ids {
        for thread in fs::read_dir(format!("/proc/{id}/task"))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            sum.total += schedstat(&text).with_context(|| format!("schedstat says {text:?}"))?;
        }
        let text = fs::read_to_string(format!("/proc/{id}/stat"))?;
        let ticks = |number| field(&text, number).and_then(|text| text.parse::<f64>().ok());
        let (Some(user), Some(system)) = (ticks(14), ticks(15)) else {
            bail!("/proc/{id}/stat says {text:?}");
        };
        sum.user += user / tick;
        sum.system += system / tick;
    }
    Ok(sum)
}

/// Resident MiB of them all.
pub(crate) fn rss_mib(ids: &[u32]) -> anyhow::Result<f64> {
    let mut kib = 0.0;
    for id in ids {
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        kib += line
            .and_then(|line| line.split_whitespace().next())
            .and_then(|number| number.parse::<f64>().ok())
            .context("/proc/PID/status has VmRSS")?;
    }
    Ok(kib / 1024.0)
}

/// Seconds on a CPU: the first of schedstat's three numbers, in nanoseconds.
fn schedstat(text: &str) -> Option<f64> {
    let nanoseconds: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds as f64 / 1e9)
}

/// A field of `/proc/PID/stat` by proc(5)'s number, 3 and up; the second is a name that may hold spaces and brackets.
fn field(stat: &str, number: usize) -> Option<&str> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(number.checked_sub(3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_is_read_in_seconds() {
        assert_eq!(schedstat("1500000000 20 3\n"), Some(1.5));
        assert_eq!(schedstat(""), None);
        assert_eq!(schedstat("x 1 2"), None);
    }

    #[test]
    fn fields_are_counted_behind_a_name_with_brackets() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0";
        assert_eq!(field(stat, 4), Some("7"));
        assert_eq!(field(stat, 14), Some("250"));
        assert_eq!(field(stat, 15), Some("50"));
        assert_eq!(field("42 (a) S", 14), None);
        assert_eq!(field("", 4), None);
    }

    #[test]
    fn the_exact_total_is_split_as_the_ticks_are() {
        let cpu = Cpu {
            total: 1.0,
            user: 0.2,
            system: 0.6,
        };
        assert!((cpu.user() - 0.25).abs() < 1e-9 && (cpu.system() - 0.75).abs() < 1e-9);
        let none = Cpu::default();
        assert_eq!((none.user(), none.system()), (0.0, 0.0));
    }

    #[tokio::test]
    async fn a_process_counts_with_its_children_and_an_ended_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", "sleep 60 & echo child listening on 1; wait"]);
        let mut shell = [Process::spawn("shell", command, folder.path()).unwrap()];
        let told = shell[0].listening("child", std::time::Duration::from_secs(10));
        assert!(told.await.is_err(), "1 is no address, but it was said");
        let ids = family(&shell).unwrap();
        assert_eq!(ids.len(), 2, "{ids:?}");
        assert!(rss_mib(&ids).unwrap() > 0.0);
        assert!(cpu(&ids).unwrap().total < 10.0);
        shell[0].kill().await.unwrap();
        let child = rustix::process::Pid::from_raw(ids[1].cast_signed()).unwrap();
        rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
        let error = family(&shell).unwrap_err().to_string();
        assert!(error.contains("shell"), "{error}");
    }
}
