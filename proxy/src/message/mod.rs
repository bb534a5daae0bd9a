//! Messages as a request's story sees them: heads that keep the order and case of their fields, and parts of bodies.

pub(crate) mod authority;
pub(crate) mod fields;
pub(crate) mod head;
pub(crate) mod trailers;

use std::task::{Context, Poll};

use bytes::Bytes;

use self::fields::Fields;
use crate::error::ProxyError;

/// What a body consists of.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Data(Bytes),
    /// The last one, if it comes at all.
    Trailers(Fields),
}

/// A body that gives its parts as they come.
pub(crate) trait Body {
    /// The next part; `None` at the end.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, ProxyError>>>;

    /// Whether nothing will come any more. May be false at the end; then `poll_part` says so.
    fn is_end(&self) -> bool;

    /// Bytes of data in all, where that is known before the end.
    fn length(&self) -> Option<u64>;
}
