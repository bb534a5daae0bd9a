//! Our conversation with the control server: configuration in, announcements out.

pub mod announce;
pub mod client;
pub mod document;
pub mod identity;
pub mod names;
mod readiness;
pub mod state;
pub mod subscribe;
