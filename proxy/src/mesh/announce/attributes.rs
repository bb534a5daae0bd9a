//! What is said of a service and of this task, as attributes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use outrigger_xds::identity::TlsMode;
use outrigger_xds::model::ServicePolicy;

use super::Announcer;
use crate::mesh::document::{PortMapping, Service};
use crate::mesh::state::sha256_hex;

/// As whom it takes TLS.
pub(super) const TLS: &str = "OUTRIGGER_TLS";
/// The tokens of the hop protocol.
pub(super) const HOP: &str = "OUTRIGGER_HOP";

impl Announcer {
    /// Service attributes; the revision is the deployment's, or follows from everything else.
    pub(super) fn declaration(
        &self,
        service: &Service,
        mapping: &PortMapping,
    ) -> BTreeMap<&'static str, String> {
        let mut attributes =
            BTreeMap::from([("OUTRIGGER_APP_PROTOCOL", mapping.protocol.to_string())]);
        if let Some(alias) = &service.alias {
            let default = || format!("{}.{}", service.discovery_name, self.config.mesh.namespace);
            let name = alias.dns_name.clone().unwrap_or_else(default);
            attributes.insert("OUTRIGGER_ALIAS", format!("{name}:{}", alias.port));
        }
        if let Some(timeout) = service.per_request_timeout {
            attributes.insert(
                "OUTRIGGER_PER_REQUEST_TIMEOUT",
                timeout.as_secs().to_string(),
            );
        }
        if let Some(timeout) = service.idle_timeout {
            attributes.insert("OUTRIGGER_IDLE_TIMEOUT", timeout.as_secs().to_string());
        }
        if service.policy != ServicePolicy::default() {
            attributes.insert("OUTRIGGER_POLICY", service.policy.to_json().to_string());
        }
        attributes.extend(self.id().map(|id| ("OUTRIGGER_IDENTITY", id)));
        let derived = || sha256_hex(format!("{attributes:?}").as_bytes())[..32].to_owned();
        let revision = self.config.mesh.revision.clone().unwrap_or_else(derived);
        attributes.insert("OUTRIGGER_REVISION", revision);
        attributes
    }

    /// Who the tasks of this service are.
    fn id(&self) -> Option<String> {
        let id = self.config.identity.as_ref()?.id()?;
        Some(id.to_string())
    }

    /// Whether the ingress takes TLS already: nobody is told of it before.
    fn takes_tls(&self, mapping: &PortMapping) -> bool {
        let modes = self.config.modes.borrow();
        let mode = modes.get(&format!("ingress/{}", mapping.name));
        mode.is_some_and(|mode| *mode != TlsMode::Disable)
    }

    pub(super) fn instance(
        &self,
        mapping: &PortMapping,
        port: u16,
    ) -> BTreeMap<&'static str, String> {
        let mesh = &self.config.mesh;
        let address = match mesh.address {
            IpAddr::V4(_) => "AWS_INSTANCE_IPV4",
            IpAddr::V6(_) => "AWS_INSTANCE_IPV6",
        };
        let document = mesh.document.as_ref();
        let optional = [
            ("AVAILABILITY_ZONE", mesh.zone.clone()),
            (
                "ECS_CLUSTER_NAME",
                document
                    .map(|one| one.cluster_name.clone())
                    .unwrap_or_default(),
            ),
            (
                "ECS_SERVICE_NAME",
                document
                    .map(|one| one.service_name.clone())
                    .unwrap_or_default(),
            ),
        ];
        let mut attributes = BTreeMap::from([
            (address, mesh.address.to_string()),
            ("AWS_INSTANCE_PORT", port.to_string()),
            (HOP, self.config.hop.to_string()),
            ("OUTRIGGER_NODE", mesh.task_id.clone()),
            ("OUTRIGGER_SIDECAR", "true".to_owned()),
            ("OUTRIGGER_STATE", "ACTIVE".to_owned()),
        ]);
        let id = self.id().filter(|_| self.takes_tls(mapping));
        attributes.extend(id.map(|id| (TLS, id)));
        attributes.extend(optional.into_iter().filter(|(_, value)| !value.is_empty()));
        attributes
    }
}
