//! What is refused rather than half understood.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::google::protobuf::Struct;
use envoy_types::pb::google::protobuf::value::Kind;

use super::*;
use crate::encode_identity::TypedStruct;

fn changed_inbound(change: impl FnOnce(&mut TypedStruct)) -> Vec<(String, String)> {
    let Any { value, .. } = encode(&samples::inbound("orders", "cart"));
    let mut message =
        core::TypedExtensionConfig::decode(value.as_slice()).expect("it was just encoded");
    let config = message.typed_config.as_mut().expect("it was just encoded");
    let mut typed = TypedStruct::decode(config.value.as_slice()).expect("it was just encoded");
    change(&mut typed);
    config.value = typed.encode_to_vec();
    problems("prod/orders", &pack_any(message))
}

fn fields(typed: &mut TypedStruct) -> &mut Struct {
    typed.value.as_mut().expect("it was just encoded")
}

fn text(text: &str) -> protobuf::Value {
    let kind = Some(Kind::StringValue(text.to_owned()));
    protobuf::Value { kind }
}

#[test]
fn a_policy_that_says_more_than_is_known_or_less_than_is_needed_is_refused() {
    let found = changed_inbound(|typed| {
        fields(typed).fields.insert("quota".to_owned(), text("1"));
    });
    assert_eq!(found[0].0, "quota");
    let found = changed_inbound(|typed| {
        fields(typed).fields.remove("tls");
    });
    assert_eq!(found[0].0, "tls");
    let found = changed_inbound(|typed| {
        fields(typed).fields.insert("tls".to_owned(), text("on"));
    });
    assert_eq!(found[0].0, "tls");
    assert!(found[0].1.contains("\"on\""), "{found:?}");
    let found = changed_inbound(|typed| typed.type_url = "x".to_owned());
    assert_eq!(found[0].0, "typed_config.value.type_url");
}

#[test]
fn a_rule_that_cannot_be_is_named_on_the_wire_too() {
    let Resource::Inbound(mut inbound) = samples::inbound("orders", "cart") else {
        panic!("it is an inbound policy")
    };
    let authorization = inbound.authorization.as_mut().expect("the sample has one");
    authorization.allow[0].paths = vec!["/../".to_owned()];
    let found = problems("prod/orders", &encode(&Resource::Inbound(inbound)));
    assert_eq!(found[0].0, "authorization.allow[0].paths");
}

#[test]
fn a_trust_bundle_without_a_root_is_refused() {
    let name = crate::identity::TRUST_BUNDLE.to_owned();
    let empty = TrustBundle {
        name: name.clone(),
        roots: String::new(),
    };
    let found = problems(&name, &encode(&Resource::Secret(empty)));
    assert_eq!(found[0].0, "validation_context.trusted_ca");
    let other = tls::Secret {
        name: name.clone(),
        r#type: Some(tls::secret::Type::GenericSecret(Default::default())),
    };
    let found = problems(&name, &pack_any(other));
    assert_eq!(found[0].0, "validation_context");
}

fn secure() -> Cluster {
    let id = "spiffe://td/ns/prod/svc/orders".parse();
    Cluster {
        identities: vec![id.expect("is an id")],
        ..samples::cluster("orders")
    }
}

/// Problems of a cluster with identities, changed as a whole.
fn changed_cluster(change: impl FnOnce(&mut cds::Cluster)) -> Vec<(String, String)> {
    let Any { value, .. } = encode(&Resource::Cluster(secure()));
    let mut message = cds::Cluster::decode(value.as_slice()).expect("it was just encoded");
    change(&mut message);
    problems("prod/orders", &pack_any(message))
}

/// The same, changed in what is asked of TLS.
fn changed_tls(change: impl FnOnce(&mut tls::CommonTlsContext)) -> Vec<(String, String)> {
    use core::transport_socket::ConfigType;
    changed_cluster(|message| {
        let socket = message.transport_socket_matches[0]
            .transport_socket
            .as_mut();
        let config = socket.and_then(|socket| socket.config_type.as_mut());
        let Some(ConfigType::TypedConfig(any)) = config else {
            panic!("the first is TLS")
        };
        let mut context =
            tls::UpstreamTlsContext::decode(any.value.as_slice()).expect("it was just encoded");
        let common = context.common_tls_context.as_mut();
        change(common.expect("it was just encoded"));
        *any = pack_any(context);
    })
}

fn validation(
    context: &mut tls::CommonTlsContext,
) -> &mut tls::common_tls_context::CombinedCertificateValidationContext {
    use tls::common_tls_context::ValidationContextType::CombinedValidationContext;
    match &mut context.validation_context_type {
        Some(CombinedValidationContext(combined)) => combined,
        other => panic!("{other:?}"),
    }
}

const TLS: &str = "transport_socket_matches[0].transport_socket";

#[test]
fn a_cluster_without_identities_says_nothing_of_tls() {
    let Any { value, .. } = encode(&Resource::Cluster(samples::cluster("orders")));
    let message = cds::Cluster::decode(value.as_slice()).expect("it was just encoded");
    assert!(message.transport_socket_matches.is_empty() && message.transport_socket.is_none());
}

#[test]
fn tls_that_is_meant_for_every_endpoint_is_refused_for_it_would_be_left_out() {
    let found = changed_cluster(|message| {
        let mut matches = std::mem::take(&mut message.transport_socket_matches);
        message.transport_socket = matches.remove(0).transport_socket;
    });
    assert_eq!(found[0].0, "transport_socket");
    let found = changed_cluster(|message| {
        message.transport_socket_matches[0].r#match = Some(Struct::default());
    });
    assert_eq!(found[0].0, "transport_socket_matches[0].match");
    let found = changed_cluster(|message| {
        message.transport_socket_matches[1].transport_socket = None;
    });
    assert_eq!(found[0].0, "transport_socket_matches[1].transport_socket");
}

#[test]
fn checks_of_a_peer_that_are_not_made_here_are_refused() {
    use tls::tls_parameters::TlsProtocol;
    let found = changed_tls(|context| {
        let params = context.tls_params.as_mut().expect("it was just encoded");
        params.tls_maximum_protocol_version = TlsProtocol::TlSv12.into();
    });
    assert_eq!(
        found[0].0,
        format!("{TLS}.tls_params.tls_maximum_protocol_version")
    );

    let within = format!("{TLS}.combined_validation_context");
    let found = changed_tls(|context| context.validation_context_type = None);
    assert_eq!(found[0].0, within);
    let found = changed_tls(|context| {
        let roots = &mut validation(context).validation_context_sds_secret_config;
        roots.as_mut().expect("it was just encoded").name = "others".to_owned();
    });
    let field = "validation_context_sds_secret_config.name";
    assert_eq!(found[0].0, format!("{within}.{field}"));

    let within = format!("{within}.default_validation_context");
    let change = |change: fn(&mut tls::CertificateValidationContext)| {
        changed_tls(|context| {
            let default = validation(context).default_validation_context.as_mut();
            change(default.expect("it was just encoded"));
        })
    };
    let found = change(|context| context.verify_certificate_hash = vec!["00".to_owned()]);
    assert_eq!(found[0].0, within);
    let names = format!("{within}.match_typed_subject_alt_names");
    let found = change(|context| context.match_typed_subject_alt_names.clear());
    assert_eq!(found[0].0, names);
    let found = change(|context| {
        let sans = &mut context.match_typed_subject_alt_names;
        sans.push(tls::SubjectAltNameMatcher {
            san_type: tls::subject_alt_name_matcher::SanType::Dns.into(),
            ..sans[0].clone()
        });
    });
    assert_eq!(found[0].0, format!("{names}[1]"));
}

#[test]
fn an_endpoint_that_asks_for_another_transport_is_refused() {
    let set = samples::endpoints("orders", &[1]);
    let Any { value, .. } = encode(&set);
    let mut message =
        eds::ClusterLoadAssignment::decode(value.as_slice()).expect("it was just encoded");
    let metadata = message.endpoints[0].lb_endpoints[0].metadata.as_mut();
    let keys = &mut metadata.expect("it was just encoded").filter_metadata;
    let other = Struct {
        fields: [("tls".to_owned(), text("other"))].into(),
    };
    keys.insert("envoy.transport_socket_match".to_owned(), other);
    let found = problems("prod/orders", &pack_any(message));
    let field = "endpoints[0].lb_endpoints[0].metadata.envoy.transport_socket_match";
    assert_eq!(found[0].0, field);
}
