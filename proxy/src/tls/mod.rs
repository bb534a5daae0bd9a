//! Mutual TLS on this sidecar's connections: who the other end has proved to be. What both ends share is `outrigger_xds::tls`.

pub(crate) mod peer;
