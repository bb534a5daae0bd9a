//! The end of an instance in two steps: it is DRAINING first, and is dropped when whoever could still call it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::instances::STATE;
use super::operations::Target;
use super::{Change, Context, Instance, Operation, OperationKind, Plan, Registry, Who};

/// The endpoint sets that a drain alters, by the name of their namespace.
pub(crate) type Altered = BTreeMap<String, BTreeSet<String>>;

/// A deregistration after its first step.
pub(crate) struct Begun {
    pub(crate) operation: String,
    /// What callers must know before the second step; `None` if an earlier call is at it already.
    pub(crate) altered: Option<Altered>,
}

impl Registry {
    /// Marks every instance bound to the node DRAINING that `who` may change.
    pub(crate) fn drain_node(&self, who: &Who, node: &str) -> Plan<Altered> {
        let bound = self.bound_to(node);
        let changes = bound.filter(|row| !row.draining()).filter_map(|row| {
            let operation = row.operation_id.clone();
            let change = Change::Instance(Arc::new(drained(row, operation)));
            match self.permit(who, std::slice::from_ref(&change)) {
                Ok(()) => Some(change),
                Err(error) => {
                    tracing::warn!(node, instance = row.id, reason = %error, "not drained with its node");
                    None
                }
            }
        });
        Ok((changes.collect(), self.endpoint_sets(self.bound_to(node))))
    }

    /// `DeregisterInstance`, first step: the instance drains, and the operation is pending.
    pub(crate) fn begin_deregistration(
        &self,
        context: &mut Context<'_>,
        service: &str,
        instance: &str,
    ) -> Plan<Begun> {
        let row = self.instance(service, instance)?;
        if self.leaves(row) {
            let operation = row.operation_id.clone();
            let altered = None;
            return Ok((Vec::new(), Begun { operation, altered }));
        }
        let mut changes = Vec::new();
        let target = Target {
            namespace: None,
            service: Some(&row.service_id),
            instance: Some(&row.id),
        };
        let kind = OperationKind::DeregisterInstance;
        let operation = self.record_as(context, &mut changes, kind, target, true);
        changes.push(Change::Instance(Arc::new(drained(row, operation.clone()))));
        let altered = Some(self.endpoint_sets([row].into_iter()));
        Ok((changes, Begun { operation, altered }))
    }

    /// Its second step. An instance that was registered anew in between stays.
    pub(crate) fn end_deregistration(&self, operation: &str) -> Plan<()> {
        let row = self.operation(operation)?;
        let mut changes = Vec::new();
        if let (Some(service), Some(instance)) = (&row.service_id, &row.instance_id)
            && let Ok(instance) = self.instance(service, instance)
            && instance.operation_id == operation
        {
            self.remove(&mut changes, instance);
        }
        changes.push(Change::Operation(Arc::new(Operation {
            pending: false,
            ..Operation::clone(row)
        })));
        Ok((changes, ()))
    }

    /// The deregistrations that have not had their second step.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let pending = self.operations().filter(|row| row.pending);
        pending.map(|row| row.id.clone()).collect()
    }

    /// The operation that took the instance out, unless it was registered again since.
    pub(super) fn deregistered(&self, service: &str, instance: &str) -> Option<String> {
        let mut about = self.operations().filter(|row| {
            row.service_id.as_deref() == Some(service)
                && row.instance_id.as_deref() == Some(instance)
        });
        let newest = about.next()?;
        (newest.kind == OperationKind::DeregisterInstance).then(|| newest.id.clone())
    }

    fn leaves(&self, row: &Instance) -> bool {
        let operation = self.operation(&row.operation_id);
        operation.is_ok_and(|operation| operation.pending)
    }

    fn endpoint_sets<'a>(&self, rows: impl Iterator<Item = &'a Arc<Instance>>) -> Altered {
        let mut altered = Altered::new();
        for row in rows {
            let Ok(service) = self.service(&row.service_id) else {
                continue;
            };
            for namespace in self.touched(&Change::Instance(Arc::clone(row))) {
                let set = format!("{namespace}/{}", service.name);
                altered.entry(namespace).or_default().insert(set);
            }
        }
        altered
    }
}

fn drained(row: &Instance, operation_id: String) -> Instance {
    let mut next = Instance {
        operation_id,
        ..Instance::clone(row)
    };
    next.attributes
        .insert(STATE.to_owned(), "DRAINING".to_owned());
    next
}
