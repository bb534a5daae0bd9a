//! What mutual TLS costs: handshakes, warm pairs beside our own plaintext one, and idle connections.

use super::{CellPlan, Measure, Variant, h1, one_hop, two_hops, variant};
use crate::load::tls::{Group, Session};
use crate::peers::{Kind, Protocol};

/// Ours without TLS, beside ours with it.
pub(in crate::compare) const PLAIN: &str = "-plain";

const NO_HYBRID: &str =
    "Debian's HAProxy and nginx are of OpenSSL 3.0, which has no X25519MLKEM768";
const MIXED: &str = "nginx speaks no HTTP/2 to servers: its pair has HTTP/1.1 between";

pub(super) fn cells() -> Vec<CellPlan> {
    let mut cells = vec![
        handshakes(
            "tls-handshake",
            "Full mutual TLS 1.3 handshake, P-256, X25519, one request, close",
            (Group::X25519, Session::Full),
        ),
        handshakes(
            "tls-handshake-hybrid",
            "Full mutual TLS 1.3 handshake, P-256, X25519MLKEM768, one request, close",
            (Group::X25519MLKEM768, Session::Full),
        ),
        handshakes(
            "tls-resumed",
            "Resumed TLS 1.3 handshake, X25519, one request, close",
            (Group::X25519, Session::Resumed),
        ),
        handshakes(
            "tls-resumed-hybrid",
            "Resumed TLS 1.3 handshake, X25519MLKEM768, one request, close",
            (Group::X25519MLKEM768, Session::Resumed),
        ),
    ];
    for (name, title, middle, rate) in [
        (
            "two-hops-mtls-h1",
            "Two hops, mutual TLS and HTTP/1.1 between them, 64 connections, 1 KB",
            Protocol::Http,
            None,
        ),
        (
            "two-hops-mtls-h2",
            "Two hops, mutual TLS and HTTP/2 between them, 64 connections, 1 KB",
            Protocol::Http2,
            None,
        ),
        (
            "two-hops-mtls-h1-2000rps",
            "Two hops, mutual TLS and HTTP/1.1 between them, 2,000 requests a second, 1 KB",
            Protocol::Http,
            Some(2000),
        ),
        (
            "two-hops-mtls-h2-2000rps",
            "Two hops, mutual TLS and HTTP/2 between them, 2,000 requests a second, 1 KB",
            Protocol::Http2,
            Some(2000),
        ),
    ] {
        cells.push(CellPlan {
            rate,
            variants: pair(middle),
            notes: match middle {
                Protocol::Http2 => vec![MIXED],
                _ => Vec::new(),
            },
            tls: Some((Group::X25519, Session::Kept)),
            ..h1(name, title)
        });
    }
    cells.push(CellPlan {
        measure: Measure::IdleConnections(5000),
        tls: Some((Group::X25519, Session::Kept)),
        variants: beside(with_tls(one_hop())),
        ..h1(
            "idle-tls-5k",
            "Memory of 5,000 idle connections with mutual TLS, each after one request",
        )
    });
    cells
}

/// The proxy is the server, before an origin without TLS.
fn handshakes(name: &'static str, title: &'static str, tls: (Group, Session)) -> CellPlan {
    let mut variants = with_tls(one_hop());
    let mut notes = Vec::new();
    if tls.0 == Group::X25519MLKEM768 {
        variants.retain(|one| matches!(one.kind, Kind::Outrigger | Kind::Envoy));
        notes.push(NO_HYBRID);
    }
    CellPlan {
        measure: Measure::Handshakes,
        connections: 16,
        bytes: 100,
        tls: Some(tls),
        variants,
        notes,
        ..h1(name, title)
    }
}

/// Two proxies of each peer, and two of ours in plaintext. Ours have HTTP/2 between them by the hop protocol, as in a mesh.
fn pair(middle: Protocol) -> Vec<Variant> {
    let mut variants = with_tls(two_hops(middle));
    variants.retain(|one| one.hops == 2);
    for one in variants
        .iter_mut()
        .filter(|one| one.kind == Kind::Outrigger)
    {
        one.hop = middle == Protocol::Http2;
        one.middle = Protocol::Http;
    }
    beside(variants)
}

fn with_tls(variants: Vec<Variant>) -> Vec<Variant> {
    let variants = variants.into_iter();
    variants.map(|one| Variant { tls: true, ..one }).collect()
}

/// And ours without TLS.
fn beside(mut variants: Vec<Variant>) -> Vec<Variant> {
    let ours = variants.iter().find(|one| one.kind == Kind::Outrigger);
    let plain = Variant {
        tls: false,
        suffix: PLAIN,
        ..*ours.unwrap_or(&variant(Kind::Outrigger, 1))
    };
    variants.push(plain);
    variants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_with_tls_comes_before_ours_without_as_the_first_is_compared_with_the_rest() {
        for cell in cells() {
            let ours = cell.variants.iter();
            let ours: Vec<_> = ours.filter(|one| one.kind == Kind::Outrigger).collect();
            assert!(ours[0].tls && ours[0].suffix.is_empty(), "{}", cell.name);
            assert!(ours[1..].iter().all(|one| !one.tls && one.suffix == PLAIN));
            assert!(ours.iter().all(|one| one.hop == ours[0].hop));
        }
    }

    #[test]
    fn every_peer_of_a_cell_speaks_its_tls() {
        for cell in cells() {
            let mut peers = cell.variants.iter();
            assert!(cell.tls.is_some(), "{}", cell.name);
            assert!(peers.all(|one| one.tls || one.suffix == PLAIN));
        }
    }
}
