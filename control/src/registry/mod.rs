//! The registry: namespaces, services, instances, what they declare and which addresses their names have; no I/O.
//!
//! A call is planned against the current state and yields changes; whoever keeps the state commits and applies them.

mod access;
mod declaration;
mod drain;
mod error;
mod instances;
mod liveness;
mod namespaces;
mod operations;
mod row;
mod services;
#[cfg(test)]
mod tests;
mod tokens;
mod vips;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::Rng;

pub(crate) use access::Who;
pub(crate) use declaration::{Declaration, declaration};
pub(crate) use drain::Altered;
pub(crate) use error::{Error, invalid};
pub(crate) use instances::{HOP, InstanceHealth, Registration};
pub(crate) use liveness::Liveness;
pub(crate) use row::{
    Change, HealthCheckConfig, Instance, Millis, Namespace, Operation, OperationKind, Service, Tag,
    Token, Use, Vip,
};
pub(crate) use services::NewService;
pub(crate) use tokens::{NewToken, Shown};

/// What a planned call changes, and its answer once that is committed.
pub(crate) type Plan<T> = Result<(Vec<Change>, T), Error>;

/// Time and randomness of one call.
pub(crate) struct Context<'a> {
    pub(crate) now: Millis,
    pub(crate) rng: &'a mut rand::rngs::StdRng,
}

impl Context<'_> {
    fn id(&mut self, prefix: &str, letters: usize) -> String {
        const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut id = String::with_capacity(prefix.len() + letters);
        id.push_str(prefix);
        for _ in 0..letters {
            id.push(char::from(
                ALPHABET[self.rng.random_range(0..ALPHABET.len())],
            ));
        }
        id
    }
}

/// How much the registry holds; past a limit a call is refused with `ResourceLimitExceeded`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) namespaces: usize,
    pub(crate) services_per_namespace: usize,
    pub(crate) instances_per_service: usize,
    /// Operations that `GetOperation` remembers; older ones are forgotten.
    pub(crate) operations: usize,
    /// Revisions remembered per service; older ones are forgotten.
    pub(crate) revisions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            namespaces: 1000,
            services_per_namespace: 10_000,
            instances_per_service: 10_000,
            operations: 5000,
            revisions: 256,
        }
    }
}

/// The whole state. Rows are shared, so that a second copy costs only its maps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    limits: Limits,
    namespaces: BTreeMap<String, Arc<Namespace>>,
    namespace_names: BTreeMap<String, String>,
    services: BTreeMap<String, Arc<Service>>,
    /// (namespace id, service name) → service id.
    service_names: BTreeMap<(String, String), String>,
    /// (namespace id, "dnsName:port") → service id.
    aliases: BTreeMap<(String, String), String>,
    revisions: BTreeMap<String, u64>,
    instances: BTreeMap<String, BTreeMap<String, Arc<Instance>>>,
    /// node → (service id, instance id) bound to it.
    bound: BTreeMap<String, BTreeSet<(String, String)>>,
    operations: BTreeMap<u64, Arc<Operation>>,
    operation_ids: BTreeMap<String, u64>,
    /// namespace name → dnsName → offset.
    vips: BTreeMap<String, BTreeMap<String, Arc<Vip>>>,
    lost: BTreeSet<String>,
    /// By digest.
    tokens: BTreeMap<String, Arc<Token>>,
}

impl Registry {
    #[cfg(test)]
    pub(crate) fn with_limits(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Takes one committed step.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Namespace(row) => {
                self.namespace_names
                    .insert(row.name.clone(), row.id.clone());
                self.namespaces.insert(row.id.clone(), Arc::clone(row));
            }
            Change::DropNamespace(id) => {
                if let Some(row) = self.namespaces.remove(id) {
                    self.namespace_names.remove(&row.name);
                }
            }
            Change::Service(row) => {
                self.forget_service(&row.id);
                self.service_names
                    .insert((row.namespace_id.clone(), row.name.clone()), row.id.clone());
                if let Some(alias) = row.attributes.get(declaration::ALIAS) {
                    self.aliases
                        .insert((row.namespace_id.clone(), alias.clone()), row.id.clone());
                }
                self.services.insert(row.id.clone(), Arc::clone(row));
            }
            Change::DropService(id) => {
                self.forget_service(id);
                self.instances.remove(id);
                self.revisions.remove(id);
            }
            Change::Revision(service, revision) => {
                self.revisions.insert(service.clone(), *revision);
            }
            Change::Instance(row) => {
                self.forget_instance(&row.service_id, &row.id);
                if let Some(node) = row.node() {
                    self.bound
                        .entry(node.to_owned())
                        .or_default()
                        .insert((row.service_id.clone(), row.id.clone()));
                }
                self.instances
                    .entry(row.service_id.clone())
                    .or_default()
                    .insert(row.id.clone(), Arc::clone(row));
            }
            Change::DropInstance { service, instance } => self.forget_instance(service, instance),
            Change::Operation(row) => {
                self.operation_ids.insert(row.id.clone(), row.sequence);
                self.operations.insert(row.sequence, Arc::clone(row));
            }
            Change::DropOperation(sequence) => {
                if let Some(row) = self.operations.remove(sequence) {
                    self.operation_ids.remove(&row.id);
                }
            }
            Change::Vip(row) => {
                self.vips
                    .entry(row.namespace.clone())
                    .or_default()
                    .insert(row.dns_name.clone(), Arc::clone(row));
            }
            Change::DropVip {
                namespace,
                dns_name,
            } => {
                if let Some(names) = self.vips.get_mut(namespace) {
                    names.remove(dns_name);
                }
            }
            Change::Token(row) => {
                self.tokens.insert(row.digest.clone(), Arc::clone(row));
            }
            Change::DropToken(digest) => {
                self.tokens.remove(digest);
            }
            Change::Lost(node) => {
                self.lost.insert(node.clone());
            }
            Change::Found(node) => {
                self.lost.remove(node);
            }
        }
    }

    fn forget_service(&mut self, id: &str) {
        if let Some(old) = self.services.remove(id) {
            self.service_names
                .remove(&(old.namespace_id.clone(), old.name.clone()));
            if let Some(alias) = old.attributes.get(declaration::ALIAS) {
                self.aliases
                    .remove(&(old.namespace_id.clone(), alias.clone()));
            }
        }
    }

    fn forget_instance(&mut self, service: &str, instance: &str) {
        let Some(old) = self
            .instances
            .get_mut(service)
            .and_then(|all| all.remove(instance))
        else {
            return;
        };
        if let Some(node) = old.node()
            && let Some(bound) = self.bound.get_mut(node)
        {
            bound.remove(&(service.to_owned(), instance.to_owned()));
            if bound.is_empty() {
                self.bound.remove(node);
            }
        }
    }

    /// The name of the namespace whose resources a change can alter, by the state before or after it.
    pub(crate) fn touched(&self, change: &Change) -> BTreeSet<String> {
        let of_namespace = |id: &String| self.namespaces.get(id).map(|row| row.name.clone());
        let of_service = |id: &String| {
            self.services
                .get(id)
                .and_then(|row| of_namespace(&row.namespace_id))
        };
        match change {
            Change::Namespace(row) => BTreeSet::from([row.name.clone()]),
            Change::DropNamespace(id) => of_namespace(id).into_iter().collect(),
            Change::Service(row) => of_namespace(&row.namespace_id).into_iter().collect(),
            Change::DropService(id) => of_service(id).into_iter().collect(),
            Change::Instance(row) => of_service(&row.service_id).into_iter().collect(),
            Change::DropInstance { service, .. } => of_service(service).into_iter().collect(),
            Change::Vip(row) => BTreeSet::from([row.namespace.clone()]),
            Change::DropVip { namespace, .. } => BTreeSet::from([namespace.clone()]),
            Change::Token(_) | Change::DropToken(_) => BTreeSet::new(),
            Change::Lost(node) | Change::Found(node) => self
                .bound
                .get(node)
                .into_iter()
                .flatten()
                .filter_map(|(service, _)| of_service(service))
                .collect(),
            Change::Revision(..) | Change::Operation(_) | Change::DropOperation(_) => {
                BTreeSet::new()
            }
        }
    }

    /// Whether the liveness of a node has expired.
    pub(crate) fn is_lost(&self, node: &str) -> bool {
        self.lost.contains(node)
    }

    /// Every node that instances are bound to.
    pub(crate) fn bound_nodes(&self) -> impl Iterator<Item = &str> {
        self.bound.keys().map(String::as_str)
    }

    /// The nodes that instances of this namespace are bound to, without those whose liveness has expired.
    pub(crate) fn nodes_of(&self, namespace: &str) -> impl Iterator<Item = &str> {
        let within = move |service: &str| {
            let service = self.service(service);
            let namespace_id = service.map(|service| service.namespace_id.as_str());
            let row = namespace_id.and_then(|id| self.namespace(id));
            row.is_ok_and(|row| row.name == namespace)
        };
        let bound = self.bound.iter().filter(move |(node, instances)| {
            !self.is_lost(node) && instances.iter().any(|(service, _)| within(service))
        });
        bound.map(|(node, _)| node.as_str())
    }

    /// The nodes whose liveness has expired.
    pub(crate) fn lost_nodes(&self) -> &BTreeSet<String> {
        &self.lost
    }
}

/// The part of an ARN that is the id; anything else is an id already.
pub(crate) fn id_of(id_or_arn: &str) -> &str {
    if id_or_arn.starts_with("arn:") {
        id_or_arn.rsplit_once('/').map_or(id_or_arn, |(_, id)| id)
    } else {
        id_or_arn
    }
}
