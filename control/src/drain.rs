//! Drains: what leaves is published as DRAINING first, and whoever could still call it is waited for.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::ads::{Awaited, Nodes};
use crate::publish::Publisher;
use crate::registry::{Altered, Context, Error, Registry, Who};
use crate::writer::Writer;

/// How long acknowledgements are waited for; those who have not answered by then are left out, and named.
const BOUND: Duration = Duration::from_secs(10);

/// Between attempts to finish a deregistration.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Drains nodes and deregisters instances.
#[derive(Clone)]
pub(crate) struct Drains {
    pub(crate) writer: Writer,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) nodes: Arc<Nodes>,
}

/// Who knows of a drain.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    acknowledged: usize,
    /// Those who are waited for: with a stream, or expected back.
    connected: usize,
    left_out: Vec<String>,
}

impl Drains {
    /// The same, which drain what `who` may.
    pub(crate) fn on_behalf_of(&self, who: Who) -> Self {
        Self {
            writer: self.writer.on_behalf_of(who),
            ..self.clone()
        }
    }

    /// Publishes the node's instances as DRAINING; answers when every other node that may be calling knows, or the bound is reached.
    pub(crate) async fn drain_node(&self, node: String) -> Result<Told, Error> {
        let (drained, who) = (node.clone(), self.writer.who().clone());
        let mut altered = self
            .writer
            .call(move |registry, _| registry.drain_node(&who, &drained))
            .await?;
        self.nodes.leaves(&node);
        if altered.is_empty()
            && let Some(namespace) = self.nodes.namespace_of(&node)
        {
            // Deregistered already: whoever knows that knows enough.
            altered.insert(namespace, Default::default());
        }
        let told = self.told(&altered, Some(&node)).await;
        let (acknowledged, connected) = (told.acknowledged, told.connected);
        tracing::info!(node, left_out = ?told.left_out, "drained: {acknowledged}/{connected} acknowledged");
        Ok(told)
    }

    /// `DeregisterInstance`; answers the operation's id at once. The instance drains, and is dropped when every other node
    /// that may be calling knows that, or the bound is reached.
    pub(crate) async fn deregister(
        &self,
        service: String,
        instance: String,
    ) -> Result<String, Error> {
        let own = self.node_of(&service, &instance);
        if !self.is_watched(&service, own.as_deref()) {
            return self
                .writer
                .call(move |registry, context| {
                    registry.deregister_instance(context, &service, &instance)
                })
                .await;
        }
        let name = instance.clone();
        let begun = self
            .writer
            .call(move |registry, context| {
                registry.begin_deregistration(context, &service, &instance)
            })
            .await?;
        if let Some(altered) = begun.altered {
            let (drains, operation) = (self.clone(), begun.operation.clone());
            tokio::spawn(async move {
                let told = drains.told(&altered, own.as_deref()).await;
                let (acknowledged, connected) = (told.acknowledged, told.connected);
                tracing::info!(instance = name, left_out = ?told.left_out, "deregistered: {acknowledged}/{connected} acknowledged");
                drains.end(operation).await;
            });
        }
        Ok(begun.operation)
    }

    /// Ends what an earlier run of the server began. Who was connected to it is not known, so all of them get the whole bound.
    pub(crate) async fn resume(&self) {
        let unfinished = self.writer.read().unfinished();
        if unfinished.is_empty() {
            return;
        }
        tokio::time::sleep(BOUND).await;
        for operation in unfinished {
            self.end(operation).await;
        }
    }

    async fn end(&self, operation: String) {
        // Whoever began it was allowed to.
        let writer = self.writer.on_behalf_of(Who::Anyone);
        let ended = || {
            let operation = operation.clone();
            let end = move |registry: &Registry, _: &mut Context<'_>| {
                registry.end_deregistration(&operation)
            };
            writer.call(end)
        };
        until_done(ended).await;
    }

    fn node_of(&self, service: &str, instance: &str) -> Option<String> {
        let registry = self.writer.read();
        let row = registry.instance(service, instance).ok()?;
        row.node().map(str::to_owned)
    }

    fn is_watched(&self, service: &str, except: Option<&str>) -> bool {
        let namespace = {
            let registry = self.writer.read();
            let service = registry.service(service);
            let namespace = service.and_then(|service| registry.namespace(&service.namespace_id));
            namespace.map(|namespace| namespace.name.clone())
        };
        namespace.is_ok_and(|namespace| !self.nodes.callers(&namespace, except).is_empty())
    }

    /// Waits until everybody who may be calling, except one, has acknowledged what was committed before.
    async fn told(&self, altered: &Altered, except: Option<&str>) -> Told {
        self.publisher.flushed().await;
        let mut awaited: Vec<Awaited<'_>> = altered
            .iter()
            .flat_map(|(namespace, sets)| self.nodes.awaited(namespace, sets, except))
            .collect();
        // At the bound it goes on without the rest.
        let _bounded = tokio::time::timeout(BOUND, self.nodes.answered(&mut awaited)).await;
        let left_out = awaited.iter().filter(|awaited| !awaited.knows);
        let left_out: Vec<_> = left_out.map(|awaited| awaited.node.clone()).collect();
        Told {
            acknowledged: awaited.len() - left_out.len(),
            connected: awaited.len(),
            left_out,
        }
    }
}

/// Tries again what could not be written, until this server ends; the next one finishes it then.
async fn until_done<F: Future<Output = Result<(), Error>>>(attempt: impl Fn() -> F) {
    let mut pause = FIRST_PAUSE;
    while let Err(error) = attempt().await {
        if matches!(error, Error::OperationNotFound(_)) {
            return;
        }
        tracing::error!(%error, ?pause, "a deregistration was not finished; it is tried again");
        tokio::time::sleep(pause).await;
        pause = LAST_PAUSE.min(pause * 2);
    }
}

#[cfg(test)]
mod tests;
