//! Mutual TLS on this sidecar's connections: who it is, who the other end has proved to be, and the connections themselves. What both
//! ends share is `outrigger_xds::tls`.

pub(crate) mod accept;
pub(crate) mod dial;
pub(crate) mod files;
pub(crate) mod peer;
mod session;
pub(crate) mod stream;
pub(crate) mod transport;

use std::str::FromStr;
use std::sync::Arc;

use outrigger_xds::hop;
use outrigger_xds::identity::{SpiffeId, TlsMode};
use outrigger_xds::model::{self, Protocol};
use outrigger_xds::tls::{Group, Identity, Peer};
use rustls_pki_types::ServerName;

pub(crate) use self::accept::Accepting;
use self::dial::Dialling;
use self::files::Watched;
use crate::config::tls::{ClusterTls, ListenerTls};

/// Who this sidecar is.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    /// In the mesh, if it takes part in TLS there.
    own: Option<Arc<Identity>>,
    files: Watched,
}

impl Tls {
    /// `own` is what a sidecar in the mesh proves itself by, once it has been enrolled.
    pub(crate) fn new(own: Option<Arc<Identity>>) -> Self {
        Self {
            own,
            files: Watched::default(),
        }
    }

    /// Who it is in the mesh.
    pub(crate) fn own(&self) -> Option<&Arc<Identity>> {
        self.own.as_ref()
    }

    /// What a listener takes by files.
    pub(crate) fn accepting(
        &self,
        asked: &ListenerTls,
        protocol: Protocol,
        hop: Option<&hop::Identity>,
    ) -> Accepting {
        Accepting::new(
            asked.mode,
            self.files.identity(&asked.files),
            Peer::Kin,
            protocol,
            &groups(&asked.groups),
            hop.map(|hop| &hop.targets[..]),
        )
    }

    /// What a listener of a task in the mesh takes: whoever is of its trust domain. Without an identity nobody is let in by TLS.
    pub(crate) fn accepting_in_mesh(
        &self,
        mode: TlsMode,
        protocol: Protocol,
        hop: Option<&hop::Identity>,
    ) -> Accepting {
        Accepting::new(
            mode,
            self.own.clone().unwrap_or_default(),
            Peer::OwnTrustDomain,
            protocol,
            &[],
            hop.map(|hop| &hop.targets[..]),
        )
    }

    /// How a cluster's endpoints are spoken to, as far as they take TLS.
    pub(crate) fn dialling(
        &self,
        cluster: &model::Cluster,
        by_files: Option<&ClusterTls>,
    ) -> Option<Dialling> {
        if let Some(asked) = by_files {
            let identity = self.files.identity(&asked.files);
            let groups = groups(&asked.groups);
            return Some(match SpiffeId::from_str(&asked.peer) {
                Ok(id) => Dialling::new(identity, Peer::OneOf(vec![id]), None, &groups),
                Err(_) => {
                    let name = ServerName::try_from(asked.peer.clone()).ok()?;
                    Dialling::new(identity, Peer::Dns, Some(name), &groups)
                }
            });
        }
        let own = self
            .own
            .as_ref()
            .filter(|_| !cluster.identities.is_empty())?;
        let peer = Peer::OneOf(cluster.identities.clone());
        Some(Dialling::new(Arc::clone(own), peer, None, &[]))
    }
}

/// They were checked as they were read.
fn groups(names: &[String]) -> Vec<Group> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}
