//! What nodes prove to be, and whether they know whom to trust.

use std::collections::BTreeMap;

use outrigger_xds::identity::SpiffeId;
use outrigger_xds::transport::NodeInfo;

use super::{Node, Nodes, Stream};

impl Node {
    /// It may get an identity while it runs, and keeps it then.
    pub(super) fn is_another_than(&self, identity: Option<&SpiffeId>) -> bool {
        self.identity.is_some() && self.identity.as_ref() != identity
    }
}

impl Nodes {
    /// Where TLS is disabled nobody can prove anything.
    pub(crate) const fn without_identities(mut self) -> Self {
        self.identities = false;
        self
    }

    /// What a node that is or was connected has proved to be.
    pub(crate) fn identity_of(&self, node: &str) -> Option<SpiffeId> {
        let inner = self.lock();
        inner.nodes.get(node).and_then(|node| node.identity.clone())
    }

    /// The nodes that are connected and have not acknowledged the sequence of their namespace, or do not take `resource`.
    pub(crate) fn lagging(&self, sequences: &BTreeMap<String, u64>, resource: &str) -> Vec<String> {
        let inner = self.lock();
        let lags = |name: &str, node: &Node| {
            let due = sequences.get(&node.namespace).copied().unwrap_or(0);
            let stream = inner.stream_of(name);
            let refused = node.nacks.iter().any(|nack| nack.resource == resource);
            let behind = |stream: &Stream| stream.acknowledged == 0 || stream.acknowledged < due;
            stream.is_some_and(|stream| behind(stream) || refused)
        };
        let lagging = inner.nodes.iter().filter(|(name, node)| lags(name, node));
        lagging.map(|(name, _)| name.clone()).collect()
    }

    /// A node is what its certificate says, and has no instance that takes TLS as another.
    pub(super) fn is_itself(&self, node: &NodeInfo) -> Result<(), String> {
        let registry = self.writer.read();
        if let Some(other) = registry.other_identity_bound_to(&node.id, node.identity.as_ref()) {
            let ours = match &node.identity {
                Some(identity) => format!("this connection's certificate is for {identity}"),
                None => "this connection has no certificate".to_owned(),
            };
            return Err(format!("node {:?} is one of {other}, and {ours}", node.id));
        }
        if let Some(certified) = node.certified.as_ref().filter(|own| **own != node.id) {
            return Err(format!(
                "node {:?}: this connection's certificate is for node {certified:?}",
                node.id
            ));
        }
        let Some(identity) = &node.identity else {
            return Ok(());
        };
        let says = (node.namespace.as_str(), node.service.as_str());
        if identity.as_service() == Some(says) {
            return Ok(());
        }
        let (namespace, service) = says;
        Err(format!(
            "node {:?} says it is of service {service:?} in namespace {namespace:?}, its certificate is for {identity}",
            node.id
        ))
    }
}
