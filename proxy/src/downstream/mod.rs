//! Who connects to us: sockets, connections, and the protocol they speak.

mod farewell;
mod h1;
mod h2;
pub(crate) mod listener;
pub(crate) mod protocol;
