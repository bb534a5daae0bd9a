//! What is refused rather than half understood.

use envoy_types::pb::envoy::config::core::v3 as core;
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
