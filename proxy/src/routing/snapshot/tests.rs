//! What a listener of the mesh takes, by its service's policy and this sidecar's identity.

use std::net::Ipv4Addr;

use outrigger_xds::identity::{Access, Authorization, SpiffeId};
use outrigger_xds::model::{Inbound, Target};
use outrigger_xds::tls::{Credentials, Roots};
use serde_json::json;

use super::*;
use crate::observe::metrics::Owner;
use crate::upstream::resolve::Resolver;

struct World {
    builder: Builder,
    clusters: Arc<Clusters>,
    metrics: Arc<Metrics>,
    problems: Vec<Problem>,
}

impl World {
    fn new(own: Option<Arc<outrigger_xds::tls::Identity>>) -> Self {
        let metrics = Metrics::new(1, Owner::default());
        let clusters = Clusters::new(
            Arc::clone(&metrics),
            Arc::new(Resolver::system()),
            tokio::runtime::Handle::current(),
            "",
            Arc::new(Tls::new(own)),
        );
        Self {
            builder: Builder::default(),
            clusters,
            metrics,
            problems: Vec::new(),
        }
    }

    /// The listener "in" under this policy.
    fn policy(&mut self, inbound: Option<Inbound>) -> Option<Arc<ListenerPolicy>> {
        let mut accepted = Accepted::default();
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let target = Target::Cluster("local".to_owned());
        let listener = Listener {
            inbound: Some("n/s".to_owned()),
            ..Listener::new("in", Direction::Ingress, address, Protocol::Tcp, target)
        };
        accepted
            .listeners
            .insert("in".to_owned(), Arc::new(listener));
        let inbound = inbound.map(|inbound| (inbound.name.clone(), Arc::new(inbound)));
        accepted.inbound.extend(inbound);
        let (snapshot, problems) = self.builder.build(&accepted, &self.clusters, &self.metrics);
        self.problems = problems;
        snapshot.listeners().next().cloned()
    }

    fn takes(&mut self, tls: TlsMode) -> Arc<ListenerPolicy> {
        self.policy(Some(inbound(tls))).expect("it can be used")
    }
}

fn inbound(tls: TlsMode) -> Inbound {
    Inbound {
        name: "n/s".to_owned(),
        tls,
        authorization: None,
    }
}

/// Credentials and roots of a service that vouches for itself.
fn enrolled(identity: &outrigger_xds::tls::Identity) -> SpiffeId {
    let id = SpiffeId::service("td", "n", "s").expect("it is an id");
    let key = rcgen::KeyPair::generate().expect("a key can be made");
    let mut params = rcgen::CertificateParams::default();
    let name = id.as_str().try_into().expect("it is ASCII");
    params.subject_alt_names = vec![rcgen::SanType::URI(name)];
    let pem = params.self_signed(&key).expect("it signs itself").pem();
    let key = key.serialize_pem();
    let credentials = Credentials::from_pem(pem.as_bytes(), key.as_bytes());
    identity.set_credentials(credentials.expect("they belong together"));
    identity.set_roots(Roots::from_pem(pem.as_bytes()).expect("it is PEM"));
    id
}

#[tokio::test]
async fn a_listener_takes_what_its_service_says_by_the_identity_of_the_sidecar() {
    let identity = Arc::default();
    let mut world = World::new(Some(Arc::clone(&identity)));
    let shown = |listener: &ListenerPolicy| listener.describe_tls();
    let before = world.takes(TlsMode::Permissive);
    assert_eq!(
        shown(&before),
        json!({"mode": "permissive", "identity": null, "accepts": ["plaintext"]})
    );
    let id = enrolled(&identity);
    for (mode, accepts) in [
        (TlsMode::Permissive, json!(["tls", "plaintext"])),
        (TlsMode::Strict, json!(["tls"])),
    ] {
        let listener = world.takes(mode);
        assert_eq!(
            shown(&listener),
            json!({"mode": mode, "identity": id, "accepts": accepts})
        );
        let metric = format!(r#"outrigger_listener_tls_mode{{listener="in",mode="{mode}"}} 1"#);
        assert!(world.metrics.render().contains(&metric));
    }
    let off = world.takes(TlsMode::Disable);
    assert!(off.tls.is_none());
    assert_eq!(shown(&off)["accepts"], json!(["plaintext"]));
}

#[tokio::test]
async fn a_strict_listener_without_an_identity_lets_nobody_in() {
    for own in [None, Some(Arc::default())] {
        let mut world = World::new(own);
        let listener = world.takes(TlsMode::Strict);
        assert_eq!(listener.describe_tls()["accepts"], json!([]));
        assert!(listener.is_strict() && listener.tls_taken().is_some());
    }
}

#[tokio::test]
async fn what_a_listener_takes_stays_while_nothing_changes() {
    let mut world = World::new(Some(Arc::default()));
    let of = |listener: Arc<ListenerPolicy>| listener.tls.clone().expect("it takes TLS");
    let first = of(world.takes(TlsMode::Strict));
    assert!(Arc::ptr_eq(&first, &of(world.takes(TlsMode::Strict))));
    assert!(!Arc::ptr_eq(&first, &of(world.takes(TlsMode::Permissive))));
}

#[tokio::test]
async fn a_listener_whose_policy_is_not_known_is_not_opened() {
    let mut world = World::new(None);
    assert!(world.policy(None).is_none());
    let problem = &world.problems[0];
    assert_eq!(
        (problem.listener.as_str(), problem.field),
        ("in", "inbound")
    );
    assert!(problem.reason.contains("n/s"), "{problem:?}");
    let open = world.policy(Some(inbound(TlsMode::Disable)));
    assert!(open.is_some_and(|listener| listener.authorization.is_none()));
    let closed = world.policy(Some(Inbound {
        authorization: Some(Authorization {
            default: Access::Deny,
            ..Authorization::default()
        }),
        ..inbound(TlsMode::Disable)
    }));
    assert!(closed.is_some_and(|listener| listener.authorization.is_some()));
}
