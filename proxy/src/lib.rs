//! The sidecar: listens on the names' addresses, picks a healthy task for every request, and hands it over.

pub mod app;
pub mod config;
mod deadline;
mod downstream;
mod drain;
mod error;
pub mod mesh;
pub mod observe;
mod request;
mod routing;
pub mod upstream;
