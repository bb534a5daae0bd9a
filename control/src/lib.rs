//! Outrigger's control server: a registry with the Cloud Map API in front and xDS behind it.

mod accept;
mod access;
mod ads;
pub mod app;
mod cloudmap;
pub mod commands;
mod drain;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
mod operator;
mod publish;
mod registry;
mod store;
mod translate;
mod writer;

pub use store::StoreError;
