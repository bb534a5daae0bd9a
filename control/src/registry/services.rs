//! Services: created, found by id, ARN or name, given attributes, deleted when empty.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    Change, Context, Error, HealthCheckConfig, Plan, Registry, Service, Tag, declaration, id_of,
    invalid,
};

/// Attributes that one service may have (Cloud Map's quota).
const MAX_ATTRIBUTES: usize = 30;

/// What `CreateService` was given.
pub(crate) struct NewService {
    pub(crate) name: String,
    pub(crate) namespace_id: String,
    pub(crate) creator_request_id: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) tags: Vec<Tag>,
    pub(crate) health_check: Option<HealthCheckConfig>,
    pub(crate) custom_health: Option<Option<u32>>,
}

impl Registry {
    /// `CreateService`. The same CreatorRequestId with the same settings answers the same service.
    pub(crate) fn create_service(
        &self,
        context: &mut Context<'_>,
        new: NewService,
    ) -> Plan<Arc<Service>> {
        let namespace = self.namespace(&new.namespace_id)?;
        if let Some(existing) = self.service_in(&namespace.id, &new.name) {
            if new.creator_request_id.is_some()
                && existing.creator_request_id == new.creator_request_id
                && existing.description == new.description
                && existing.tags == new.tags
                && existing.health_check == new.health_check
                && existing.custom_health == new.custom_health
            {
                return Ok((Vec::new(), Arc::clone(existing)));
            }
            return Err(Error::ServiceAlreadyExists {
                name: new.name,
                service_id: existing.id.clone(),
                creator_request_id: existing.creator_request_id.clone(),
            });
        }
        let count = self.services_in(&namespace.id).count();
        if count >= self.limits.services_per_namespace {
            return Err(Error::ResourceLimitExceeded(format!(
                "namespace {:?} already has {count} services",
                namespace.name
            )));
        }
        let row = Arc::new(Service {
            id: context.id("srv-", 16),
            namespace_id: namespace.id.clone(),
            name: new.name,
            description: new.description,
            creator_request_id: new.creator_request_id,
            created: context.now,
            tags: new.tags,
            health_check: new.health_check,
            custom_health: new.custom_health,
            attributes: BTreeMap::new(),
            revisions: Vec::new(),
        });
        Ok((vec![Change::Service(Arc::clone(&row))], row))
    }

    /// `DeleteService`.
    pub(crate) fn delete_service(&self, context: &mut Context<'_>, id: &str) -> Plan<()> {
        let row = self.service(id)?;
        let instances = self.instance_count(&row.id);
        if instances > 0 {
            return Err(Error::ResourceInUse(format!(
                "service {:?} still has {instances} instances",
                row.name
            )));
        }
        let mut changes = vec![Change::DropService(row.id.clone())];
        if let Some(dns_name) = declaration(row).dns_name() {
            self.release_vip(context, &mut changes, row, dns_name)?;
        }
        Ok((changes, ()))
    }

    /// `UpdateServiceAttributes`, under the rules of declarations.
    ///
    /// Attributes are merged, except that a declaration (one that carries a revision) replaces every earlier `OUTRIGGER_` attribute:
    /// a timeout that the new revision does not mention is gone. Of an older revision nothing is taken; the answer is the one in force.
    pub(crate) fn update_service_attributes(
        &self,
        context: &mut Context<'_>,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) -> Plan<Option<String>> {
        let row = self.service(id)?;
        let mut next = Service::clone(row);
        if let Some(revision) = attributes.get(declaration::REVISION) {
            match row.revisions.iter().rposition(|seen| seen == revision) {
                Some(at) if at + 1 < row.revisions.len() => {
                    return Ok((Vec::new(), row.revisions.last().cloned()));
                }
                Some(_) => {}
                None => {
                    next.revisions.push(revision.clone());
                    let surplus = next.revisions.len().saturating_sub(self.limits.revisions);
                    next.revisions.drain(..surplus);
                }
            }
            next.attributes
                .retain(|key, _| !key.starts_with(declaration::PREFIX));
        }
        next.attributes.extend(attributes);
        let (changes, ()) = self.replace_attributes(context, row, next)?;
        Ok((changes, None))
    }

    /// `DeleteServiceAttributes`; keys that are not there are no error.
    pub(crate) fn delete_service_attributes(
        &self,
        context: &mut Context<'_>,
        id: &str,
        keys: &[String],
    ) -> Plan<()> {
        let row = self.service(id)?;
        let mut next = Service::clone(row);
        next.attributes.retain(|key, _| !keys.contains(key));
        self.replace_attributes(context, row, next)
    }

    fn replace_attributes(
        &self,
        context: &mut Context<'_>,
        row: &Service,
        next: Service,
    ) -> Plan<()> {
        if next.attributes.len() > MAX_ATTRIBUTES {
            return Err(Error::ServiceAttributesLimitExceeded {
                service: row.id.clone(),
                count: next.attributes.len(),
                limit: MAX_ATTRIBUTES,
            });
        }
        declaration::check(&next.attributes)?;
        if next == *row {
            return Ok((Vec::new(), ()));
        }
        let mut changes = Vec::new();
        let (before, after) = (declaration(row), declaration(&next));
        if let Some(alias) = after.alias()
            && let Some(owner) = self
                .aliases
                .get(&(row.namespace_id.clone(), alias.to_owned()))
            && *owner != row.id
        {
            let owner = self
                .services
                .get(owner)
                .map_or(owner.as_str(), |owner| owner.name.as_str());
            return Err(invalid(
                declaration::ALIAS,
                format!("{alias:?} is already the alias of service {owner:?}"),
            ));
        }
        if let Some(dns_name) = before.dns_name()
            && after.dns_name() != Some(dns_name)
        {
            self.release_vip(context, &mut changes, row, dns_name)?;
        }
        if let Some(dns_name) = after.dns_name() {
            self.claim_vip(context, &mut changes, row, dns_name)?;
        }
        changes.push(Change::Service(Arc::new(next)));
        Ok((changes, ()))
    }

    /// By id or ARN.
    pub(crate) fn service(&self, id: &str) -> Result<&Arc<Service>, Error> {
        self.services
            .get(id_of(id))
            .ok_or_else(|| Error::ServiceNotFound(id.to_owned()))
    }

    /// By namespace id and name.
    pub(crate) fn service_in(&self, namespace_id: &str, name: &str) -> Option<&Arc<Service>> {
        let id = self
            .service_names
            .get(&(namespace_id.to_owned(), name.to_owned()))?;
        self.services.get(id)
    }

    /// The services of one namespace, by name.
    pub(crate) fn services_in(&self, namespace_id: &str) -> impl Iterator<Item = &Arc<Service>> {
        let namespace_id = namespace_id.to_owned();
        self.service_names
            .range((namespace_id.clone(), String::new())..)
            .take_while(move |((namespace, _), _)| *namespace == namespace_id)
            .filter_map(|(_, id)| self.services.get(id))
    }

    /// In the order of their ids.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }
}
