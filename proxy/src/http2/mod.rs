//! What both wings need of HTTP/2 (RFC 9113) beside the h2 crate: writes gathered, and bodies on their streams.

pub(crate) mod batch;
pub(crate) mod body;
pub(crate) mod pipe;
