//! How many workers when nobody says.

/// The cgroup's CPU quota rounded up and at most 4; without a quota 1.
pub(super) fn default_workers() -> usize {
    let v2 = std::fs::read_to_string("/sys/fs/cgroup/cpu.max").ok();
    let v1 = || {
        let quota = std::fs::read_to_string("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").ok()?;
        let period = std::fs::read_to_string("/sys/fs/cgroup/cpu/cpu.cfs_period_us").ok()?;
        Some(format!("{} {}", quota.trim(), period.trim()))
    };
    v2.or_else(v1)
        .and_then(|text| quota_cpus(&text))
        .unwrap_or(1)
}

pub(super) fn quota_cpus(cpu_max: &str) -> Option<usize> {
    let mut words = cpu_max.split_whitespace();
    let quota: u64 = words.next()?.parse().ok()?;
    let period: u64 = words.next()?.parse().ok().filter(|period| *period > 0)?;
    usize::try_from(quota.div_ceil(period))
        .ok()
        .map(|cpus| cpus.clamp(1, 4))
}
