//! The policy core: which task is offered a request, what may be tried again, who is ejected, and how much may be under way.
//!
//! A library without I/O: time and randomness are arguments, nothing waits. The sidecar drives it with sockets and its clock, the
//! simulator (`outrigger-bench sim`) with events and virtual time.

pub mod adaptive;
pub(crate) mod authorize;
pub(crate) mod balance;
pub mod cluster;
pub mod endpoint;
pub(crate) mod least_request;
pub mod limits;
mod offer;
pub mod outlier;
pub mod retry;
mod slow_start;
mod zone;
