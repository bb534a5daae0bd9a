//! The Cloud Map API over a registry that is kept nowhere, for the fuzz target; nothing here runs in a control server.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::ads::Nodes;
use crate::cloudmap;
use crate::drain::Drains;
use crate::publish::Publisher;
use crate::store::Store;
use crate::writer::Writer;

/// One registry with the API in front.
pub struct Api {
    runtime: Runtime,
    drains: Drains,
}

impl Api {
    /// An empty registry.
    pub fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let (store, loaded) = Store::in_memory(&mut StdRng::seed_from_u64(1))?;
        let (writer, _) = Writer::start(store, loaded.registry, drop)?;
        let runtime = Builder::new_current_thread().build()?;
        let publisher = Arc::<Publisher>::default();
        // Nobody is connected.
        let nodes = Nodes::new(Arc::clone(&publisher), writer.clone(), Instant::now());
        let drains = Drains {
            writer,
            publisher,
            nodes: Arc::new(nodes),
        };
        Ok(Self { runtime, drains })
    }

    /// Calls an operation; answers the status and the body.
    pub fn call(&self, operation: &str, body: &[u8]) -> Result<(u16, Vec<u8>), axum::Error> {
        let mut headers = HeaderMap::new();
        let target = format!("Route53AutoNaming_v20170314.{operation}");
        if let Ok(target) = HeaderValue::from_str(&target) {
            headers.insert(HeaderName::from_static("x-amz-target"), target);
        }
        self.runtime.block_on(async {
            let response = cloudmap::answer(&self.drains, &headers, body).await;
            let status = response.status().as_u16();
            let body = to_bytes(response.into_body(), usize::MAX).await?;
            Ok((status, body.to_vec()))
        })
    }
}
