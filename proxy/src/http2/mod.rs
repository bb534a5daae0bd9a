//! What both wings need of HTTP/2 (RFC 9113) beside the h2 crate: writes gathered, frames watched, and bodies on their streams.

pub(crate) mod batch;
pub(crate) mod body;
mod frames;
pub(crate) mod guard;
pub(crate) mod hpack;
pub(crate) mod pipe;

/// Whether a stream or connection ended because the peer broke the protocol, as h2 or the guard saw it.
pub(crate) fn peer_broke_protocol(error: &h2::Error) -> bool {
    let by_guard = error
        .get_io()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData);
    by_guard || error.is_library() && (error.is_reset() || error.is_go_away())
}
