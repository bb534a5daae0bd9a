//! One task of a service: its address, its counters, and the lease that a request holds on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use outrigger_xds::hop::Tokens;
use outrigger_xds::model::{self, EndpointHealth};

/// Counters that several workers write.
#[derive(Debug, Default)]
struct Counters {
    in_flight: AtomicU32,
    /// Failures in a row, by outlier detection's consecutive rules.
    consecutive: [AtomicU32; 3],
    requests: AtomicU64,
    /// Outcomes since outlier detection last looked: all in the lower half, successes in the upper.
    outcomes: AtomicU64,
}

/// One task. It is kept by (address, instance, zone, tokens of its sidecar, TLS) across updates, so its counters and ejections survive
/// them.
///
/// The counters come first, beside the reference count that every pick writes anyway, and the rest is longer than a cache line:
/// two endpoints never share one for what is written. Lines of their own would double what an endpoint takes.
#[derive(Debug)]
#[repr(C)]
pub struct Endpoint {
    counters: Counters,
    /// Unique in this process, never reused; the pools' key.
    pub id: u64,
    /// Where it is reached.
    pub address: SocketAddr,
    /// The registry's instance id; empty for the static file.
    pub instance: Box<str>,
    /// Availability zone; empty when unknown.
    pub zone: Box<str>,
    /// When the ejection ends or ended, in ms of the cluster's clock.
    pub(crate) ejected_until: AtomicU64,
    /// How many base times the last ejection lasted; the next lasts one more. Time without an ejection takes it down again.
    pub(crate) multiplier: AtomicU16,
    /// The rule that has ejected it; 0 is "not ejected".
    pub(crate) ejected_by: AtomicU8,
    /// The registry or a probe has called it unhealthy since it was ejected.
    pub(crate) found_sick: AtomicBool,
    /// The rule by which it has failed often enough to be ejected, or 0; the control runtime decides.
    pub(crate) suspect: AtomicU8,
    /// What our own active probes found.
    pub(crate) probed_unhealthy: AtomicBool,
    /// Draining or gone: pools close its idle connections.
    pub(crate) retired: AtomicBool,
    /// What it is for life: [`CROSS_ZONE`], [`TLS`].
    traits: u8,
    /// By which its sidecar knows itself; `None` where the hop protocol is not spoken.
    pub hop: Option<Box<Tokens>>,
}

/// It lies in another zone than the caller.
const CROSS_ZONE: u8 = 1;
/// It takes mutual TLS.
const TLS: u8 = 2;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Endpoint {
    /// `own_zone` is the caller's.
    pub(crate) fn new(address: SocketAddr, from: &model::Endpoint, own_zone: &str) -> Self {
        let known = !own_zone.is_empty() && !from.zone.is_empty();
        let cross_zone = u8::from(known && from.zone != own_zone) * CROSS_ZONE;
        let tls = u8::from(from.tls) * TLS;
        Self {
            counters: Counters::default(),
            id: NEXT_ID.fetch_add(1, Relaxed),
            address,
            instance: from.instance.as_str().into(),
            zone: from.zone.as_str().into(),
            traits: cross_zone | tls,
            hop: from.hop.map(Box::new),
            probed_unhealthy: AtomicBool::new(false),
            retired: AtomicBool::new(from.health == EndpointHealth::Draining),
            ejected_until: AtomicU64::new(0),
            multiplier: AtomicU16::new(0),
            ejected_by: AtomicU8::new(0),
            found_sick: AtomicBool::new(false),
            suspect: AtomicU8::new(0),
        }
    }

    /// Whether it lies in another zone than the caller, as far as both are known.
    pub fn is_cross_zone(&self) -> bool {
        self.traits & CROSS_ZONE != 0
    }

    /// Whether it takes mutual TLS; then it is never spoken to without.
    pub fn takes_tls(&self) -> bool {
        self.traits & TLS != 0
    }

    /// Requests and connections that hold a lease on it, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.counters.in_flight.load(Relaxed)
    }

    /// Requests handed to it so far.
    pub fn requests(&self) -> u64 {
        self.counters.requests.load(Relaxed)
    }

    /// Failures in a row, by outlier detection's consecutive rules.
    pub(crate) fn consecutive(&self) -> &[AtomicU32; 3] {
        &self.counters.consecutive
    }

    /// Outcomes since outlier detection last looked: all in the lower half, successes in the upper.
    pub(crate) fn outcomes(&self) -> &AtomicU64 {
        &self.counters.outcomes
    }

    /// Whether outlier detection has taken it out.
    pub fn is_ejected(&self) -> bool {
        self.ejected_by.load(Relaxed) != 0
    }
}

/// A request's claim on an endpoint. Dropping it is the only thing that ends it.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
}

impl Lease {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.counters.in_flight.fetch_add(1, Relaxed);
        endpoint.counters.requests.fetch_add(1, Relaxed);
        Self { endpoint }
    }

    /// Whose it is.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.counters.in_flight.fetch_sub(1, Relaxed);
    }
}

/// With its two reference counts, an endpoint fills the 152 bytes that glibc hands out of 160; there may be ten thousand. Sixteen
/// of them are what outlier detection's further rules count, and eight lead to the tokens of a hop where there is one.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Endpoint>() <= 128);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn endpoint(last_octet: u8) -> Arc<Endpoint> {
        let address = SocketAddr::from(([127, 0, 0, last_octet], 80));
        Arc::new(Endpoint::new(
            address,
            &model_endpoint(address, 1, EndpointHealth::Healthy),
            "",
        ))
    }

    pub(crate) fn endpoint_in(zone: &str, last_octet: u8) -> Arc<Endpoint> {
        let address = SocketAddr::from(([127, 0, 0, last_octet], 80));
        let from = model::Endpoint {
            zone: zone.to_owned(),
            ..model_endpoint(address, 1, EndpointHealth::Healthy)
        };
        Arc::new(Endpoint::new(address, &from, ""))
    }

    /// Members of weight 1, by the last octet of their address.
    pub(crate) fn members(of: &[(u8, EndpointHealth)]) -> Vec<(SocketAddr, model::Endpoint)> {
        of.iter()
            .map(|(n, health)| {
                let address = SocketAddr::from(([127, 0, 0, *n], 80));
                (address, model_endpoint(address, 1, *health))
            })
            .collect()
    }

    pub(crate) fn model_endpoint(
        address: SocketAddr,
        weight: u32,
        health: EndpointHealth,
    ) -> model::Endpoint {
        model::Endpoint {
            weight,
            health,
            instance: address.to_string(),
            ..model::Endpoint::new(model::Address::Ip(address))
        }
    }

    #[test]
    fn a_lease_counts_while_it_lives() {
        let endpoint = endpoint(1);
        let lease = Lease::new(Arc::clone(&endpoint));
        assert_eq!(endpoint.in_flight(), 1);
        drop(lease);
        assert_eq!(endpoint.in_flight(), 0);
        assert_eq!(endpoint.requests(), 1);
    }
}
