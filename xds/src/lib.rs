//! What Outrigger's sidecar and control server share: the resource model, its Envoy v3 encoding, and the delta ADS protocol.

pub mod model;
