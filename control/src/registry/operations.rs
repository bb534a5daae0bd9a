//! Operations: what asynchronous calls did, remembered up to a bound.

use std::sync::Arc;

use super::{Change, Context, Error, Operation, OperationKind, Registry};

/// What an operation was about.
pub(super) struct Target<'a> {
    pub(super) namespace: Option<&'a str>,
    pub(super) service: Option<&'a str>,
    pub(super) instance: Option<&'a str>,
}

impl Registry {
    /// Adds the operation to the plan (and what must be forgotten for it), and answers its id.
    pub(super) fn record(
        &self,
        context: &mut Context<'_>,
        changes: &mut Vec<Change>,
        kind: OperationKind,
        target: Target<'_>,
    ) -> String {
        self.record_as(context, changes, kind, target, false)
    }

    /// The same, of what may not be done yet.
    pub(super) fn record_as(
        &self,
        context: &mut Context<'_>,
        changes: &mut Vec<Change>,
        kind: OperationKind,
        target: Target<'_>,
        pending: bool,
    ) -> String {
        let sequence = self
            .operations
            .last_key_value()
            .map_or(1, |(last, _)| last + 1);
        let id = format!("{}-{sequence:08x}", context.id("", 32));
        changes.push(Change::Operation(Arc::new(Operation {
            sequence,
            id: id.clone(),
            kind,
            at: context.now,
            namespace_id: target.namespace.map(str::to_owned),
            service_id: target.service.map(str::to_owned),
            instance_id: target.instance.map(str::to_owned),
            pending,
        })));
        let surplus = (self.operations.len() + 1).saturating_sub(self.limits.operations);
        // What is pending is needed for its end.
        let done = self.operations.values().filter(|row| !row.pending);
        changes.extend(
            done.take(surplus)
                .map(|oldest| Change::DropOperation(oldest.sequence)),
        );
        id
    }

    /// One operation.
    pub(crate) fn operation(&self, id: &str) -> Result<&Arc<Operation>, Error> {
        self.operation_ids
            .get(id)
            .and_then(|sequence| self.operations.get(sequence))
            .ok_or_else(|| Error::OperationNotFound(id.to_owned()))
    }

    /// Newest first.
    pub(crate) fn operations(&self) -> impl Iterator<Item = &Arc<Operation>> {
        self.operations.values().rev()
    }
}
