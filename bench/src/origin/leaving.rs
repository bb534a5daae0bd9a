//! How an origin ends: it takes no new connection, finishes what is under way, and closes what idles after a while or at once.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// For what is still under way when idle connections have been closed.
const BOUND: Duration = Duration::from_secs(30);

/// The origin's end: it tells, and knows when the last connection has gone.
#[derive(Debug)]
pub(super) struct Leave {
    close: watch::Sender<bool>,
    open: mpsc::Receiver<()>,
}

/// A connection's end.
#[derive(Debug, Clone)]
pub(super) struct Leaving {
    close: watch::Receiver<bool>,
    _open: mpsc::Sender<()>,
}

pub(super) fn pair() -> (Leave, Leaving) {
    let (close, told) = watch::channel(false);
    let (counted, open) = mpsc::channel(1);
    let leaving = Leaving {
        close: told,
        _open: counted,
    };
    (Leave { close, open }, leaving)
}

impl Leave {
    /// Waits for the connections, which may idle for `keep`; the caller's own [`Leaving`] must be gone.
    pub(super) async fn finish(mut self, keep: Duration) {
        if tokio::time::timeout(keep, self.open.recv()).await.is_ok() {
            return;
        }
        self.close.send_replace(true);
        if tokio::time::timeout(BOUND, self.open.recv()).await.is_err() {
            tracing::warn!("connections still busy after {BOUND:?} are cut off");
        }
    }
}

impl Leaving {
    /// Completes when idle connections are to be closed.
    pub(super) async fn close_idle(&mut self) {
        if self.close.wait_for(|close| *close).await.is_err() {
            // An origin that never leaves.
            std::future::pending().await
        }
    }
}
