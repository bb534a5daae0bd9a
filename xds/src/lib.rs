//! What Outrigger's sidecar and control server share: the resource model, its Envoy v3 encoding, and the delta ADS protocol.

pub mod client;
pub mod decode;
mod decode_cluster;
mod decode_identity;
mod decode_listener;
mod decode_policy;
pub mod encode;
mod encode_endpoints;
mod encode_identity;
mod encode_policy;
pub mod hop;
pub mod identity;
pub mod model;
mod rejections;
pub mod resource;
#[cfg(test)]
mod samples;
pub mod server;
pub mod set;
pub mod subscription;
pub mod tls;
pub mod transport;

pub use resource::{Rejection, Resource, ResourceType};
pub use set::ResourceSet;
pub use transport::NodeInfo;
