//! The machine: what it is, which CPUs proxies and load get, and how many descriptors.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::results::Machine;

/// What is asked for.
const DESCRIPTORS: u64 = 65_536;
/// What 10,000 idle connections and all pools need.
const NEEDED: u64 = 12_000;

/// The CPUs this run may use, in order.
#[derive(Debug, Clone)]
pub(crate) struct Cpus(Vec<usize>);

impl Cpus {
    pub(crate) fn allowed() -> anyhow::Result<Self> {
        let set = sched_getaffinity(None)?;
        Ok(Self(
            (0..CpuSet::MAX_CPU)
                .filter(|cpu| set.is_set(*cpu))
                .collect(),
        ))
    }

    /// The first CPUs, one per worker, and the last one never while there are enough; the rest, or else the last, is the load's.
    fn split(&self, workers: usize) -> (&[usize], &[usize]) {
        let all = self.0.as_slice();
        if all.len() > workers {
            all.split_at(workers)
        } else {
            (all, &all[all.len().saturating_sub(1)..])
        }
    }

    /// Runs `start` on the proxies' CPUs: a process that it starts inherits them. Then this thread is the load's again.
    pub(crate) fn on_proxies<T>(&self, workers: usize, start: impl FnOnce() -> T) -> T {
        pin(self.split(workers).0);
        let started = start();
        self.to_load(workers);
        started
    }

    /// Puts this thread, and what it starts, on the load's CPUs.
    pub(crate) fn to_load(&self, workers: usize) {
        pin(self.split(workers).1);
    }

    fn describe(&self) -> String {
        let (proxies, load) = self.split(1);
        if self.0.len() < 2 {
            return "one CPU: everything shares it".to_owned();
        }
        format!(
            "sched_setaffinity: proxies on CPU {proxies:?} (two and four workers: on the first two and four, or on all where there are \
             no more), load and origins on CPU {load:?}"
        )
    }
}

fn pin(cpus: &[usize]) {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(%error, ?cpus, "not pinned");
    }
}

/// Raises the soft limit of open descriptors, and the hard one where that is allowed; says so when it is too low for every cell.
pub fn raise_descriptors() {
    let now = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= DESCRIPTORS);
    if enough(now.current) {
        return;
    }
    let hard = if enough(now.maximum) {
        now.maximum
    } else {
        Some(DESCRIPTORS)
    };
    let wanted = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: hard,
    };
    if setrlimit(Resource::Nofile, wanted).is_ok() {
        return;
    }
    let most = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    let reached = match setrlimit(Resource::Nofile, most) {
        Ok(()) => now.maximum,
        Err(_) => now.current,
    };
    if reached.is_some_and(|reached| reached < NEEDED) {
        eprintln!(
            "only {} open descriptors are allowed; cells with many connections need {NEEDED}",
            reached.unwrap_or_default()
        );
    }
}

/// What a report says of the machine.
pub(super) fn describe(cpus: &Cpus) -> Machine {
    let line = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key))?.to_owned();
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let kib = line("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Machine {
        cpus: cpus.0.len(),
        model: line("/proc/cpuinfo", "model name").unwrap_or_default(),
        kernel: release.trim().to_owned(),
        memory_mib: kib.unwrap_or_default() / 1024,
        pinning: cpus.describe(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_and_load_share_a_cpu_only_where_there_are_too_few() {
        let cpus = |count| Cpus((0..count).collect());
        assert_eq!(cpus(2).split(1), (&[0][..], &[1][..]));
        assert_eq!(cpus(2).split(2), (&[0, 1][..], &[1][..]));
        assert_eq!(cpus(2).split(4), (&[0, 1][..], &[1][..]));
        assert_eq!(cpus(1).split(1), (&[0][..], &[0][..]));
        assert_eq!(cpus(4).split(2), (&[0, 1][..], &[2, 3][..]));
    }

    #[test]
    fn a_machine_describes_itself() {
        let machine = describe(&Cpus::allowed().unwrap());
        assert!(machine.cpus >= 1 && machine.memory_mib > 0 && !machine.kernel.is_empty());
    }
}
