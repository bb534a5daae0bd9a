//! What is counted of this task's certificate.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

/// Written by whoever keeps the certificate good.
#[derive(Debug, Default)]
pub(crate) struct IdentityCounts {
    issued: AtomicU64,
    failed: AtomicU64,
    /// Seconds since 1970; zero while there is no certificate.
    ends: AtomicU64,
}

impl IdentityCounts {
    /// A certificate was got.
    pub(crate) fn issued(&self) {
        self.issued.fetch_add(1, Relaxed);
    }

    /// None was got.
    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// When the one in force ends.
    pub(crate) fn ends(&self, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.ends.store(since.as_secs(), Relaxed);
    }

    /// Got, and not got.
    pub(super) fn requests(&self) -> [(&'static str, u64); 2] {
        let read = |count: &AtomicU64| count.load(Relaxed);
        [
            ("issued", read(&self.issued)),
            ("failed", read(&self.failed)),
        ]
    }

    pub(super) fn end(&self) -> Option<u64> {
        Some(self.ends.load(Relaxed)).filter(|ends| *ends > 0)
    }
}
