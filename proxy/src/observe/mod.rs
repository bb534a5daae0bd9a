//! What the sidecar tells about itself.

pub mod admin;
pub mod ready;
