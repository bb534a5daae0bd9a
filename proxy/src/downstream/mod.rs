//! Who connects to us: sockets, connections, and the protocol they speak.

mod farewell;
mod h1;
mod h2;
pub(crate) mod listener;
pub(crate) mod protocol;
mod secure;

use std::rc::Rc;

use outrigger_xds::model::Direction;

use crate::drain::Phase;
use crate::request::worker::Worker;
use crate::routing::snapshot::Slot;
use crate::tls::peer::Peer;

/// Who is at the other end of a connection.
#[derive(Clone)]
struct Caller {
    slot: Slot,
    /// A sidecar that has proved who it is.
    hop: bool,
    /// It came by TLS.
    secure: bool,
    /// What its certificate says.
    peer: Option<Rc<Peer>>,
}

impl Caller {
    /// Whether its listener has come to take TLS alone: then it is asked to go, with no request lost, and to come again by that.
    fn is_to_come_by_tls(&self, worker: &Worker) -> bool {
        !self.secure && {
            let snapshot = worker.snapshot.load();
            let listener = snapshot.listener(self.slot);
            listener.is_some_and(|listener| listener.is_strict())
        }
    }
}

/// From when on clients of a listener are asked to go. Those of the egress are this task's own application, which is served to
/// the end, or until another process serves it.
const fn leaves(direction: Direction) -> Phase {
    match direction {
        Direction::Ingress => Phase::Draining,
        Direction::Egress => Phase::Leaving,
    }
}
