//! The complete accepted configuration, whatever way it came in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrigger_xds::identity::TRUST_BUNDLE;
use outrigger_xds::model::{Cluster, EndpointSet, Inbound, Listener, RouteConfig, TrustBundle};
use serde::{Deserialize, Serialize};

use super::tls::ByFiles;

/// Resources of one type by name; shared by everyone who keeps them, for they are most of what a sidecar keeps.
pub type Named<T> = BTreeMap<String, Arc<T>>;

/// Everything the sidecar runs on, by resource name.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Where applications and other tasks connect.
    #[serde(with = "named")]
    pub listeners: Named<Listener>,
    /// What HTTP listeners refer to.
    #[serde(with = "named")]
    pub routes: Named<RouteConfig>,
    /// Services, as their callers see them.
    #[serde(with = "named")]
    pub clusters: Named<Cluster>,
    /// The endpoints of each cluster, by the cluster's name.
    #[serde(with = "named")]
    pub endpoints: Named<EndpointSet>,
    /// Who takes TLS and who may call, by `namespace/service`; what a listener's `inbound` refers to.
    #[serde(default, with = "named")]
    pub inbound: Named<Inbound>,
    /// The roots that are trusted; only the one named [`TRUST_BUNDLE`] is used.
    #[serde(default, with = "named")]
    pub trust: Named<TrustBundle>,
    /// TLS that the static file asks for.
    #[serde(default, skip_serializing_if = "ByFiles::is_empty")]
    pub tls: ByFiles,
}

impl Accepted {
    /// The roots that are trusted, once they are known.
    pub fn trust_bundle(&self) -> Option<&Arc<TrustBundle>> {
        self.trust.get(TRUST_BUNDLE)
    }

    /// Adds everything of `other`, a sidecar's own part. On equal names `other` wins, but for inbound policies (see [`stricter`]).
    pub fn merge(&mut self, other: Self) {
        for (name, own) in other.inbound {
            let declared = self.inbound.remove(&name);
            let policy = declared.map_or_else(|| Arc::clone(&own), |one| stricter(one, &own));
            self.inbound.insert(name, policy);
        }
        self.trust.extend(other.trust);
        self.tls.listeners.extend(other.tls.listeners);
        self.tls.clusters.extend(other.tls.clusters);
        self.listeners.extend(other.listeners);
        self.routes.extend(other.routes);
        self.clusters.extend(other.clusters);
        self.endpoints.extend(other.endpoints);
    }

    /// The same in memory of its own, to the last byte.
    pub fn copied(&self) -> Self {
        fn copied<T: Clone>(named: &Named<T>) -> Named<T> {
            let copy =
                |(name, value): (&String, &Arc<T>)| (name.clone(), Arc::new(T::clone(value)));
            named.iter().map(copy).collect()
        }
        Self {
            listeners: copied(&self.listeners),
            routes: copied(&self.routes),
            clusters: copied(&self.clusters),
            endpoints: copied(&self.endpoints),
            inbound: copied(&self.inbound),
            trust: copied(&self.trust),
            tls: self.tls.clone(),
        }
    }

    /// What has to be rebuilt to go from `before` to `self`.
    pub fn change_from(&self, before: &Self) -> Change {
        let names = before.endpoints.keys().chain(self.endpoints.keys());
        Change {
            structure: self.listeners != before.listeners
                || self.routes != before.routes
                || self.clusters != before.clusters
                || self.inbound != before.inbound
                || self.tls != before.tls,
            trust: self.trust != before.trust,
            endpoints: names
                .filter(|name| self.endpoints.get(*name) != before.endpoints.get(*name))
                .cloned()
                .collect(),
        }
    }
}

/// What is declared in the registry may be newer than what this task was started with, or older: another revision may have been
/// written first, or this task be a rollback. So it may ask for more than the task's own document, and never for less: below the
/// mode of a document nobody goes but by a deployment with another document, an operator's `policy set` neither.
fn stricter(declared: Arc<Inbound>, own: &Inbound) -> Arc<Inbound> {
    if declared.tls >= own.tls && (declared.authorization.is_some() || own.authorization.is_none())
    {
        return declared;
    }
    let mut policy = Inbound::clone(&declared);
    policy.tls = policy.tls.max(own.tls);
    policy.authorization = policy.authorization.or_else(|| own.authorization.clone());
    Arc::new(policy)
}

/// What differs between two accepted configurations.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Change {
    /// Listeners, routes, clusters or inbound policies changed: the snapshot is rebuilt.
    pub structure: bool,
    /// The roots changed: no snapshot is rebuilt for them.
    pub trust: bool,
    /// Clusters whose endpoints changed: no snapshot is rebuilt for them.
    pub endpoints: BTreeSet<String>,
}

impl Change {
    /// Whether nothing changed at all.
    pub fn is_empty(&self) -> bool {
        !self.structure && !self.trust && self.endpoints.is_empty()
    }
}

/// Written and read as what is shared.
mod named {
    use super::*;

    pub(super) fn serialize<T, S>(named: &Named<T>, serializer: S) -> Result<S::Ok, S::Error>
    where
        T: Serialize,
        S: serde::Serializer,
    {
        serializer.collect_map(named.iter().map(|(name, value)| (name, &**value)))
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Named<T>, D::Error>
    where
        T: Deserialize<'de>,
        D: serde::Deserializer<'de>,
    {
        let owned = BTreeMap::<String, T>::deserialize(deserializer)?;
        let shared = |(name, value)| (name, Arc::new(value));
        Ok(owned.into_iter().map(shared).collect())
    }
}

#[cfg(test)]
mod tests {
    use outrigger_xds::identity::{Authorization, TlsMode};

    use super::*;

    fn set(name: &str) -> Arc<EndpointSet> {
        Arc::new(EndpointSet {
            cluster: name.to_owned(),
            endpoints: Vec::new(),
        })
    }

    #[test]
    fn endpoint_change_does_not_touch_the_structure() {
        let mut before = Accepted::default();
        before.endpoints.insert("gone".to_owned(), set("gone"));
        before.endpoints.insert("same".to_owned(), set("same"));
        let mut after = before.clone();
        after.endpoints.remove("gone");
        after.endpoints.insert("new".to_owned(), set("new"));
        let change = after.change_from(&before);
        assert!(!change.structure);
        assert_eq!(
            change.endpoints.into_iter().collect::<Vec<_>>(),
            ["gone", "new"]
        );
        assert!(before.change_from(&before).is_empty());
    }

    fn inbound(tls: TlsMode, authorization: Option<Authorization>) -> Accepted {
        let name = "n/s".to_owned();
        let policy = Inbound {
            name: name.clone(),
            tls,
            authorization,
        };
        Accepted {
            inbound: Named::from([(name, Arc::new(policy))]),
            ..Accepted::default()
        }
    }

    #[test]
    fn what_is_declared_of_a_service_asks_for_more_than_its_task_was_started_with_and_never_for_less()
     {
        use TlsMode::{Disable, Permissive, Strict};
        let mut next = Accepted::default();
        next.merge(inbound(Strict, None));
        assert_eq!(next.inbound["n/s"].tls, Strict, "nothing is declared yet");
        for (declared, own, in_force) in [
            (Disable, Strict, Strict),
            (Disable, Permissive, Permissive),
            (Permissive, Strict, Strict),
            (Strict, Permissive, Strict),
            (Strict, Disable, Strict),
            (Disable, Disable, Disable),
        ] {
            let mut next = inbound(declared, None);
            next.merge(inbound(own, None));
            assert_eq!(next.inbound["n/s"].tls, in_force, "{declared} and {own}");
            assert!(next.change_from(&Accepted::default()).structure);
        }
    }

    #[test]
    fn who_may_call_is_what_is_declared_or_else_what_the_task_was_started_with() {
        let nobody = Some(Authorization::default());
        let trial = Some(Authorization {
            dry_run: true,
            ..Authorization::default()
        });
        for (declared, own, in_force) in [
            (&None, &nobody, &nobody),
            (&trial, &nobody, &trial),
            (&nobody, &None, &nobody),
            (&None, &None, &None),
        ] {
            let mut next = inbound(TlsMode::Strict, declared.clone());
            next.merge(inbound(TlsMode::Strict, own.clone()));
            assert_eq!(next.inbound["n/s"].authorization, *in_force);
        }
    }

    #[test]
    fn roots_change_without_the_structure() {
        let bundle = TrustBundle {
            name: TRUST_BUNDLE.to_owned(),
            roots: "pem".to_owned(),
        };
        let mut after = Accepted::default();
        after.trust.insert(bundle.name.clone(), Arc::new(bundle));
        let change = after.change_from(&Accepted::default());
        assert!(change.trust && !change.structure && !change.is_empty());
        assert!(after.trust_bundle().is_some());
    }
}
