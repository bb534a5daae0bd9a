//! Joining the mesh: everything is prepared from what is known already, and only then anything said to the control server.

use std::sync::Arc;

use outrigger_xds::transport::{NodeInfo, SubscribeConfig, subscribe};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::member::{self, Member};
use super::restarting::Ending;
use super::running::Shared;
use super::{Parts, StartError};
use crate::config::accepted::Accepted;
use crate::config::{Config, MeshConfig};
use crate::mesh::announce::{AnnounceConfig, Announcer, Standing};
use crate::mesh::client::{self, Client, Dialler};
use crate::mesh::document;
use crate::mesh::names::Vips;
use crate::mesh::state::{StateDir, fresh_tokens, random_hex};
use crate::mesh::subscribe::{Subscription, SubscriptionConfig};

/// A member of the mesh that runs on what it had last, and has said nothing yet.
pub(super) struct Joining {
    pub(super) subscription: Subscription<Shared>,
    node: NodeInfo,
    servers: Vec<String>,
    dialler: Dialler,
    member: Option<Member>,
    announce: Option<AnnounceConfig>,
}

/// Prepares everything for [`Joining::join`].
pub(super) fn join_mesh(
    parts: &Parts,
    config: &Config,
    mesh: &MeshConfig,
    drain_asked: &CancellationToken,
) -> Result<Joining, StartError> {
    let state = config.state.as_deref().map(StateDir::open).transpose()?;
    let asked = mesh.identity.as_ref().zip(parts.identity.as_ref());
    let member = asked.map(|asked| Member::new(parts, mesh, asked, state.as_ref()));
    let plain = || Dialler::plain(Arc::clone(&parts.resolver));
    let diallers = member.as_ref().map(|member| member.diallers(parts));
    let [api, ads] = diallers.unwrap_or_else(|| [plain(), plain()]);
    let ports = match &mesh.document {
        Some(document) => {
            let kept = state
                .as_ref()
                .map(|state| state.load_map("ingress-ports"))
                .transpose()?
                .unwrap_or_default();
            let inherited = parts.running.lock().inherited.addresses();
            let ports = document::ingress_ports(document, mesh.address, &kept, &inherited)?;
            if let Some(state) = &state {
                state.save_map("ingress-ports", &ports)?;
            }
            ports
        }
        None => Default::default(),
    };
    let hop = state
        .as_ref()
        .map(StateDir::hop_tokens)
        .transpose()?
        .unwrap_or_else(fresh_tokens);
    let base = mesh
        .document
        .as_ref()
        .map_or_else(Accepted::default, |document| {
            document::ingress(document, mesh, &ports, hop)
        });
    let secret = state
        .as_ref()
        .map(StateDir::node_secret)
        .transpose()?
        .unwrap_or_else(|| random_hex(32));
    let service = mesh
        .document
        .as_ref()
        .map_or("client", |document| document.service_name.as_str());
    let node = NodeInfo {
        id: mesh.task_id.clone(),
        service: service.to_owned(),
        zone: mesh.zone.clone(),
        namespace: mesh.namespace.clone(),
        incarnation: random_hex(8),
        secret,
        ..NodeInfo::default()
    };
    let reconnected = Arc::new(watch::Sender::new(0));
    let standing = Standing {
        taken_out: drain_asked.clone(),
        ..Standing::default()
    };
    let subscription = SubscriptionConfig {
        base,
        namespace: mesh.namespace.clone(),
        vips: Vips::new(config.vip_cidr, state.clone())?,
        container_ports: mesh
            .document
            .as_ref()
            .map(|document| document.container_ports())
            .unwrap_or_default(),
        hosts_file: config.hosts_file.clone(),
        state,
        ready: Arc::clone(&parts.ready),
        reconnected: Arc::clone(&reconnected),
        task_id: mesh.task_id.clone(),
        standing: standing.clone(),
    };
    let announce = (!mesh.control.is_empty()).then(|| AnnounceConfig {
        mesh: mesh.clone(),
        ports,
        hop,
        identity: parts.identity.clone(),
        modes: parts.running.lock().modes(),
        client: Client::new(mesh.control.clone(), api),
        reconnected,
        standing,
    });
    Ok(Joining {
        subscription: Subscription::new(subscription, parts.running.clone()),
        node,
        servers: mesh.xds.iter().map(ToString::to_string).collect(),
        dialler: ads,
        member,
        announce,
    })
}

impl Joining {
    /// Subscribes to the control server and, when there is something to announce, announces it.
    pub(super) fn join(
        mut self,
        parts: &Parts,
        drain_asked: &CancellationToken,
        ending: &mut Ending,
    ) -> Option<Arc<Announcer>> {
        ending.writing = self.subscription.writing();
        let subscribing = SubscribeConfig {
            servers: self.servers,
            node: self.node,
            always: self.subscription.always(),
            initial: self.subscription.initial(),
        };
        if let Some(member) = self.member {
            member.keep(&mut ending.conversation);
        }
        let (dial, identity) = (client::dial(self.dialler), parts.identity.clone());
        let subscription = self.subscription;
        ending.conversation.spawn(async move {
            if let Some(identity) = identity {
                member::known(&identity).await;
            }
            subscribe(subscribing, dial, subscription).await;
        });
        let announcer = Arc::new(Announcer::new(self.announce?, Arc::clone(&parts.ready)));
        let (announcing, until) = (Arc::clone(&announcer), drain_asked.clone());
        ending
            .conversation
            .spawn(async move { announcing.run(until).await });
        Some(announcer)
    }
}
