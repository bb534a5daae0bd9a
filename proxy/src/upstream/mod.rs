//! Whom we call: clusters, their endpoints, and the connections to them.

pub mod resolve;
