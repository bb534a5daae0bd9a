//! The jobs that every peer is given.

mod tls;

pub(super) use tls::PLAIN;

use super::targets;
use super::verdict::Target;
use crate::load::Wire;
use crate::load::tls::{Group, Session};
use crate::peers::{Balance, Kind, Protocol};

/// One peer of a cell: how many proxies in a row, what they speak between them, how they spread requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    pub(super) kind: Kind,
    pub(super) hops: u8,
    pub(super) middle: Protocol,
    pub(super) balance: Balance,
    /// Whether it speaks the cell's TLS.
    pub(super) tls: bool,
    /// Whether two of ours speak the hop protocol.
    pub(super) hop: bool,
    /// Added to the peer's name.
    pub(super) suffix: &'static str,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// CPU, throughput and latency of requests.
    Requests,
    /// The same, CPU per GB of bodies.
    Gigabytes,
    /// Resident memory after the first request.
    Idle,
    /// CPU of connections of one request each.
    Handshakes,
    /// The growth of resident memory with this many connections that have done one request each.
    IdleConnections(usize),
}

/// One job.
#[derive(Debug, Clone)]
pub(super) struct CellPlan {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) measure: Measure,
    pub(super) front: Protocol,
    pub(super) back: Protocol,
    pub(super) wire: Wire,
    pub(super) connections: usize,
    pub(super) streams: usize,
    pub(super) rate: Option<u32>,
    /// Bytes of a response body, or of an echo.
    pub(super) bytes: usize,
    pub(super) services: usize,
    pub(super) endpoints: usize,
    pub(super) workers: usize,
    /// Added to the first endpoint's answers, ms; 0 is none.
    pub(super) slow_ms: u64,
    /// Of the variants that speak it: before a single proxy, or between two.
    pub(super) tls: Option<(Group, Session)>,
    pub(super) variants: Vec<Variant>,
    pub(super) notes: Vec<&'static str>,
}

pub(super) const fn variant(kind: Kind, hops: u8) -> Variant {
    Variant {
        kind,
        hops,
        middle: Protocol::Http,
        balance: Balance::Shipped,
        tls: false,
        hop: false,
        suffix: "",
    }
}

fn one_hop() -> Vec<Variant> {
    [Kind::Outrigger, Kind::Envoy, Kind::HaProxy, Kind::Nginx]
        .map(|kind| variant(kind, 1))
        .into()
}

/// Two proxies in a row, HTTP/1.1 or HTTP/2 between them, and one Envoy to compare both of ours with.
fn two_hops(middle: Protocol) -> Vec<Variant> {
    let mut variants: Vec<_> = [Kind::Outrigger, Kind::Envoy, Kind::HaProxy, Kind::Nginx]
        .map(|kind| Variant {
            middle: match kind {
                // It speaks no HTTP/2 to a server.
                Kind::Nginx => Protocol::Http,
                _ => middle,
            },
            ..variant(kind, 2)
        })
        .into();
    variants.push(variant(Kind::Envoy, 1));
    variants
}

/// Envoy in both ways that it has of meeting a slow endpoint.
fn balanced() -> Vec<Variant> {
    let mut variants = one_hop();
    variants.push(Variant {
        balance: Balance::LeastRequest,
        suffix: "-least-request",
        ..variant(Kind::Envoy, 1)
    });
    variants
}

/// One hop, HTTP/1.1, 64 connections, 1 KB, one endpoint, one worker, closed loop.
fn h1(name: &'static str, title: &'static str) -> CellPlan {
    CellPlan {
        name,
        title,
        measure: Measure::Requests,
        front: Protocol::Http,
        back: Protocol::Http,
        wire: Wire::Http1,
        connections: 64,
        streams: 1,
        rate: None,
        bytes: 1024,
        services: 1,
        endpoints: 1,
        workers: 1,
        slow_ms: 0,
        tls: None,
        variants: one_hop(),
        notes: Vec::new(),
    }
}

impl CellPlan {
    /// What figures are divided by.
    pub(super) fn per(&self) -> &'static str {
        match self.measure {
            Measure::Requests => "100k requests",
            Measure::Gigabytes => "GB",
            Measure::Handshakes => "1,000 handshakes",
            Measure::Idle => "MiB",
            Measure::IdleConnections(_) => "KiB per connection",
        }
    }

    /// The name of its memory figure.
    pub(super) fn memory_figure(&self) -> Option<&'static str> {
        match self.measure {
            Measure::Requests | Measure::Gigabytes | Measure::Handshakes => None,
            Measure::Idle if self.services > 1 => Some("rss_services_mib"),
            Measure::Idle => Some("rss_idle_mib"),
            Measure::IdleConnections(_) => Some("idle_connection_kib"),
        }
    }

    /// Whether the load also goes to the origin without a proxy.
    pub(super) fn has_direct(&self) -> bool {
        let alike = matches!(self.measure, Measure::Requests | Measure::Gigabytes);
        alike && self.slow_ms == 0
    }

    /// The ratios that are aimed at.
    pub(super) fn targets(&self) -> Vec<Target> {
        targets::of(self.name)
    }
}

/// HTTP/2 from the client, few connections with many streams.
fn h2(name: &'static str, title: &'static str, back: Protocol) -> CellPlan {
    CellPlan {
        front: Protocol::Http2,
        back,
        wire: Wire::Http2,
        connections: 4,
        streams: 16,
        ..h1(name, title)
    }
}

fn slow(name: &'static str, title: &'static str, rate: u32) -> CellPlan {
    CellPlan {
        rate: Some(rate),
        endpoints: 3,
        slow_ms: 50,
        variants: balanced(),
        ..h1(name, title)
    }
}

fn memory(name: &'static str, title: &'static str, measure: Measure) -> CellPlan {
    CellPlan {
        measure,
        ..h1(name, title)
    }
}

/// Every cell, in the order they run.
pub(super) fn all() -> Vec<CellPlan> {
    let mut all = vec![
        h1("h1-64-1k", "HTTP/1.1, one hop, 64 connections, 1 KB"),
        CellPlan {
            rate: Some(2000),
            ..h1(
                "h1-2000rps",
                "HTTP/1.1, one hop, 2,000 requests a second, 1 KB",
            )
        },
    ];
    all.extend(http2());
    all.extend(pairs());
    all.extend(tls::cells());
    all.extend(bodies());
    all.extend(shapes());
    all.extend([
        slow(
            "slow-500rps",
            "One of three endpoints takes 50 ms, 500 requests a second",
            500,
        ),
        slow(
            "slow-2000rps",
            "One of three endpoints takes 50 ms, 2,000 requests a second",
            2000,
        ),
        memory(
            "rss-idle",
            "Resident memory after one request",
            Measure::Idle,
        ),
        CellPlan {
            services: 1000,
            endpoints: 10,
            ..memory(
                "rss-1000x10",
                "Resident memory, 1,000 services of 10 endpoints, each on an address of its own",
                Measure::Idle,
            )
        },
        memory(
            "idle-10k",
            "Memory of 10,000 idle connections, each after one request",
            Measure::IdleConnections(10_000),
        ),
    ]);
    all
}

fn http2() -> [CellPlan; 3] {
    let no_nginx = "nginx speaks no HTTP/2 to servers";
    let without_nginx = || {
        let mut variants = one_hop();
        variants.retain(|variant| variant.kind != Kind::Nginx);
        variants
    };
    [
        h2(
            "h2-h1",
            "HTTP/2 in, HTTP/1.1 out, 4 connections of 16 streams, 1 KB",
            Protocol::Http,
        ),
        CellPlan {
            variants: without_nginx(),
            notes: vec![no_nginx],
            ..h2(
                "h2-h2",
                "HTTP/2 in and out, 4 connections of 16 streams, 1 KB",
                Protocol::Http2,
            )
        },
        CellPlan {
            front: Protocol::Grpc,
            wire: Wire::Grpc,
            ..h2(
                "grpc",
                "gRPC unary, 4 connections of 16 streams, 100 bytes in, 1 KB out",
                Protocol::Grpc,
            )
        },
    ]
}

fn pairs() -> [CellPlan; 3] {
    let mixed = "nginx speaks no HTTP/2 to servers: its pair has HTTP/1.1 between";
    [
        CellPlan {
            variants: two_hops(Protocol::Http),
            ..h1(
                "two-hops-h1",
                "Two hops, HTTP/1.1 between them, 64 connections, 1 KB",
            )
        },
        CellPlan {
            variants: two_hops(Protocol::Http2),
            notes: vec![mixed],
            ..h1(
                "two-hops-h2",
                "Two hops, HTTP/2 between them, 64 connections, 1 KB",
            )
        },
        CellPlan {
            rate: Some(2000),
            variants: two_hops(Protocol::Http2),
            notes: vec![mixed],
            ..h1(
                "two-hops-2000rps",
                "Two hops, HTTP/2 between them, 2,000 requests a second, 1 KB",
            )
        },
    ]
}

fn bodies() -> [CellPlan; 4] {
    let tcp = |plan: CellPlan| CellPlan {
        front: Protocol::Tcp,
        back: Protocol::Tcp,
        ..plan
    };
    [
        CellPlan {
            measure: Measure::Gigabytes,
            bytes: 100_000,
            ..h1("h1-64-100k", "HTTP/1.1, one hop, 64 connections, 100 KB")
        },
        CellPlan {
            measure: Measure::Gigabytes,
            bytes: 10_000_000,
            connections: 16,
            ..h1("h1-16-10m", "HTTP/1.1, one hop, 16 connections, 10 MB")
        },
        tcp(CellPlan {
            measure: Measure::Gigabytes,
            bytes: 10_000_000,
            connections: 16,
            ..h1("tcp-10m", "Opaque TCP, 16 connections, 10 MB at a time")
        }),
        tcp(CellPlan {
            wire: Wire::Tcp,
            ..h1("tcp-1k", "Opaque TCP, 64 connections, 1 KB there and back")
        }),
    ]
}

fn shapes() -> [CellPlan; 7] {
    let connections = |connections, name, title| CellPlan {
        connections,
        ..h1(name, title)
    };
    let endpoints = |endpoints, name, title| CellPlan {
        endpoints,
        ..h1(name, title)
    };
    let workers = |workers, name, title| CellPlan {
        workers,
        ..h1(name, title)
    };
    [
        connections(1, "h1-1-1k", "HTTP/1.1, one hop, 1 connection, 1 KB"),
        connections(16, "h1-16-1k", "HTTP/1.1, one hop, 16 connections, 1 KB"),
        connections(
            1000,
            "h1-1000-1k",
            "HTTP/1.1, one hop, 1,000 connections, 1 KB",
        ),
        endpoints(
            3,
            "h1-3-endpoints",
            "HTTP/1.1, one hop, 64 connections, 1 KB, 3 endpoints",
        ),
        endpoints(
            100,
            "h1-100-endpoints",
            "HTTP/1.1, one hop, 64 connections, 1 KB, 100 endpoints",
        ),
        workers(
            2,
            "h1-2-workers",
            "HTTP/1.1, one hop, 64 connections, 1 KB, 2 workers",
        ),
        workers(
            4,
            "h1-4-workers",
            "HTTP/1.1, one hop, 64 connections, 1 KB, 4 workers",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_has_a_name_of_its_own_and_somebody_to_measure() {
        let mut names: Vec<_> = all().iter().map(|plan| plan.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
        assert!(all().iter().all(|plan| !plan.variants.is_empty()));
    }

    #[test]
    fn nginx_is_asked_for_nothing_that_it_cannot_do() {
        let nginx = |plan: &CellPlan| plan.variants.iter().any(|one| one.kind == Kind::Nginx);
        for plan in all().iter().filter(|plan| nginx(plan)) {
            assert_ne!(plan.back, Protocol::Http2, "{}", plan.name);
            let mut pairs = plan.variants.iter().filter(|one| one.kind == Kind::Nginx);
            assert!(pairs.all(|one| one.middle == Protocol::Http));
        }
    }
}
