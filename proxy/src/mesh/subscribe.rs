//! xDS in, ACK and NACK out, through the check that keeps the last good configuration.

use outrigger_xds::Rejection;

use crate::config::accepted::{Accepted, Change};

/// Takes a checked configuration into force; what it returns is refused by name.
pub trait Apply: Send {
    /// Everything else is in force when this returns.
    fn apply(&mut self, accepted: &Accepted, change: &Change) -> Vec<Rejection>;
}
