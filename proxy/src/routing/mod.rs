//! The accepted configuration in the form a request reads: immutable, checked, every name resolved.

pub(crate) mod route;
pub(crate) mod snapshot;
