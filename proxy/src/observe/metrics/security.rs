//! Who is let in, by which security, and how long this sidecar's own certificates last.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::UNIX_EPOCH;

use outrigger_xds::identity::TlsMode;
use outrigger_xds::tls::Identity;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::expose::{Family, with};
use super::*;

/// Requests and opaque connections that the allow-list was asked about.
#[derive(Debug, Default)]
pub(crate) struct AccessCounts {
    pub(crate) allowed: Count,
    pub(crate) denied: ByReason,
    /// Passed, in a dry run.
    pub(crate) would_deny: ByReason,
}

#[derive(Debug, Default)]
pub(crate) struct ByReason {
    pub(crate) no_identity: Count,
    pub(crate) no_rule: Count,
}

/// What is configured, beside what is counted.
#[derive(Default)]
pub(super) struct Security {
    /// Of each ingress listener.
    modes: Mutex<BTreeMap<String, TlsMode>>,
    identities: Mutex<Vec<Weak<Identity>>>,
}

impl Metrics {
    /// The TLS modes in force, by listener.
    pub(crate) fn set_tls_modes(&self, modes: BTreeMap<String, TlsMode>) {
        *locked(&self.security.modes) = modes;
    }

    /// Shows when this identity's certificate ends, for as long as somebody uses it.
    pub(crate) fn watch(&self, identity: &Arc<Identity>) {
        let mut known = locked(&self.security.identities);
        let identity = Arc::downgrade(identity);
        known.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&identity));
        known.push(identity);
    }

    /// When the first certificate of each of this sidecar's identities ends, in seconds since 1970.
    fn ends(&self) -> BTreeMap<String, u64> {
        let identities = locked(&self.security.identities);
        let mut ends = BTreeMap::new();
        for identity in identities.iter().filter_map(Weak::upgrade) {
            let Some(credentials) = identity.credentials() else {
                continue;
            };
            let id = credentials
                .identity()
                .map_or_else(String::new, ToString::to_string);
            let end = credentials
                .not_after()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let first = ends.entry(id).or_insert(u64::MAX);
            *first = (*first).min(end.as_secs());
        }
        ends
    }

    pub(super) fn encode_security(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        listeners: &[Arc<ListenerMetrics>],
    ) -> fmt::Result {
        encode_connections(encoder, listeners)?;
        encode_access(encoder, listeners)?;
        let (name, help) = (
            "outrigger_listener_tls_mode",
            "1 for the TLS mode of a listener",
        );
        let mut family = Family::begin(encoder, name, help, MetricType::Gauge)?;
        for (listener, mode) in locked(&self.security.modes).iter() {
            let labels = [("listener", listener.clone()), ("mode", mode.to_string())];
            family.gauge(&labels, 1)?;
        }
        let (name, help) = (
            "outrigger_certificate_expiry_seconds",
            "When this sidecar's own certificate ends, in seconds since 1970",
        );
        let mut family = Family::begin(encoder, name, help, MetricType::Gauge)?;
        for (identity, end) in self.ends() {
            family.gauge(&[("identity", identity)], end)?;
        }
        Ok(())
    }
}

fn encode_connections(
    encoder: &mut DescriptorEncoder<'_>,
    listeners: &[Arc<ListenerMetrics>],
) -> fmt::Result {
    let (name, help) = (
        "outrigger_tls_connections",
        "Connections taken, by whether they are mutual TLS",
    );
    let mut family = Family::begin(encoder, name, help, MetricType::Counter)?;
    for listener in listeners {
        for (security, count) in [
            ("tls", listener.sum(|shard| &shard.tls_connections)),
            (
                "plaintext",
                listener.sum(|shard| &shard.plaintext_connections),
            ),
        ] {
            let labels = with(&listener.labels, "security", security);
            family.counter(&labels, count)?;
        }
    }
    Ok(())
}

fn encode_access(
    encoder: &mut DescriptorEncoder<'_>,
    listeners: &[Arc<ListenerMetrics>],
) -> fmt::Result {
    let (name, help) = (
        "outrigger_authorization",
        "Requests and opaque connections that the allow-list was asked about",
    );
    let mut family = Family::begin(encoder, name, help, MetricType::Counter)?;
    type Asked = (&'static str, &'static str, fn(&ListenerShard) -> &Count);
    let asked: [Asked; 5] = [
        ("allowed", "", |shard| &shard.access.allowed),
        ("denied", "no_identity", |shard| {
            &shard.access.denied.no_identity
        }),
        ("denied", "no_rule", |shard| &shard.access.denied.no_rule),
        ("would_deny", "no_identity", |shard| {
            &shard.access.would_deny.no_identity
        }),
        ("would_deny", "no_rule", |shard| {
            &shard.access.would_deny.no_rule
        }),
    ];
    for listener in listeners {
        for (verdict, reason, of) in asked {
            let count = listener.sum(of);
            if count > 0 {
                let labels = with(&listener.labels, "verdict", verdict);
                family.counter(&with(&labels, "reason", reason), count)?;
            }
        }
    }
    Ok(())
}
