//! The server's end: one task per stream, woken by its client, by a publication or by the owner.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server as ads;
use futures_util::Stream as Streamed;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::{
    EPOCH_HEADER, Io, MAX_MESSAGE, NodeEvents, NodeInfo, PING_INTERVAL, PING_TIMEOUT, PeerIdentity,
    StreamId,
};
use crate::decode;
use crate::resource::ResourceType;
use crate::server::Stream;

/// At most one response per type is in flight, and one error ends the stream, so this never fills.
const RESPONSES: usize = 8;

type Reply = Result<discovery::DeltaDiscoveryResponse, Status>;

/// Serves ADS on `incoming` connections until `shutdown`; `epoch` goes out as `control_plane.identifier`. Who a node is proved to be
/// ([`NodeInfo::identity`], [`NodeInfo::certified`]) it takes from connections whose [`Connected::ConnectInfo`] is a [`PeerIdentity`].
pub async fn serve_ads<IO>(
    incoming: impl Streamed<Item = io::Result<IO>> + Send,
    events: Arc<impl NodeEvents>,
    epoch: String,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error>
where
    IO: Io + Connected + 'static,
{
    let (stop, stopped) = watch::channel(false);
    let service = ads::AggregatedDiscoveryServiceServer::new(Ads {
        events,
        epoch,
        stopped,
    });
    let service = service
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    // A connection ends gracefully only when its streams have ended, so they are told as well.
    let signal = async move {
        shutdown.await;
        stop.send_replace(true);
    };
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, signal)
        .await
}

struct Ads<E> {
    events: Arc<E>,
    epoch: String,
    stopped: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl<E: NodeEvents> ads::AggregatedDiscoveryService for Ads<E> {
    type StreamAggregatedResourcesStream =
        Pin<Box<dyn Streamed<Item = Result<discovery::DiscoveryResponse, Status>> + Send>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Reply>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let reason =
            "state-of-the-world ADS is not served by this version; use DeltaAggregatedResources";
        Err(Status::unimplemented(reason))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, stream) = mpsc::channel(RESPONSES);
        let events = Arc::clone(&self.events);
        let (epoch, stopped) = (self.epoch.clone(), self.stopped.clone());
        let peer = request.extensions().get().cloned().unwrap_or_default();
        let requests = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) =
                converse(&*events, epoch, peer, requests, &responses, stopped).await
            {
                // A client that is gone does not read why.
                let _ = responses.try_send(Err(status));
            }
        });
        let mut response = Response::new(ReceiverStream::new(stream));
        if let Ok(value) = MetadataValue::try_from(self.epoch.as_str()) {
            response.metadata_mut().insert(EPOCH_HEADER, value);
        }
        Ok(response)
    }
}

/// Says `disconnected` however the stream ends.
struct Conversing<'a, E: NodeEvents> {
    events: &'a E,
    id: StreamId,
}

impl<E: NodeEvents> Drop for Conversing<'_, E> {
    fn drop(&mut self) {
        self.events.disconnected(self.id);
    }
}

async fn converse<E: NodeEvents>(
    events: &E,
    epoch: String,
    peer: PeerIdentity,
    mut requests: Streaming<discovery::DeltaDiscoveryRequest>,
    responses: &mpsc::Sender<Reply>,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), Status> {
    let first = tokio::select! {
        first = requests.message() => first?,
        _ = stopped.wait_for(|stopped| *stopped) => return Err(shutting_down()),
    };
    let Some(mut first) = first else {
        return Ok(());
    };
    let node = first.node.take().map(|node| NodeInfo {
        identity: peer.identity,
        certified: peer.node,
        ..decode::node(node)
    });
    let node = node.filter(|node| !node.id.is_empty());
    let node = node.ok_or_else(|| Status::invalid_argument("node.id: is missing"))?;
    let id = events
        .connected(&node)
        .map_err(Status::failed_precondition)?;
    let connected = Conversing { events, id };
    let mut closed = pin!(events.closed(id));
    let mut published = events.namespace(&node.namespace);
    let mut stream = Stream::new(epoch);
    let mut acknowledged = 0;
    let mut request = Some(first);
    loop {
        if let Some(request) = request.take() {
            let rejections = stream.on_request(request);
            let refused = |error: crate::server::TooManyNames| error.to_string();
            for rejection in
                rejections.map_err(|error| Status::resource_exhausted(refused(error)))?
            {
                connected.events.rejected(id, rejection);
            }
        }
        let current = published.borrow_and_update().clone();
        if let Some(current) = current {
            while let Some(response) = stream.poll(&current.set, current.sequence) {
                let sent = responses.try_send(Ok(response));
                sent.map_err(|_| Status::resource_exhausted("responses are not read"))?;
            }
            if stream.acknowledged() > acknowledged {
                acknowledged = stream.acknowledged();
                events.acknowledged(id, acknowledged, stream.refused(ResourceType::Endpoints));
            }
        }
        tokio::select! {
            message = requests.message() => match message? {
                Some(message) => request = Some(message),
                None => return Ok(()),
            },
            changed = published.changed() => {
                changed.map_err(|_| Status::unavailable("the namespace is no longer published"))?;
            }
            () = &mut closed => return Err(Status::aborted("another stream has taken this node over")),
            _ = stopped.wait_for(|stopped| *stopped) => return Err(shutting_down()),
            () = responses.closed() => return Ok(()),
        }
    }
}

fn shutting_down() -> Status {
    Status::unavailable("the control server is shutting down")
}
