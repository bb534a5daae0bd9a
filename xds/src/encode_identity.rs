//! From who may call whom to Envoy's protos: the trust bundle as a `Secret`, a service's policy as an extension's configuration.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value};
use prost::Message;
use serde_json::Value as Json;

use crate::model::{Inbound, TrustBundle};

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
