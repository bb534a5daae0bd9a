//! From who may call whom to Envoy's protos: the trust bundle as a `Secret`, a service's policy as an extension's configuration, and
//! the identities of a cluster as what a stock Envoy needs to speak mutual TLS to those endpoints that take it.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value};
use envoy_types::util::pack_any;
use prost::Message;
use serde_json::Value as Json;

use crate::encode::{ads, string_struct};
use crate::identity::{SpiffeId, TRUST_BUNDLE};
use crate::model::{Cluster, Inbound, Metadata, Protocol, TrustBundle};
use crate::tls::alpn;

/// The name of a stock Envoy's own certificate and key: SDS from the cluster [`CERT_AGENT`].
pub const IDENTITY_SECRET: &str = "outrigger-identity";
/// The static cluster of a stock Envoy's bootstrap that leads to the `outrigger-proxy cert-agent` beside it.
pub const CERT_AGENT: &str = "outrigger-cert-agent";

/// The key in `filter_metadata` by which Envoy chooses an endpoint's transport socket.
pub(crate) const SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// What an [`Inbound`]'s configuration is to Envoy's `TypedStruct`: nothing that a stock Envoy has.
pub(crate) const INBOUND: &str = "type.googleapis.com/outrigger.v1.Inbound";
/// The type URL of [`TypedStruct`].
pub(crate) const TYPED_STRUCT: &str = "type.googleapis.com/xds.type.v3.TypedStruct";

/// `xds.type.v3.TypedStruct` (github.com/cncf/xds), which envoy-types leaves out.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TypedStruct {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) value: Option<Struct>,
}

pub(crate) fn secret(bundle: &TrustBundle) -> tls::Secret {
    let roots = core::data_source::Specifier::InlineString(bundle.roots.clone());
    let context = tls::CertificateValidationContext {
        trusted_ca: Some(core::DataSource {
            specifier: Some(roots),
            ..Default::default()
        }),
        ..Default::default()
    };
    tls::Secret {
        name: bundle.name.clone(),
        r#type: Some(tls::secret::Type::ValidationContext(context)),
    }
}

/// In the words of a service's policy, [`crate::model::ServicePolicy`].
pub(crate) fn inbound(value: &Inbound) -> core::TypedExtensionConfig {
    let mut policy = serde_json::Map::from_iter([("tls".to_owned(), value.tls.as_str().into())]);
    if let Some(authorization) = &value.authorization {
        let written = serde_json::to_value(authorization).expect("rules are lists of texts");
        policy.insert("authorization".to_owned(), written);
    }
    let typed = TypedStruct {
        type_url: INBOUND.to_owned(),
        value: Some(as_struct(policy)),
    };
    core::TypedExtensionConfig {
        name: value.name.clone(),
        typed_config: Some(Any {
            type_url: TYPED_STRUCT.to_owned(),
            value: typed.encode_to_vec(),
        }),
    }
}

fn as_struct(table: serde_json::Map<String, Json>) -> Struct {
    let fields = table.into_iter().map(|(key, value)| (key, as_value(value)));
    Struct {
        fields: HashMap::from_iter(fields),
    }
}

fn as_value(value: Json) -> Value {
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(bool) => Kind::BoolValue(bool),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(list) => Kind::ListValue(ListValue {
            values: list.into_iter().map(as_value).collect(),
        }),
        Json::Object(table) => Kind::StructValue(as_struct(table)),
    };
    Value { kind: Some(kind) }
}

/// What endpoints that take mutual TLS have under [`SOCKET_MATCH`].
pub(crate) fn takes_tls() -> Struct {
    string_struct(Metadata::from([("tls".to_owned(), "outrigger".to_owned())]))
}

/// TLS for endpoints that say so, plaintext for the others; none for a cluster without identities.
pub(crate) fn transport_sockets(cluster: &Cluster) -> Vec<TransportSocketMatch> {
    if cluster.identities.is_empty() {
        return Vec::new();
    }
    let socket = |name: &str, config| core::TransportSocket {
        name: format!("envoy.transport_sockets.{name}"),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    };
    let of = |name: &str, r#match, socket| TransportSocketMatch {
        name: name.to_owned(),
        r#match: Some(r#match),
        transport_socket: Some(socket),
    };
    let tls = socket("tls", pack_any(upstream_tls(cluster)));
    let plain = socket("raw_buffer", pack_any(RawBuffer {}));
    vec![
        of("tls", takes_tls(), tls),
        // Without a condition it is for all others.
        of("plaintext", Struct::default(), plain),
    ]
}

fn upstream_tls(cluster: &Cluster) -> tls::UpstreamTlsContext {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    use tls::tls_parameters::TlsProtocol;
    let sds = |name: &str, config| tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(config),
    };
    let identities = tls::CertificateValidationContext {
        match_typed_subject_alt_names: cluster.identities.iter().map(san).collect(),
        ..Default::default()
    };
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(identities),
        validation_context_sds_secret_config: Some(sds(TRUST_BUNDLE, ads())),
        ..Default::default()
    };
    let spoken = match cluster.protocol {
        Protocol::Http2 | Protocol::Grpc => alpn::H2,
        Protocol::Http | Protocol::Auto => alpn::HTTP1,
        Protocol::Tcp => alpn::TCP,
    };
    let common = tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![sds(IDENTITY_SECRET, cert_agent())],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
        alpn_protocols: vec![String::from_utf8_lossy(spoken).into_owned()],
        ..Default::default()
    };
    tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        ..Default::default()
    }
}

fn san(id: &SpiffeId) -> tls::SubjectAltNameMatcher {
    tls::SubjectAltNameMatcher {
        san_type: tls::subject_alt_name_matcher::SanType::Uri.into(),
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(id.to_string())),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A stock Envoy's key is made beside it: no control server has it.
fn cert_agent() -> core::ConfigSource {
    use core::config_source::ConfigSourceSpecifier;
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let agent = TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
        cluster_name: CERT_AGENT.to_owned(),
        ..Default::default()
    });
    let source = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc.into(),
        transport_api_version: core::ApiVersion::V3.into(),
        grpc_services: vec![core::GrpcService {
            target_specifier: Some(agent),
            ..Default::default()
        }],
        ..Default::default()
    };
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(source)),
        ..Default::default()
    }
}
