//! Who connects to us: sockets, connections, and the protocol they speak.

mod farewell;
mod h1;
mod h2;
pub(crate) mod listener;
pub(crate) mod protocol;

use outrigger_xds::model::Direction;

use crate::drain::Phase;

/// From when on clients of a listener are asked to go. Those of the egress are this task's own application, which is served to
/// the end, or until another process serves it.
const fn leaves(direction: Direction) -> Phase {
    match direction {
        Direction::Ingress => Phase::Draining,
        Direction::Egress => Phase::Leaving,
    }
}
