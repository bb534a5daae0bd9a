//! The addresses of names: one persistent 16-bit offset per (namespace, dnsName).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Change, Context, Error, Millis, Registry, Service, Vip, declaration};

/// How long an offset rests after its name went away, so that no client still has the old name at it.
const REST: Millis = 7 * 24 * 3600 * 1000;
/// The network address 0 and the broadcast address 65535 are nobody's.
const OFFSETS: std::ops::RangeInclusive<u16> = 1..=u16::MAX - 1;

impl Registry {
    /// Gives the name its offset: the one it has, or had, or the lowest that is free.
    pub(super) fn claim_vip(
        &self,
        context: &Context<'_>,
        changes: &mut Vec<Change>,
        service: &Service,
        dns_name: &str,
    ) -> Result<(), Error> {
        let namespace = self.namespace(&service.namespace_id)?.name.clone();
        let empty = BTreeMap::new();
        let names = self.vips.get(&namespace).unwrap_or(&empty);
        let offset = match names.get(dns_name) {
            Some(vip) if vip.released.is_none() => return Ok(()),
            Some(vip) => vip.offset,
            None => {
                let taken: BTreeMap<u16, &Arc<Vip>> =
                    names.values().map(|vip| (vip.offset, vip)).collect();
                let rested = |vip: &Vip| {
                    vip.released
                        .is_some_and(|at| context.now.saturating_sub(at) >= REST)
                };
                let offset = OFFSETS
                    .clone()
                    .find(|offset| taken.get(offset).is_none_or(|vip| rested(vip)))
                    .ok_or_else(|| {
                        Error::ResourceLimitExceeded(format!(
                            "namespace {namespace:?} has no address left for {dns_name:?}"
                        ))
                    })?;
                if let Some(old) = taken.get(&offset) {
                    changes.push(Change::DropVip {
                        namespace: namespace.clone(),
                        dns_name: old.dns_name.clone(),
                    });
                }
                offset
            }
        };
        changes.push(Change::Vip(Arc::new(Vip {
            namespace,
            dns_name: dns_name.to_owned(),
            offset,
            released: None,
        })));
        Ok(())
    }

    /// Lets the name's offset rest, unless another service of the namespace has an alias with the same name.
    pub(super) fn release_vip(
        &self,
        context: &Context<'_>,
        changes: &mut Vec<Change>,
        service: &Service,
        dns_name: &str,
    ) -> Result<(), Error> {
        let shared = self
            .services_in(&service.namespace_id)
            .any(|other| other.id != service.id && declaration(other).dns_name() == Some(dns_name));
        let namespace = &self.namespace(&service.namespace_id)?.name;
        if let Some(vip) = self
            .vips
            .get(namespace)
            .and_then(|names| names.get(dns_name))
            && !shared
        {
            changes.push(Change::Vip(Arc::new(Vip {
                released: Some(context.now),
                ..Vip::clone(vip)
            })));
        }
        Ok(())
    }

    /// The offset of a name that has an alias.
    pub(crate) fn vip(&self, namespace: &str, dns_name: &str) -> Option<u16> {
        self.vips
            .get(namespace)?
            .get(dns_name)
            .filter(|vip| vip.released.is_none())
            .map(|vip| vip.offset)
    }
}
