//! What the sidecar tells about itself.

pub mod admin;
pub mod ready;
pub(crate) mod metrics;
