//! The nodes: who may have a stream, what each has acknowledged or refused, and whose liveness has expired.

mod identity;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_xds::identity::SpiffeId;
use outrigger_xds::transport::{NodeEvents, NodeInfo, Published, StreamId};
use outrigger_xds::{Rejection, ResourceType};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::publish::Publisher;
use crate::registry::Liveness;
use crate::writer::Writer;

/// Streams at once.
const MAX_STREAMS: usize = 20_000;
/// Rejections remembered per node: one per resource, the oldest go first.
const MAX_NACKS: usize = 64;
const TICK: Duration = Duration::from_secs(1);
/// How long after the end of its stream a node is expected back: it has what it had, and goes on calling.
const RETURN: Duration = Duration::from_secs(10);

/// Every node that is or was connected.
pub(crate) struct Nodes {
    inner: Mutex<Inner>,
    publisher: Arc<Publisher>,
    writer: Writer,
    /// Whether nodes can prove who they are.
    identities: bool,
    /// Sent to whenever a stream acknowledges something or ends.
    progress: watch::Sender<()>,
    max_streams: usize,
}

struct Inner {
    next: u64,
    closing: bool,
    streams: BTreeMap<StreamId, Stream>,
    nodes: BTreeMap<String, Node>,
    liveness: Liveness,
}

struct Stream {
    node: String,
    acknowledged: u64,
    /// Endpoint sets whose newest version it does not take; an empty name may be any.
    refused: BTreeSet<String>,
    close: watch::Sender<bool>,
}

impl Stream {
    fn refuses(&self, changed: &BTreeSet<String>) -> bool {
        self.refused.contains("") || !self.refused.is_disjoint(changed)
    }
}

#[derive(Default)]
struct Node {
    namespace: String,
    secret: String,
    /// What its connection proved.
    identity: Option<SpiffeId>,
    stream: Option<StreamId>,
    /// When its last stream ended.
    ended: Option<Instant>,
    /// It has said that it drains: its stream ends because it does.
    leaving: bool,
    acknowledged: u64,
    nacks: VecDeque<Nack>,
    reports: Vec<String>,
}

impl Node {
    fn is_expected_back(&self, now: Instant) -> bool {
        let ended = |at| now.saturating_duration_since(at) < RETURN;
        !self.leaving && self.ended.is_some_and(ended)
    }
}

/// A resource that a node does not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Nack {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) resource: String,
    pub(crate) reason: String,
}

/// What the operator is told of a node.
#[derive(Debug, Serialize)]
pub(crate) struct NodeReport {
    node: String,
    namespace: String,
    connected: bool,
    acked_sequence: u64,
    nacks: Vec<Nack>,
    reports: Vec<String>,
}

/// A node that is to acknowledge a sequence.
#[derive(Debug)]
pub(crate) struct Awaited<'a> {
    pub(crate) node: String,
    /// It has acknowledged, and refuses none of what has changed.
    pub(crate) knows: bool,
    sequence: u64,
    changed: &'a BTreeSet<String>,
}

impl Nodes {
    pub(crate) fn new(publisher: Arc<Publisher>, writer: Writer, now: Instant) -> Self {
        Self::with_max_streams(publisher, writer, now, MAX_STREAMS)
    }

    fn with_max_streams(
        publisher: Arc<Publisher>,
        writer: Writer,
        now: Instant,
        max_streams: usize,
    ) -> Self {
        let inner = Inner {
            next: 0,
            closing: false,
            streams: BTreeMap::new(),
            nodes: BTreeMap::new(),
            liveness: Liveness::new(now),
        };
        Self {
            inner: Mutex::new(inner),
            publisher,
            writer,
            identities: true,
            progress: watch::Sender::new(()),
            max_streams,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who may be calling into a namespace, except one: whoever is connected, or was until a moment ago, or, in the first minute of
    /// this server, has instances and has not come yet. Clients without instances that an earlier run knew are not known.
    pub(crate) fn callers(&self, namespace: &str, except: Option<&str>) -> BTreeSet<String> {
        let registry = self.writer.read();
        let inner = self.lock();
        let now = Instant::now();
        let known = inner.nodes.iter().filter(|(_, node)| {
            node.namespace == namespace && (node.stream.is_some() || node.is_expected_back(now))
        });
        let starting = inner.liveness.is_starting(now);
        let unseen = registry.nodes_of(namespace);
        let unseen = unseen.filter(|node| starting && !inner.nodes.contains_key(*node));
        let all = known.map(|(name, _)| name.as_str()).chain(unseen);
        let others = all.filter(|name| except != Some(name));
        others.map(str::to_owned).collect()
    }

    /// The callers of a namespace, except one, each to acknowledge what is published now; `changed` are endpoint sets.
    pub(crate) fn awaited<'a>(
        &self,
        namespace: &str,
        changed: &'a BTreeSet<String>,
        except: Option<&str>,
    ) -> Vec<Awaited<'a>> {
        let sequence = self.publisher.sequence(namespace);
        let callers = self.callers(namespace, except).into_iter();
        let awaited = callers.map(|node| Awaited {
            node,
            knows: false,
            sequence,
            changed,
        });
        awaited.collect()
    }

    /// Waits until each node has answered. One without a stream is waited for as well, unless it left.
    pub(crate) async fn answered(&self, awaited: &mut [Awaited<'_>]) {
        let mut progress = self.progress.subscribe();
        loop {
            let mut open = false;
            {
                let inner = self.lock();
                for awaited in awaited.iter_mut().filter(|awaited| !awaited.knows) {
                    let Some(stream) = inner.stream_of(&awaited.node) else {
                        let node = inner.nodes.get(&awaited.node);
                        open |= !node.is_some_and(|node| node.leaving);
                        continue;
                    };
                    if stream.acknowledged < awaited.sequence {
                        open = true;
                    } else {
                        awaited.knows = !stream.refuses(awaited.changed);
                    }
                }
            }
            if !open || progress.changed().await.is_err() {
                return;
            }
        }
    }

    /// A node drains: when its stream ends it is not expected back.
    pub(crate) fn leaves(&self, node: &str) {
        if let Some(node) = self.lock().nodes.get_mut(node) {
            node.leaving = true;
        }
        self.progress.send_replace(());
    }

    /// The namespace of a node that is or was connected.
    pub(crate) fn namespace_of(&self, node: &str) -> Option<String> {
        let inner = self.lock();
        inner.nodes.get(node).map(|node| node.namespace.clone())
    }

    /// What a sidecar says it could not do; false when the node is not known.
    pub(crate) fn report(&self, node: &str, problems: Vec<String>) -> bool {
        let mut inner = self.lock();
        let Some(known) = inner.nodes.get_mut(node) else {
            return false;
        };
        if known.reports != problems {
            tracing::warn!(node, ?problems, "a sidecar reports problems");
        }
        known.reports = problems;
        true
    }

    pub(crate) fn reports(&self) -> Vec<NodeReport> {
        let inner = self.lock();
        let report = |(name, node): (&String, &Node)| NodeReport {
            node: name.clone(),
            namespace: node.namespace.clone(),
            connected: node.stream.is_some(),
            acked_sequence: node.acknowledged,
            nacks: node.nacks.iter().cloned().collect(),
            reports: node.reports.clone(),
        };
        inner.nodes.iter().map(report).collect()
    }

    /// Ends every stream and refuses new ones.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closing = true;
        for stream in inner.streams.values() {
            stream.close.send_replace(true);
        }
    }

    /// Looks after liveness for ever.
    pub(crate) async fn run(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut held_back = 0;
        loop {
            ticks.tick().await;
            self.tick(Instant::now(), &mut held_back).await;
        }
    }

    async fn tick(&self, now: Instant, held_back: &mut usize) {
        let verdict = {
            let registry = self.writer.read();
            let mut inner = self.lock();
            let bound: BTreeSet<&str> = registry.bound_nodes().collect();
            inner.nodes.retain(|name, node| {
                let bound = bound.contains(name.as_str());
                bound || node.stream.is_some() || node.is_expected_back(now)
            });
            inner
                .liveness
                .tick(now, bound.into_iter(), registry.lost_nodes())
        };
        if verdict.held_back > 0 && *held_back == 0 {
            tracing::warn!(
                nodes = verdict.held_back,
                "too many nodes went silent at once; none is marked lost until that changes"
            );
        } else if verdict.held_back == 0 && *held_back > 0 {
            tracing::info!("nodes are marked lost again when they go silent");
        }
        *held_back = verdict.held_back;
        if !verdict.lost.is_empty() {
            tracing::warn!(nodes = ?verdict.lost, "lost: no stream within the grace");
            let lost = verdict.lost;
            if let Err(error) = self
                .writer
                .call(move |registry, _| registry.lose(&lost))
                .await
            {
                tracing::error!(%error, "nodes could not be marked lost");
            }
        }
        if !verdict.back.is_empty() {
            found(self.writer.clone(), verdict.back).await;
        }
    }
}

async fn found(writer: Writer, nodes: Vec<String>) {
    if let Err(error) = writer.call(move |registry, _| registry.find(&nodes)).await {
        tracing::error!(%error, "nodes that came back are still marked lost; tried again soon");
    }
}

impl NodeEvents for Nodes {
    fn connected(&self, node: &NodeInfo) -> Result<StreamId, String> {
        if node.id.is_empty() {
            return Err("node.id is empty".to_owned());
        }
        if node.namespace.is_empty() {
            return Err(
                "node.metadata.namespace is missing: it says whose resources are wanted".to_owned(),
            );
        }
        if self.identities {
            self.is_itself(node)?;
        }
        let lost = self.writer.read().is_lost(&node.id);
        let stream = self.lock().connect(node, self.max_streams)?;
        tracing::info!(
            node = node.id,
            namespace = node.namespace,
            stream = stream.0,
            "connected"
        );
        if lost {
            tokio::spawn(found(self.writer.clone(), vec![node.id.clone()]));
        }
        Ok(stream)
    }

    fn acknowledged(&self, stream: StreamId, sequence: u64, refused: &BTreeSet<String>) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if let Some(stream) = inner.streams.get_mut(&stream) {
            stream.acknowledged = stream.acknowledged.max(sequence);
            stream.refused.clone_from(refused);
            if let Some(node) = inner.nodes.get_mut(&stream.node) {
                node.acknowledged = stream.acknowledged;
            }
        }
        self.progress.send_replace(());
    }

    fn rejected(&self, stream: StreamId, rejection: Rejection) {
        let mut inner = self.lock();
        let Some(name) = inner.streams.get(&stream).map(|stream| stream.node.clone()) else {
            return;
        };
        tracing::warn!(
            node = name,
            resource = rejection.name,
            field = rejection.field,
            reason = rejection.reason,
            "rejected"
        );
        let Some(node) = inner.nodes.get_mut(&name) else {
            return;
        };
        let kind = ResourceType::from_type_url(&rejection.type_url)
            .map_or(rejection.type_url, |kind| format!("{kind:?}"));
        let reason = if rejection.field.is_empty() {
            rejection.reason
        } else {
            format!("{}: {}", rejection.field, rejection.reason)
        };
        node.nacks
            .retain(|nack| nack.kind != kind || nack.resource != rejection.name);
        if node.nacks.len() >= MAX_NACKS {
            node.nacks.pop_front();
        }
        node.nacks.push_back(Nack {
            kind,
            resource: rejection.name,
            reason,
        });
    }

    fn disconnected(&self, stream: StreamId) {
        let mut inner = self.lock();
        let Some(ended) = inner.streams.remove(&stream) else {
            return;
        };
        // After a takeover the node belongs to its new stream.
        if let Some(node) = inner.nodes.get_mut(&ended.node)
            && node.stream == Some(stream)
        {
            let now = Instant::now();
            node.stream = None;
            node.ended = Some(now);
            inner.liveness.disconnected(&ended.node, now);
            tracing::info!(node = ended.node, stream = stream.0, "disconnected");
        }
        drop(inner);
        self.progress.send_replace(());
    }

    fn namespace(&self, namespace: &str) -> watch::Receiver<Option<Arc<Published>>> {
        self.publisher.watch(namespace)
    }

    fn closed(&self, stream: StreamId) -> impl Future<Output = ()> + Send {
        let closing = self
            .lock()
            .streams
            .get(&stream)
            .map(|stream| stream.close.subscribe());
        async move {
            if let Some(mut closing) = closing {
                // An error means that the stream is no longer known: it is over all the same.
                let _over = closing.wait_for(|close| *close).await;
            }
        }
    }
}

impl Inner {
    fn stream_of(&self, node: &str) -> Option<&Stream> {
        self.streams.get(&self.nodes.get(node)?.stream?)
    }

    fn connect(&mut self, info: &NodeInfo, max_streams: usize) -> Result<StreamId, String> {
        if self.closing {
            return Err("the control server is stopping".to_owned());
        }
        if self.streams.len() >= max_streams {
            return Err(format!("there are already {max_streams} streams"));
        }
        let known = self.nodes.entry(info.id.clone()).or_default();
        if let Some(old) = known.stream {
            if known.secret != info.secret || known.is_another_than(info.identity.as_ref()) {
                return Err(format!(
                    "node id {:?} is in use by another sidecar that is connected",
                    info.id
                ));
            }
            if let Some(old) = self.streams.get(&old) {
                old.close.send_replace(true);
            }
        }
        self.next += 1;
        let stream = StreamId(self.next);
        *known = Node {
            namespace: info.namespace.clone(),
            secret: info.secret.clone(),
            identity: info.identity.clone(),
            stream: Some(stream),
            leaving: known.leaving && known.secret == info.secret,
            ..Node::default()
        };
        self.liveness.connected(&info.id);
        self.streams.insert(
            stream,
            Stream {
                node: info.id.clone(),
                acknowledged: 0,
                refused: BTreeSet::new(),
                close: watch::Sender::new(false),
            },
        );
        Ok(stream)
    }
}

#[cfg(test)]
mod tests;
