//! The data plane on a static file: real sidecar processes, real clients, applications in threads.

mod clusters;
mod common;
mod informational;
mod limits;
mod peers;
mod trailers;
mod transparent;
