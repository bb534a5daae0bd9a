//! The data plane on a static file: real sidecar processes, real clients, applications in threads.

mod clusters;
mod common;
mod limits;
mod transparent;
