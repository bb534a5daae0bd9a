//! ADS over gRPC, the only part with I/O: what its two ends promise each other and their owners.

mod io;
mod sds;
mod serve;
mod subscribe;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
pub use tonic::transport::Uri;

pub use io::{Accepted, BoxedIo, Io, PeerIdentity, plain};
pub use sds::{Held, Secrets, serve_sds};
pub use serve::serve_ads;
pub use subscribe::subscribe;

use crate::identity::SpiffeId;
use crate::resource::{Rejection, Resource, ResourceType};
use crate::set::ResourceSet;

/// One published state of a namespace.
#[derive(Debug, Clone)]
pub struct Published {
    /// Monotonic within one control server, from 1.
    pub sequence: u64,
    /// What is in force from then on.
    pub set: Arc<ResourceSet>,
}

/// Who a subscriber is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Task id.
    pub id: String,
    /// ECS service name, or `client`.
    pub service: String,
    /// Availability zone; empty when unknown.
    pub zone: String,
    /// The namespace whose resources it wants.
    pub namespace: String,
    /// Random per start of the sidecar.
    pub incarnation: String,
    /// Kept in the sidecar's state directory; proves that a new incarnation is the same node.
    pub secret: String,
    /// Whom the certificate of its connection is for. A server knows it of the connection: the wire says nothing of it.
    #[serde(skip)]
    pub identity: Option<SpiffeId>,
    /// The node that the certificate of its connection is for, if it says one; known as `identity` is.
    #[serde(skip)]
    pub certified: Option<String>,
}

/// One ADS stream, unique within the control server's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// What the control server hears of streams, and what it gives them.
pub trait NodeEvents: Send + Sync + 'static {
    /// The first request of a stream; the error is the reason of a refusal.
    fn connected(&self, node: &NodeInfo) -> Result<StreamId, String>;
    /// Everything this stream subscribes to is answered at this sequence or later, and in force except what it refuses: of the
    /// endpoint sets these (an empty name may be any).
    fn acknowledged(&self, stream: StreamId, sequence: u64, refused: &BTreeSet<String>);
    /// The stream does not take one resource.
    fn rejected(&self, stream: StreamId, rejection: Rejection);
    /// The stream is over; called once for every stream that was connected.
    fn disconnected(&self, stream: StreamId);
    /// A namespace's published states; while it is `None` nothing is answered.
    fn namespace(&self, namespace: &str) -> watch::Receiver<Option<Arc<Published>>>;
    /// Resolves when the control server wants this stream ended (takeover).
    fn closed(&self, stream: StreamId) -> impl Future<Output = ()> + Send;
}

/// What a subscriber wants and has.
#[derive(Debug, Clone)]
pub struct SubscribeConfig {
    /// `http://host:port` or `https://host:port`, tried in turn.
    pub servers: Vec<String>,
    /// Who we are.
    pub node: NodeInfo,
    /// Wanted whoever refers to them: the trust bundle and the policies of this sidecar's own services.
    pub always: Vec<(ResourceType, String)>,
    /// What was accepted last (from disk): not sent again if it has not changed.
    pub initial: Vec<Resource>,
}

/// Whether there is a control server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// A server has answered.
    Connected {
        /// As written in [`SubscribeConfig::servers`].
        server: String,
        /// Its store's epoch (`control_plane.identifier`); empty if it has none.
        epoch: String,
    },
    /// No stream.
    Disconnected {
        /// What ended it or kept it from beginning.
        reason: String,
        /// When the next attempt is made.
        retry_in: Duration,
    },
}

/// What the sidecar does with resources. Called from one task, never concurrently.
pub trait Sink: Send {
    /// In make-before-break order; all in force when this returns, except what it rejects, whose last good version stays.
    fn apply(
        &mut self,
        changed: Vec<Resource>,
        removed: Vec<(ResourceType, String)>,
    ) -> Vec<Rejection>;
    /// The connection to the control server came or went.
    fn connection(&mut self, state: ConnectionState);
}

/// Opens a connection to the host and port of a server's URL, without Nagle's delay and in TLS where the URL is `https`; the sidecar
/// resolves and tries all addresses.
pub type Dial = Arc<dyn Fn(Uri) -> BoxFuture<'static, std::io::Result<BoxedIo>> + Send + Sync>;

/// Silence after which either end sends an HTTP/2 PING.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Time for the answer; without one the connection is over.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest message either end takes.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// The response header with the epoch: a server that has nothing new to say sends no message that could carry it.
const EPOCH_HEADER: &str = "outrigger-epoch";
