//! From the model to Envoy's v3 protos.

use envoy_types::pb::google::protobuf::Any;

use crate::model::{Cluster, EndpointSet};
use crate::resource::Resource;

/// One resource as it goes on the wire.
pub fn encode(resource: &Resource) -> Any {
    Any {
        type_url: resource.resource_type().type_url().to_owned(),
        value: Vec::new(),
    }
}

/// A `STRICT_DNS` cluster, which carries its endpoints.
pub fn encode_with(cluster: &Cluster, _endpoints: &EndpointSet) -> Any {
    encode(&Resource::Cluster(cluster.clone()))
}
