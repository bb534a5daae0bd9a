//! The running sidecar, as the process sees it that is to take over.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::proof::{Nonces, Role, nonce};
use super::wire::{Message, Wire};
use super::{Identity, RestartError, Socket, VERSION};

/// For whoever listens to answer at all. A process that does not is stopped or stuck: it is started without.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
/// For each further answer.
const ANSWER: Duration = Duration::from_secs(10);

/// A sidecar that has proven itself and lent its sockets.
#[derive(Debug)]
pub(crate) struct Predecessor(Wire);

/// The sidecar that listens on `path`, and its sockets; `None` when there is none.
pub(crate) async fn find(
    path: &Path,
    identity: &Identity,
) -> Result<Option<(Predecessor, Vec<Socket>)>, RestartError> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(source) => return Err(RestartError::Io { process: 0, source }),
    };
    let mut wire = Wire::new(stream);
    let answer = timeout(FIRST_ANSWER, greet(&mut wire, identity));
    let Ok(proven) = answer.await else {
        let process = wire.process;
        tracing::warn!(
            "process {process} does not answer on {} within {FIRST_ANSWER:?}: starting without what it holds",
            path.display()
        );
        return Ok(None);
    };
    proven?;
    let sockets = sockets(&mut wire).await?;
    Ok(Some((Predecessor(wire), sockets)))
}

/// Nothing listens there: no sidecar ran, or it was killed.
fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// Until both sides have proven themselves.
async fn greet(wire: &mut Wire, identity: &Identity) -> Result<(), RestartError> {
    let successor = nonce();
    let hello = Message::Hello {
        version: VERSION,
        node: identity.node.clone(),
        network: identity.network.clone(),
        nonce: successor.clone(),
    };
    wire.tell(&hello).await?;
    let Message::Challenge {
        nonce: predecessor,
        proof,
    } = wire.hear().await?
    else {
        return Err(wire.refuse("its answer is no challenge"));
    };
    let nonces = Nonces {
        predecessor,
        successor,
    };
    if !nonces.is_proven(Role::Predecessor, &identity.secret, &proof) {
        return Err(wire.refuse("it does not hold this node's secret"));
    }
    let proof = nonces.prove(Role::Successor, &identity.secret);
    wire.tell(&Message::Proof { proof }).await
}

impl Predecessor {
    pub(crate) fn process(&self) -> i32 {
        self.0.process
    }

    /// Tells it to accept no more; what it has opened meanwhile. From here on there is no way back: if it ends now, its sockets are
    /// ours all the same.
    pub(crate) async fn take_over(mut self) -> Result<Vec<Socket>, RestartError> {
        let taken = match self.0.tell(&Message::TakeOver).await {
            Ok(()) => sockets(&mut self.0).await,
            Err(error) => Err(error),
        };
        match taken {
            Ok(sockets) => Ok(sockets),
            Err(refused @ (RestartError::Refused { .. } | RestartError::Refusing { .. })) => {
                Err(refused)
            }
            Err(error) => {
                tracing::warn!(%error, "it was told, and what it held is taken over without its answer");
                Ok(Vec::new())
            }
        }
    }
}

async fn sockets(wire: &mut Wire) -> Result<Vec<Socket>, RestartError> {
    let mut all = Vec::new();
    loop {
        let Ok(message) = timeout(ANSWER, wire.hear()).await else {
            return Err(wire.gone("does not answer any more"));
        };
        let Message::Sockets { sockets, last } = message? else {
            return Err(wire.refuse("its answer is no list of sockets"));
        };
        let sockets = wire.sockets(sockets).map_err(|error| wire.failed(error))?;
        all.extend(sockets);
        if last {
            return Ok(all);
        }
    }
}
