//! Namespaces: created, found by id, ARN or name, deleted when empty.

use std::sync::Arc;

use super::operations::Target;
use super::{Change, Context, Error, Namespace, OperationKind, Plan, Registry, Tag, id_of};

impl Registry {
    /// `CreateHttpNamespace`; answers the operation's id. The same CreatorRequestId again answers the same operation.
    pub(crate) fn create_namespace(
        &self,
        context: &mut Context<'_>,
        name: &str,
        creator_request_id: Option<String>,
        description: Option<String>,
        tags: Vec<Tag>,
    ) -> Plan<String> {
        if let Ok(existing) = self.namespace_named(name) {
            if creator_request_id.is_some()
                && existing.creator_request_id == creator_request_id
                && existing.description == description
                && existing.tags == tags
            {
                return Ok((Vec::new(), existing.operation_id.clone()));
            }
            return Err(Error::NamespaceAlreadyExists {
                name: name.to_owned(),
                namespace_id: existing.id.clone(),
                creator_request_id: existing.creator_request_id.clone(),
            });
        }
        if self.namespaces.len() >= self.limits.namespaces {
            return Err(Error::ResourceLimitExceeded(format!(
                "there are already {} namespaces",
                self.namespaces.len()
            )));
        }
        let id = context.id("ns-", 16);
        let mut changes = Vec::new();
        let target = Target {
            namespace: Some(&id),
            service: None,
            instance: None,
        };
        let operation_id = self.record(
            context,
            &mut changes,
            OperationKind::CreateNamespace,
            target,
        );
        changes.push(Change::Namespace(Arc::new(Namespace {
            id,
            name: name.to_owned(),
            description,
            creator_request_id,
            created: context.now,
            tags,
            operation_id: operation_id.clone(),
        })));
        Ok((changes, operation_id))
    }

    /// `DeleteNamespace`; answers the operation's id.
    pub(crate) fn delete_namespace(&self, context: &mut Context<'_>, id: &str) -> Plan<String> {
        let row = self.namespace(id)?;
        let services = self.services_in(&row.id).count();
        if services > 0 {
            return Err(Error::ResourceInUse(format!(
                "namespace {:?} still has {services} services",
                row.name
            )));
        }
        let mut changes = vec![Change::DropNamespace(row.id.clone())];
        let target = Target {
            namespace: Some(&row.id),
            service: None,
            instance: None,
        };
        let operation_id = self.record(
            context,
            &mut changes,
            OperationKind::DeleteNamespace,
            target,
        );
        Ok((changes, operation_id))
    }

    /// By id or ARN.
    pub(crate) fn namespace(&self, id: &str) -> Result<&Arc<Namespace>, Error> {
        self.namespaces
            .get(id_of(id))
            .ok_or_else(|| Error::NamespaceNotFound(id.to_owned()))
    }

    /// By name.
    pub(crate) fn namespace_named(&self, name: &str) -> Result<&Arc<Namespace>, Error> {
        self.namespace_names
            .get(name)
            .and_then(|id| self.namespaces.get(id))
            .ok_or_else(|| Error::NamespaceNotFound(name.to_owned()))
    }

    /// In the order of their ids.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.namespaces.values()
    }
}
