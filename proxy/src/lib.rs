//! The sidecar: listens on the names' addresses, picks a healthy task for every request, and hands it over.

pub mod app;
pub mod config;
mod date;
mod deadline;
mod downstream;
mod drain;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hop;
mod http1;
mod http2;
pub mod mesh;
mod message;
#[doc(hidden)]
pub mod micro;
#[doc(hidden)]
pub mod mutants;
pub mod observe;
pub mod policy;
mod request;
mod restart;
mod routing;
mod spare;
mod tls;
pub mod upstream;
