//! Who connects to us: sockets, connections, and the protocol they speak.

pub(crate) mod listener;
pub(crate) mod protocol;
