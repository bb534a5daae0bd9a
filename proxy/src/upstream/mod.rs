//! Whom we call: clusters, their endpoints, and the connections to them.

pub(crate) mod cluster;
pub(crate) mod clusters;
pub(crate) mod connect;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod health;
pub(crate) mod keepalive;
pub(crate) mod pool;
pub mod resolve;
