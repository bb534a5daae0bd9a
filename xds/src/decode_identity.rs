//! Who may call whom, from Envoy's protos. What cannot be understood is refused: a rule that is left out would let somebody in.

use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use prost::Name;
use serde_json::Value as Json;

use crate::decode::{Problems, parse};
use crate::encode_identity::{INBOUND, SOCKET_MATCH, TYPED_STRUCT, TypedStruct, takes_tls};
use crate::identity::{SpiffeId, TRUST_BUNDLE};
use crate::model::{Inbound, Protocol, ServicePolicy, TrustBundle};
use crate::tls::Roots;

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
    if let Err(error) = Roots::from_pem(roots.as_bytes()) {
        problems.add(field, error.to_string());
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

/// Whom the endpoints of a cluster may prove to be; empty when none of them takes TLS.
pub(crate) fn identities(message: &mut cds::Cluster, problems: &mut Problems) -> Vec<SpiffeId> {
    let socket = message.transport_socket.take();
    if socket.is_some_and(|socket| type_of(&socket) != RawBuffer::type_url()) {
        let reason = "is not raw_buffer: TLS is taken in transport_socket_matches alone";
        problems.add("transport_socket", reason);
    }
    let mut all = Vec::new();
    let matches = std::mem::take(&mut message.transport_socket_matches);
    for (index, one) in matches.into_iter().enumerate() {
        let field = format!("transport_socket_matches[{index}]");
        let socket = one.transport_socket.unwrap_or_default();
        let kind = type_of(&socket);
        if kind == RawBuffer::type_url() {
            continue;
        }
        if kind != tls::UpstreamTlsContext::type_url() {
            let reason = format!("{kind:?} is neither raw_buffer nor tls");
            problems.add(format!("{field}.transport_socket"), reason);
        } else if one.r#match != Some(takes_tls()) {
            problems.add(format!("{field}.match"), "is not {\"tls\": \"outrigger\"}");
        } else if let Some(core::transport_socket::ConfigType::TypedConfig(any)) =
            socket.config_type
        {
            let field = format!("{field}.transport_socket");
            let context = parse(&any, &field, problems);
            all.extend(context.and_then(|context| peers(context, &field, problems)));
        }
    }
    all.into_iter().flatten().collect()
}

fn type_of(socket: &core::TransportSocket) -> &str {
    match &socket.config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => &any.type_url,
        None => "",
    }
}

/// Everything that would have to be checked beside identities and roots is refused.
fn peers(
    context: tls::UpstreamTlsContext,
    field: &str,
    problems: &mut Problems,
) -> Option<Vec<SpiffeId>> {
    use tls::common_tls_context::ValidationContextType;
    use tls::tls_parameters::TlsProtocol;
    let common = context.common_tls_context.unwrap_or_default();
    let params = common.tls_params.unwrap_or_default();
    let newest = TlsProtocol::try_from(params.tls_maximum_protocol_version);
    if !matches!(newest, Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13)) {
        let field = format!("{field}.tls_params.tls_maximum_protocol_version");
        problems.add(field, "is older than TLS 1.3, which alone is spoken");
    }
    let field = format!("{field}.combined_validation_context");
    let combined = match common.validation_context_type {
        Some(ValidationContextType::CombinedValidationContext(combined)) => Some(combined),
        _ => None,
    };
    let combined = problems.need(combined, &field)?;
    let roots = combined.validation_context_sds_secret_config;
    if roots.is_none_or(|roots| roots.name != TRUST_BUNDLE) {
        let field = format!("{field}.validation_context_sds_secret_config.name");
        problems.add(field, format!("is not {TRUST_BUNDLE:?}"));
    }
    let field = format!("{field}.default_validation_context");
    let mut context = combined.default_validation_context.unwrap_or_default();
    let names = std::mem::take(&mut context.match_typed_subject_alt_names);
    if context != tls::CertificateValidationContext::default() {
        problems.add(&field, "has more than match_typed_subject_alt_names");
    }
    let field = format!("{field}.match_typed_subject_alt_names");
    if names.is_empty() {
        problems.add(&field, "names no identity");
    }
    let names = names.into_iter().enumerate();
    let ids = names.filter_map(|(index, name)| {
        let id = identity(name);
        let refused = |reason| problems.add(format!("{field}[{index}]"), reason);
        id.map_err(refused).ok()
    });
    Some(ids.collect())
}

fn identity(name: tls::SubjectAltNameMatcher) -> Result<SpiffeId, String> {
    use tls::subject_alt_name_matcher::SanType;
    let pattern = name.matcher.and_then(|matcher| matcher.match_pattern);
    match (SanType::try_from(name.san_type), pattern) {
        (Ok(SanType::Uri), Some(MatchPattern::Exact(id))) => id.parse(),
        _ => Err("is not an exact URI".to_owned()),
    }
}

/// Whether an endpoint takes TLS. What is said in other words than ours is refused: it would be spoken to in plaintext.
pub(crate) fn endpoint_tls(
    metadata: Option<&core::Metadata>,
    field: &str,
    problems: &mut Problems,
) -> bool {
    let said = metadata.and_then(|metadata| metadata.filter_metadata.get(SOCKET_MATCH));
    if said.is_some_and(|said| *said != takes_tls()) {
        let reason = "is not {\"tls\": \"outrigger\"}";
        problems.add(format!("{field}.metadata.{SOCKET_MATCH}"), reason);
    }
    said.is_some()
}
