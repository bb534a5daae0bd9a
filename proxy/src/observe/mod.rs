//! What the sidecar tells about itself.

pub mod admin;
pub(crate) mod metrics;
pub mod ready;
