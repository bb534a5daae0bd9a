//! The sidecar: listens on the names' addresses, picks a healthy task for every request, and hands it over.

pub mod config;
pub mod mesh;
pub mod observe;
pub mod upstream;
