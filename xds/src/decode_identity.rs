//! Who may call whom, from Envoy's protos. What cannot be understood is refused: a rule that is left out would let somebody in.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use serde_json::Value as Json;

use crate::decode::{Problems, parse};
use crate::encode_identity::{INBOUND, TYPED_STRUCT, TypedStruct};
use crate::model::{Inbound, Protocol, ServicePolicy, TrustBundle};

pub(crate) fn secret(message: tls::Secret, problems: &mut Problems) -> Option<TrustBundle> {
    use core::data_source::Specifier;
    let name = problems.need_text(message.name, "name");
    let context = match message.r#type {
        Some(tls::secret::Type::ValidationContext(context)) => Some(context),
        _ => None,
    };
    let context = problems.need(context, "validation_context")?;
    let source = context.trusted_ca.and_then(|source| source.specifier);
    let roots = match source {
        Some(Specifier::InlineString(text)) => Some(text),
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).ok(),
        _ => None,
    };
    let field = "validation_context.trusted_ca";
    let Some(roots) = roots else {
        problems.add(field, "is neither inline_string nor inline_bytes with text");
        return None;
    };
    if !roots.contains("-----BEGIN CERTIFICATE-----") {
        problems.add(field, "has no certificate in PEM");
    }
    Some(TrustBundle { name, roots })
}

pub(crate) fn inbound(
    message: core::TypedExtensionConfig,
    problems: &mut Problems,
) -> Option<Inbound> {
    let name = problems.need_text(message.name, "name");
    let any = problems.need(message.typed_config, "typed_config")?;
    if any.type_url != TYPED_STRUCT {
        let reason = format!("{:?} is not {TYPED_STRUCT}", any.type_url);
        problems.add("typed_config.type_url", reason);
        return None;
    }
    let typed: TypedStruct = parse(&any, "typed_config", problems)?;
    if typed.type_url != INBOUND {
        let reason = format!("{:?} is not {INBOUND}", typed.type_url);
        problems.add("typed_config.value.type_url", reason);
        return None;
    }
    let table = problems.need(typed.value, "typed_config.value.value")?;
    let Some(Json::Object(table)) = as_json(table) else {
        problems.add("typed_config.value.value", "is no policy");
        return None;
    };
    for field in table.keys() {
        if !["tls", "authorization"].contains(&field.as_str()) {
            problems.add(field, "is not a field of this policy");
        }
    }
    // Its default takes everybody's connections.
    problems.need(table.get("tls"), "tls")?;
    // What a rule may say depends on the protocol; it was checked where that is known.
    match ServicePolicy::from_json(Json::Object(table), Protocol::Http) {
        Ok(policy) => Some(Inbound {
            name,
            tls: policy.tls,
            authorization: policy.authorization,
        }),
        Err(errors) => {
            for error in errors {
                let reason = error.explained();
                problems.add(error.field, reason);
            }
            None
        }
    }
}

/// `None` for what JSON has not. How deep it goes is bounded where it was parsed (100 messages, prost's limit).
fn as_json(table: Struct) -> Option<Json> {
    let fields = table.fields.into_iter();
    let fields = fields.map(|(key, value)| Some((key, value_as_json(value)?)));
    fields.collect::<Option<_>>().map(Json::Object)
}

fn value_as_json(value: Value) -> Option<Json> {
    match value.kind? {
        Kind::NullValue(_) => Some(Json::Null),
        Kind::BoolValue(bool) => Some(Json::Bool(bool)),
        Kind::NumberValue(number) => serde_json::Number::from_f64(number).map(Json::Number),
        Kind::StringValue(text) => Some(Json::String(text)),
        Kind::ListValue(list) => {
            let values = list.values.into_iter().map(value_as_json);
            values.collect::<Option<_>>().map(Json::Array)
        }
        Kind::StructValue(table) => as_json(table),
    }
}
