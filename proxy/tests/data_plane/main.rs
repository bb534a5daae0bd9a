//! The data plane on a static file: real sidecar processes, real clients, applications in threads.

mod access;
mod attempts;
mod bodies;
mod breakers;
mod clusters;
mod common;
mod ends;
mod fields;
mod full;
mod hop;
mod hop_mutants;
mod hop_refusals;
mod hop_retries;
mod hops;
mod http_1_0;
mod informational;
mod keepalive;
mod limits;
mod peers;
mod slow;
mod trailers;
mod transparent;
mod tunnels;
mod windows;
mod zones;
