//! What is counted of this task's requests for a certificate.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Written by whoever keeps the certificate good.
#[derive(Debug, Default)]
pub(crate) struct IdentityCounts {
    issued: AtomicU64,
    failed: AtomicU64,
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

    /// Got, and not got.
    pub(super) fn requests(&self) -> [(&'static str, u64); 2] {
        let read = |count: &AtomicU64| count.load(Relaxed);
        [
            ("issued", read(&self.issued)),
            ("failed", read(&self.failed)),
        ]
    }
}
