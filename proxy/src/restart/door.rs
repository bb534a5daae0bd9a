//! Where the running sidecar waits for its successor, and the successor as it sees it.

use std::fs::Permissions;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::time::timeout;

use super::proof::{Nonces, Role, nonce};
use super::wire::{Message, Wire};
use super::{Identity, Inherited, RestartError, Socket, VERSION};

/// The door among the sockets that are handed over.
const NAME: &str = "--hot-restart";
/// For a process that knocks to prove itself; others wait behind it.
const PROOF: Duration = Duration::from_secs(1);
/// For the successor to become ready.
const READY: Duration = Duration::from_secs(30);
/// For the successor to take what it is given.
const TAKE: Duration = Duration::from_secs(10);
/// Pause after an accept error such as EMFILE.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The unix socket on which a successor knocks.
#[derive(Debug)]
pub(crate) struct Door {
    listener: UnixListener,
    identity: Identity,
}

impl Door {
    /// The predecessor's, or a new one at `path`: whatever was there belongs to nobody any more.
    pub(crate) fn open(
        path: &Path,
        identity: Identity,
        inherited: &mut Inherited,
    ) -> io::Result<Self> {
        let listener = match inherited.unix_listener(NAME) {
            Some(listener) => listener,
            None => bind(path)?,
        };
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Self { listener, identity })
    }

    /// The door itself, to be handed over with the rest.
    pub(crate) fn socket(&self) -> io::Result<Socket> {
        let descriptor = self.listener.as_fd().try_clone_to_owned()?;
        Ok(Socket::new(NAME, None, descriptor))
    }

    /// The next process that proves to be this sidecar. Others are told why not, and so is the log.
    pub(crate) async fn successor(&self) -> Successor {
        loop {
            let mut wire = self.knock().await;
            let met = timeout(PROOF, meet(&mut wire, &self.identity)).await;
            let process = wire.process;
            match met {
                Ok(Ok(())) => return Successor::new(wire),
                Ok(Err(error)) => tracing::warn!("no hot restart: {error}"),
                Err(_) => tracing::warn!("no hot restart: process {process} proves nothing"),
            }
        }
    }

    /// Refuses everybody, for ever.
    pub(crate) async fn turn_away(&self, reason: &str) -> ! {
        loop {
            let wire = self.knock().await;
            let process = wire.process;
            tracing::warn!("no hot restart: process {process} was refused: {reason}");
            let reason = reason.to_owned();
            // Whoever does not take it is refused all the same.
            let _ = wire.send_now(&Message::Refused { reason });
        }
    }

    async fn knock(&self) -> Wire {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return Wire::new(stream),
                Err(error) => {
                    tracing::warn!(%error, "accept failed on the hot restart socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Under another name first: at `path` nothing is found that not only the owner may open.
fn bind(path: &Path) -> io::Result<StdListener> {
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Until both sides have proven themselves.
async fn meet(wire: &mut Wire, identity: &Identity) -> Result<(), RestartError> {
    let Message::Hello {
        version,
        node,
        network,
        nonce: successor,
    } = wire.hear().await?
    else {
        return Err(wire.refuse("its first message is no hello"));
    };
    if version != VERSION {
        let reason = format!(
            "it speaks version {version} of the hot restart and this process version {VERSION}: stop this one first"
        );
        return Err(wire.refuse(reason));
    }
    if node != identity.node {
        let reason = format!("it is {node:?} and this process {:?}", identity.node);
        return Err(wire.refuse(reason));
    }
    if network != identity.network {
        let reason = "it is in another network namespace".to_owned();
        return Err(wire.refuse(reason));
    }
    let predecessor = nonce();
    let nonces = Nonces {
        predecessor: predecessor.clone(),
        successor,
    };
    let proof = nonces.prove(Role::Predecessor, &identity.secret);
    let challenge = Message::Challenge {
        nonce: predecessor,
        proof,
    };
    wire.tell(&challenge).await?;
    let Message::Proof { proof } = wire.hear().await? else {
        return Err(wire.refuse("its answer is no proof"));
    };
    if !nonces.is_proven(Role::Successor, &identity.secret, &proof) {
        return Err(wire.refuse("it does not hold this node's secret"));
    }
    Ok(())
}

/// A process that may take over. Dropped before it has, it is told that it may not.
#[derive(Debug)]
pub(crate) struct Successor {
    wire: Wire,
    answered: bool,
}

impl Successor {
    fn new(wire: Wire) -> Self {
        Self {
            wire,
            answered: false,
        }
    }

    pub(crate) fn process(&self) -> i32 {
        self.wire.process
    }

    /// Lends it the sockets and waits until it is ready to take over.
    pub(crate) async fn ready(&mut self, sockets: &[Socket]) -> Result<(), RestartError> {
        let lent = async {
            let sent = self.wire.send_sockets(sockets).await;
            sent.map_err(|error| self.wire.failed(error))?;
            self.wire.hear().await
        };
        match timeout(READY, lent).await {
            Ok(Ok(Message::TakeOver)) => Ok(()),
            Ok(Ok(_)) => Err(self.refuse("its answer is no take-over")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.refuse(format!("it is not ready after {READY:?}"))),
        }
    }

    pub(crate) fn refuse(&mut self, reason: impl Into<String>) -> RestartError {
        self.answered = true;
        self.wire.refuse(reason)
    }

    /// The last word: what was opened since, and that it is alone now.
    pub(crate) async fn leave(mut self, late: &[Socket]) -> Result<(), RestartError> {
        self.answered = true;
        match timeout(TAKE, self.wire.send_sockets(late)).await {
            Ok(sent) => sent.map_err(|error| self.wire.failed(error)),
            Err(_) => Err(self.wire.gone("does not take what it is given")),
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.answered {
            let reason = "it ends by itself and hands nothing over".to_owned();
            // Best effort: without it the other side sees the connection end.
            let _ = self.wire.send_now(&Message::Refused { reason });
        }
    }
}
