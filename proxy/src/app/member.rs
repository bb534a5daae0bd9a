//! Who this process is in the mesh, and what keeps it so.

use std::sync::Arc;

use outrigger_xds::identity::SpiffeId;
use outrigger_xds::tls::{Identity, alpn};
use tokio::task::JoinSet;

use super::Parts;
use crate::config::identity::Source;
use crate::config::{MeshConfig, MeshIdentity};
use crate::mesh::client::Dialler;
use crate::mesh::identity::{EnrolConfig, Following, Keeper, control_of, control_tls};
use crate::mesh::state::StateDir;

/// A process that takes part in mutual TLS.
pub(super) struct Member {
    identity: Arc<Identity>,
    /// Who the control servers must be.
    server: SpiffeId,
    keeping: Keeping,
}

enum Keeping {
    Enrolled(Box<Keeper>),
    Files(Box<Following>),
}

impl Member {
    /// `own` is brought to what is known at once: a certificate that was kept, files that are there.
    pub(super) fn new(
        parts: &Parts,
        mesh: &MeshConfig,
        (asked, own): (&MeshIdentity, &Arc<Identity>),
        state: Option<&StateDir>,
    ) -> Self {
        let keeping = match &asked.config.source {
            Source::Enrol(enrolment) => {
                let enrol = EnrolConfig {
                    enrolment: enrolment.clone(),
                    service: asked.service.clone(),
                    node: mesh.task_id.clone(),
                    control: mesh.control.clone(),
                    resolver: Arc::clone(&parts.resolver),
                    state: state.cloned(),
                    ready: Arc::clone(&parts.ready),
                    counts: Arc::clone(&parts.metrics.identity),
                };
                Keeping::Enrolled(Box::new(Keeper::new(enrol, Arc::clone(own))))
            }
            Source::Files(files) => {
                let (own, ready) = (Arc::clone(own), Arc::clone(&parts.ready));
                let domain = &asked.config.trust_domain;
                Keeping::Files(Box::new(Following::new(files, domain, own, ready)))
            }
        };
        Self {
            identity: Arc::clone(own),
            server: control_of(&asked.service),
            keeping,
        }
    }

    /// For the control servers' API, and for their ADS.
    pub(super) fn diallers(&self, parts: &Parts) -> [Dialler; 2] {
        [alpn::HTTP1, alpn::H2].map(|protocol| Dialler {
            resolver: Arc::clone(&parts.resolver),
            tls: Some(control_tls(
                &self.identity,
                self.server.clone(),
                &[protocol],
            )),
        })
    }

    /// Keeps it good for as long as the conversation with the control server lasts.
    pub(super) fn keep(self, conversation: &mut JoinSet<()>) {
        match self.keeping {
            Keeping::Enrolled(keeper) => conversation.spawn(keeper.run()),
            Keeping::Files(following) => conversation.spawn(following.run()),
        };
    }
}

/// Returns when there is somebody to connect as.
pub(super) async fn known(identity: &Identity) {
    let mut changed = identity.changed();
    // It cannot end: the sender lives as long as the identity.
    let _ = changed.wait_for(|_| identity.is_ready()).await;
}
