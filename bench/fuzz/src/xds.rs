//! Resources from an xDS server: what is accepted is encoded and decoded to the same again, and refusals name what is wrong.

use envoy_types::pb::google::protobuf::Any;
use outrigger_xds::decode::decode;
use outrigger_xds::encode::{encode, encode_with};
use outrigger_xds::{Resource, ResourceType};

/// Every resource has its name in field 1.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// The first byte says the type, the others are the resource.
pub fn check(bytes: &[u8]) {
    let Some((kind, value)) = bytes.split_first() else {
        return;
    };
    let kind = ResourceType::ALL[usize::from(*kind) % ResourceType::ALL.len()];
    let named: Named = prost::Message::decode(value).unwrap_or_default();
    let any = Any {
        type_url: kind.type_url().to_owned(),
        value: value.to_vec(),
    };
    let decoded = match decode(&named.name, &any) {
        Ok(decoded) => decoded,
        Err(problems) => {
            assert!(!problems.is_empty(), "refused for no reason");
            for problem in problems {
                assert!(
                    !problem.field.is_empty() && !problem.reason.is_empty(),
                    "{problem:?}"
                );
                assert_eq!(problem.name, named.name);
            }
            return;
        }
    };
    assert_eq!(decoded.resource.resource_type(), kind);
    let again = match (&decoded.resource, &decoded.endpoints) {
        (Resource::Cluster(cluster), Some(endpoints)) => encode_with(cluster, endpoints),
        (resource, _) => encode(resource),
    };
    assert_eq!(decode(&named.name, &again), Ok(decoded));
}
