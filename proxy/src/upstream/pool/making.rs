//! An HTTP/2 connection that is being made: of those who need one the first makes it, the others wait for its end.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::Pool;
use crate::error::{Kind, ProxyError};
use crate::policy::endpoint::Endpoint;

/// See the module.
#[derive(Default)]
pub(super) struct Making {
    /// Told when it is made, has failed, or its maker has gone away.
    ended: Notify,
    failed: OnceCell<(Kind, String)>,
}

/// Who makes it. Dropping it is its end, however it came.
pub(super) struct Maker<'a> {
    pool: &'a Pool,
    endpoint: u64,
    making: Rc<Making>,
}

impl Making {
    /// Nobody else makes one for the endpoint.
    pub(super) fn begin<'a>(pool: &'a Pool, endpoint: &Arc<Endpoint>) -> Maker<'a> {
        let making = Rc::new(Self::default());
        let mut endpoints = pool.endpoints.borrow_mut();
        Pool::kept(&mut endpoints, endpoint).making = Some(Rc::clone(&making));
        Maker {
            pool,
            endpoint: endpoint.id,
            making,
        }
    }

    /// Waits for its end. Unless it has failed there may be a connection now.
    pub(super) async fn end(&self) -> Result<(), ProxyError> {
        self.ended.notified().await;
        match self.failed.get() {
            Some((kind, cause)) => Err(ProxyError::caused(*kind, cause.as_str())),
            None => Ok(()),
        }
    }
}

impl Maker<'_> {
    /// Those who wait fail as the maker does.
    pub(super) fn failed(&self, error: &ProxyError) {
        let cause = error.cause.as_ref().map(ToString::to_string);
        let failed = (error.kind, cause.unwrap_or_default());
        self.making
            .failed
            .set(failed)
            .expect("a connection fails once");
    }
}

impl Drop for Maker<'_> {
    fn drop(&mut self) {
        if let Some(kept) = self.pool.endpoints.borrow_mut().get_mut(&self.endpoint) {
            kept.making = None;
        }
        self.making.ended.notify_waiters();
    }
}
