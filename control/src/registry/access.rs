//! Who may change what: a plan is looked at before it is committed.

use std::sync::Arc;

use outrigger_xds::identity::{SpiffeId, TlsMode};

use super::{Change, Error, Instance, Registry, Service, declaration};

/// On whose behalf something is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Who {
    /// This server itself, or anybody where there are no identities.
    Anyone,
    /// Whoever operates it.
    Operator,
    /// A task with a certificate.
    Task {
        identity: SpiffeId,
        /// The node that the certificate was signed for, if it says so.
        node: Option<String>,
    },
    /// Somebody without a certificate.
    Nobody,
    /// Somebody who may change nothing, and why.
    Reader(&'static str),
}

impl Who {
    fn refuse<T>(&self, what: &str, reason: &str) -> Result<T, Error> {
        let who = match self {
            Self::Anyone => "this server",
            Self::Operator => "the operator",
            Self::Task { identity, .. } => identity.as_str(),
            Self::Nobody | Self::Reader(_) => "whoever has no certificate",
        };
        let message = format!("{who} may not change {what}: {reason}");
        Err(Error::AccessDenied(message))
    }

    fn is(&self, id: &str) -> bool {
        matches!(self, Self::Task { identity, .. } if identity.as_str() == id)
    }

    /// Whether a node is theirs, of which another identity is known or none.
    pub(crate) fn may_speak_for(&self, node: &str, known: Option<&SpiffeId>) -> Result<(), Error> {
        let what = format!("node {node:?}");
        match self {
            Self::Anyone | Self::Operator => Ok(()),
            Self::Reader(reason) => self.refuse(&what, reason),
            Self::Task {
                node: Some(own), ..
            } if own != node => self.refuse(&what, &format!("its certificate is for node {own:?}")),
            Self::Task { .. } | Self::Nobody => match known {
                Some(known) if !self.is(known.as_str()) => {
                    self.refuse(&what, &format!("it is one of {known}"))
                }
                _ => Ok(()),
            },
        }
    }
}

impl Registry {
    /// Whether `who` may change this. What has an identity is changed by that identity alone, and by operators.
    pub(crate) fn permit(&self, who: &Who, changes: &[Change]) -> Result<(), Error> {
        match who {
            Who::Anyone | Who::Operator => return Ok(()),
            Who::Reader(reason) if !changes.is_empty() => {
                return Err(Error::AccessDenied((*reason).to_owned()));
            }
            Who::Reader(_) => return Ok(()),
            Who::Task { .. } | Who::Nobody => {}
        }
        changes.iter().try_for_each(|change| match change {
            Change::Namespace(row) => permit_namespace(who, &row.name),
            Change::DropNamespace(id) => match self.namespaces.get(id) {
                Some(row) => permit_namespace(who, &row.name),
                None => Ok(()),
            },
            Change::Service(next) => self.permit_declaration(who, next),
            Change::DropService(id) => self.permit_service(who, self.services.get(id)),
            Change::Instance(next) => {
                let before = self.held(&next.service_id, &next.id);
                self.permit_instance(who, &next.service_id, before.into_iter().chain([next]))?;
                let bound = before.and_then(|before| before.node());
                match next.node().filter(|node| bound != Some(node)) {
                    Some(node) => self.permit_node(who, next, node),
                    None => Ok(()),
                }
            }
            Change::DropInstance { service, instance } => {
                let before = self.held(service, instance);
                self.permit_instance(who, service, before.into_iter())
            }
            // They come with the changes above, or are the server's own.
            Change::Revision(..)
            | Change::Operation(_)
            | Change::DropOperation(_)
            | Change::Vip(_)
            | Change::DropVip { .. }
            | Change::Token(_)
            | Change::DropToken(_)
            | Change::Lost(_)
            | Change::Found(_) => Ok(()),
        })
    }

    fn held(&self, service: &str, instance: &str) -> Option<&Arc<Instance>> {
        self.instances.get(service)?.get(instance)
    }

    /// A service is its identities'; one that has none is its namespace's.
    fn permit_service(&self, who: &Who, service: Option<&Arc<Service>>) -> Result<(), Error> {
        let Some(service) = service else {
            return Ok(());
        };
        let identities = declaration(service).identities;
        if !identities.is_empty() && !identities.iter().any(|id| who.is(id.as_str())) {
            return who.refuse(&format!("service {:?}", service.name), "it has an identity");
        }
        match self.namespaces.get(&service.namespace_id) {
            Some(namespace) => permit_namespace(who, &namespace.name),
            None => Ok(()),
        }
    }

    /// Nobody takes a service from another, or claims one for another.
    fn permit_declaration(&self, who: &Who, next: &Arc<Service>) -> Result<(), Error> {
        let before = self.services.get(&next.id);
        self.permit_service(who, Some(before.unwrap_or(next)))?;
        let had_none = before.is_none_or(|before| declaration(before).identities.is_empty());
        let claimed = declaration(next).identities;
        if had_none && !claimed.iter().all(|id| who.is(id.as_str())) {
            let what = format!("service {:?}", next.name);
            return who.refuse(&what, "OUTRIGGER_IDENTITY must be the connection's own");
        }
        Ok(())
    }

    /// An instance that takes TLS is its identity's. Without TLS it may stand beside others while its service is not strict: it has
    /// no certificate yet.
    fn permit_instance<'a>(
        &self,
        who: &Who,
        service: &str,
        mut versions: impl Iterator<Item = &'a Arc<Instance>>,
    ) -> Result<(), Error> {
        let service = self.services.get(service);
        let named = service.map_or("", |service| service.name.as_str());
        let foreign = versions.find(|row| row.tls().is_some_and(|id| !who.is(id)));
        if let Some(row) = foreign {
            let what = format!("instance {:?} of service {named:?}", row.id);
            return who.refuse(&what, "OUTRIGGER_TLS is not the connection's own identity");
        }
        let strict = service.is_some_and(|row| declaration(row).policy.tls == TlsMode::Strict);
        match who {
            Who::Nobody if !strict => Ok(()),
            _ => self.permit_service(who, service),
        }
    }

    /// A task's instance is bound to its own node, and nobody's to one that has instances of an identity.
    fn permit_node(&self, who: &Who, row: &Instance, node: &str) -> Result<(), Error> {
        let what = format!("instance {:?}", row.id);
        let identity = match who {
            Who::Task {
                node: Some(own), ..
            } if own != node => {
                let reason = format!("OUTRIGGER_NODE is {node:?}, its certificate is for {own:?}");
                return who.refuse(&what, &reason);
            }
            Who::Task { identity, .. } => Some(identity),
            _ => None,
        };
        match self.other_identity_bound_to(node, identity) {
            Some(other) => {
                let reason = format!("OUTRIGGER_NODE is {node:?}, which is one of {other}");
                who.refuse(&what, &reason)
            }
            None => Ok(()),
        }
    }
}

fn permit_namespace(who: &Who, name: &str) -> Result<(), Error> {
    let Who::Task { identity, .. } = who else {
        return Ok(());
    };
    match identity.as_service() {
        Some((own, _)) if own == name => Ok(()),
        _ => who.refuse(&format!("namespace {name:?}"), "it is not its own"),
    }
}

#[cfg(test)]
mod tests;
