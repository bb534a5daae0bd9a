//! Instances: registered, drained, found unhealthy, deregistered; what the registry says of each.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use outrigger_xds::hop::Tokens;
use outrigger_xds::identity::SpiffeId;
use outrigger_xds::model::MAX_PRIORITY;

use super::operations::Target;
use super::{Change, Context, Error, Instance, OperationKind, Plan, Registry, Service, invalid};

/// Custom attributes that one instance may have (Cloud Map's quota).
const MAX_CUSTOM_ATTRIBUTES: usize = 30;
const MAX_WEIGHT: u32 = 10_000;
const MAX_HOST_NAME: usize = 255;

const IPV4: &str = "AWS_INSTANCE_IPV4";
const IPV6: &str = "AWS_INSTANCE_IPV6";
const CNAME: &str = "AWS_INSTANCE_CNAME";
const PORT: &str = "AWS_INSTANCE_PORT";
const INIT_HEALTH: &str = "AWS_INIT_HEALTH_STATUS";
const ALIAS_DNS_NAME: &str = "AWS_ALIAS_DNS_NAME";
const NODE: &str = "OUTRIGGER_NODE";
pub(super) const STATE: &str = "OUTRIGGER_STATE";
const WEIGHT: &str = "OUTRIGGER_WEIGHT";
const PRIORITY: &str = "OUTRIGGER_PRIORITY";
const SIDECAR: &str = "OUTRIGGER_SIDECAR";
/// The tokens of the hop protocol (`proxy/HOP.md`): shown to nobody but the sidecars of the namespace.
pub(crate) const HOP: &str = "OUTRIGGER_HOP";
/// The SPIFFE id of a task that takes mutual TLS.
const TLS: &str = "OUTRIGGER_TLS";

/// What `RegisterInstance` was given.
pub(crate) struct Registration {
    pub(crate) service_id: String,
    pub(crate) instance_id: String,
    pub(crate) creator_request_id: Option<String>,
    pub(crate) attributes: BTreeMap<String, String>,
}

/// What the registry says of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstanceHealth {
    Healthy,
    /// Its custom health status is UNHEALTHY, or its node is lost.
    Unhealthy,
    Draining,
}

impl Instance {
    fn get(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(String::as_str)
    }

    /// The node that renews this instance's liveness; without one it has none and never expires.
    pub(crate) fn node(&self) -> Option<&str> {
        self.get(NODE)
    }

    pub(crate) fn draining(&self) -> bool {
        self.get(STATE) == Some("DRAINING")
    }

    pub(crate) fn weight(&self) -> u32 {
        self.get(WEIGHT)
            .and_then(|text| text.parse().ok())
            .unwrap_or(1)
    }

    pub(crate) fn priority(&self) -> u32 {
        self.get(PRIORITY)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }

    pub(crate) fn sidecar(&self) -> bool {
        self.get(SIDECAR) == Some("true")
    }

    /// The tokens of its sidecar, if that speaks a version of the hop protocol that is known here.
    pub(crate) fn hop(&self) -> Option<Tokens> {
        Tokens::read(self.get(HOP)?).ok().flatten()
    }

    /// What may be shown of its `OUTRIGGER_HOP`; of a version that is not known here only that number.
    pub(crate) fn hop_shown(&self) -> String {
        let version = || self.get(HOP).and_then(|text| text.split(' ').next());
        let tokens = self.hop().map(|tokens| tokens.shown());
        tokens.unwrap_or_else(|| version().unwrap_or_default().to_owned())
    }

    /// The SPIFFE id under which it takes mutual TLS.
    pub(crate) fn tls(&self) -> Option<&str> {
        self.get(TLS)
    }

    pub(crate) fn zone(&self) -> &str {
        self.get("AVAILABILITY_ZONE").unwrap_or_default()
    }

    pub(crate) fn port(&self) -> Option<u16> {
        self.get(PORT).and_then(|text| text.parse().ok())
    }

    pub(crate) fn ip(&self) -> Option<std::net::IpAddr> {
        self.get(IPV4)
            .or_else(|| self.get(IPV6))
            .and_then(|text| text.parse().ok())
    }

    pub(crate) fn cname(&self) -> Option<&str> {
        self.get(CNAME)
    }
}

impl Registry {
    /// `RegisterInstance`; answers the operation's id. What is registered already in the same way is not written again.
    pub(crate) fn register_instance(
        &self,
        context: &mut Context<'_>,
        mut registration: Registration,
    ) -> Plan<String> {
        let service = self.service(&registration.service_id)?;
        let existing = self
            .instances
            .get(&service.id)
            .and_then(|all| all.get(&registration.instance_id));
        // What was read and is written back says nothing new of the tokens.
        let hop = registration.attributes.get(HOP);
        if hop.is_some_and(|hop| Tokens::is_shown(hop)) {
            let kept = existing.and_then(|existing| existing.attributes.get(HOP));
            match kept.cloned() {
                Some(kept) => registration.attributes.insert(HOP.to_owned(), kept),
                None => registration.attributes.remove(HOP),
            };
        }
        check(&registration.attributes)?;
        if let Some(existing) = existing
            && existing.attributes == registration.attributes
            && self.operation(&existing.operation_id).is_ok()
        {
            return Ok((Vec::new(), existing.operation_id.clone()));
        }
        let count = self.instance_count(&service.id);
        if existing.is_none() && count >= self.limits.instances_per_service {
            return Err(Error::ResourceLimitExceeded(format!(
                "service {:?} already has {count} instances",
                service.name
            )));
        }
        let init = registration
            .attributes
            .get(INIT_HEALTH)
            .is_none_or(|status| status == "HEALTHY");
        let mut changes = vec![self.next_revision(service)];
        let target = Target {
            namespace: None,
            service: Some(&service.id),
            instance: Some(&registration.instance_id),
        };
        let operation_id = self.record(
            context,
            &mut changes,
            OperationKind::RegisterInstance,
            target,
        );
        if let Some(old) = existing.and_then(|existing| existing.node())
            && registration.attributes.get(NODE).map(String::as_str) != Some(old)
        {
            self.unbind(&mut changes, old);
        }
        changes.push(Change::Instance(Arc::new(Instance {
            service_id: service.id.clone(),
            id: registration.instance_id,
            creator_request_id: registration.creator_request_id,
            healthy: existing.map_or(init, |existing| existing.healthy),
            attributes: registration.attributes,
            operation_id: operation_id.clone(),
        })));
        Ok((changes, operation_id))
    }

    /// `DeregisterInstance` of an instance that nobody can be calling; answers the operation's id.
    pub(crate) fn deregister_instance(
        &self,
        context: &mut Context<'_>,
        service: &str,
        instance: &str,
    ) -> Plan<String> {
        let row = self.instance(service, instance)?;
        let mut changes = Vec::new();
        self.remove(&mut changes, row);
        let target = Target {
            namespace: None,
            service: Some(&row.service_id),
            instance: Some(&row.id),
        };
        let operation_id = self.record(
            context,
            &mut changes,
            OperationKind::DeregisterInstance,
            target,
        );
        Ok((changes, operation_id))
    }

    pub(super) fn remove(&self, changes: &mut Vec<Change>, row: &Instance) {
        if let Ok(service) = self.service(&row.service_id) {
            changes.push(self.next_revision(service));
        }
        changes.push(Change::DropInstance {
            service: row.service_id.clone(),
            instance: row.id.clone(),
        });
        if let Some(node) = row.node() {
            self.unbind(changes, node);
        }
    }

    fn unbind(&self, changes: &mut Vec<Change>, node: &str) {
        if self.is_lost(node) && self.bound.get(node).is_none_or(|bound| bound.len() <= 1) {
            changes.push(Change::Found(node.to_owned()));
        }
    }

    /// `UpdateInstanceCustomHealthStatus`.
    pub(crate) fn set_custom_health(
        &self,
        service: &str,
        instance: &str,
        healthy: bool,
    ) -> Plan<()> {
        let owner = self.service(service)?;
        let row = self.instance(service, instance)?;
        if owner.custom_health.is_none() {
            return Err(Error::CustomHealthNotFound(owner.id.clone()));
        }
        if row.healthy == healthy {
            return Ok((Vec::new(), ()));
        }
        Ok((
            vec![Change::Instance(Arc::new(Instance {
                healthy,
                ..Instance::clone(row)
            }))],
            (),
        ))
    }

    pub(super) fn bound_to(&self, node: &str) -> impl Iterator<Item = &Arc<Instance>> {
        let bound = self.bound.get(node).into_iter().flatten();
        bound.filter_map(|(service, instance)| self.instances.get(service)?.get(instance))
    }

    /// Another identity than this one under which an instance of the node takes TLS, if one does.
    pub(crate) fn other_identity_bound_to(
        &self,
        node: &str,
        identity: Option<&SpiffeId>,
    ) -> Option<&str> {
        let own = identity.map(SpiffeId::as_str);
        let mut all = self.bound_to(node).filter_map(|instance| instance.tls());
        all.find(|id| Some(*id) != own)
    }

    /// Marks these nodes lost, as far as they are bound.
    pub(crate) fn lose(&self, nodes: &[String]) -> Plan<()> {
        let bound = nodes
            .iter()
            .filter(|node| self.bound.contains_key(*node) && !self.is_lost(node));
        Ok((bound.cloned().map(Change::Lost).collect(), ()))
    }

    /// These nodes are back.
    pub(crate) fn find(&self, nodes: &[String]) -> Plan<()> {
        let lost = nodes.iter().filter(|node| self.is_lost(node));
        Ok((lost.cloned().map(Change::Found).collect(), ()))
    }

    fn next_revision(&self, service: &Service) -> Change {
        Change::Revision(service.id.clone(), self.instances_revision(&service.id) + 1)
    }

    /// Rises with every registration and deregistration, not with health.
    pub(crate) fn instances_revision(&self, service_id: &str) -> u64 {
        self.revisions.get(service_id).copied().unwrap_or(0)
    }

    pub(crate) fn instance_count(&self, service_id: &str) -> usize {
        self.instances.get(service_id).map_or(0, BTreeMap::len)
    }

    /// The instances of a service by id.
    pub(crate) fn instances_of(&self, service_id: &str) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances
            .get(service_id)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// One instance.
    pub(crate) fn instance(&self, service: &str, instance: &str) -> Result<&Arc<Instance>, Error> {
        let service = self.service(service)?;
        self.instances
            .get(&service.id)
            .and_then(|all| all.get(instance))
            .ok_or_else(|| Error::InstanceNotFound {
                service: service.id.clone(),
                instance: instance.to_owned(),
                deregistered: self.deregistered(&service.id, instance),
            })
    }

    /// What callers of the service are told of the instance.
    pub(crate) fn health(&self, instance: &Instance) -> InstanceHealth {
        if instance.draining() {
            InstanceHealth::Draining
        } else if !instance.healthy || instance.node().is_some_and(|node| self.is_lost(node)) {
            InstanceHealth::Unhealthy
        } else {
            InstanceHealth::Healthy
        }
    }
}

fn check(attributes: &BTreeMap<String, String>) -> Result<(), Error> {
    let custom = attributes
        .keys()
        .filter(|key| !key.starts_with("AWS_"))
        .count();
    if custom > MAX_CUSTOM_ATTRIBUTES {
        return Err(Error::ResourceLimitExceeded(format!(
            "Attributes: {custom} custom attributes are more than {MAX_CUSTOM_ATTRIBUTES}"
        )));
    }
    for (key, value) in attributes {
        let expected = match key.as_str() {
            IPV4 if value.parse::<Ipv4Addr>().is_err() => "an IPv4 address",
            IPV6 if value.parse::<Ipv6Addr>().is_err() => "an IPv6 address",
            CNAME if !is_host_name(value) => "a DNS name",
            PORT if !value.parse::<u16>().is_ok_and(|port| port > 0) => "a port from 1 to 65535",
            INIT_HEALTH if !["HEALTHY", "UNHEALTHY"].contains(&value.as_str()) => {
                "HEALTHY or UNHEALTHY"
            }
            STATE if !["ACTIVE", "DRAINING"].contains(&value.as_str()) => "ACTIVE or DRAINING",
            SIDECAR if !["true", "false"].contains(&value.as_str()) => "true or false",
            NODE if value.is_empty() => "a node id",
            // Not shown, it may be a secret with one letter wrong.
            HOP => match Tokens::read(value) {
                Ok(_) => continue,
                Err(reason) => return Err(invalid(format!("Attributes.{key}"), reason)),
            },
            TLS if value.parse::<SpiffeId>().is_err() => "a SPIFFE id",
            WEIGHT
                if !value
                    .parse::<u32>()
                    .is_ok_and(|weight| weight <= MAX_WEIGHT) =>
            {
                "a number from 0 to 10000"
            }
            PRIORITY
                if !value
                    .parse::<u32>()
                    .is_ok_and(|priority| priority <= MAX_PRIORITY) =>
            {
                "a number from 0 to 128"
            }
            ALIAS_DNS_NAME => "absent: namespaces here are HTTP namespaces",
            _ => continue,
        };
        return Err(invalid(
            format!("Attributes.{key}"),
            format!("{value:?} is not {expected}"),
        ));
    }
    Ok(())
}

fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.len() <= MAX_HOST_NAME && name.split('.').all(label)
}
