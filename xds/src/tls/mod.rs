//! Mutual TLS 1.3 between all parts of Outrigger: what one end proves itself by, whom it believes, and rustls configured for both.
//!
//! An [`Identity`] is replaced as a whole when certificates or roots are renewed; an [`Acceptor`] or a [`Connector`] follows it, so
//! that connections made later use what is new and those that are open go on. Sessions are resumed only under the credentials and
//! roots they began with: a root that is withdrawn is believed by nobody's ticket.

mod config;
mod credentials;
mod pin;
mod verify;

pub use config::{Acceptor, Clients, Connector, Group, HOP_DOMAIN, hop_name, is_hop_name};
pub use credentials::{Credentials, Identity, Roots, TlsError};
pub use pin::Pin;
pub use verify::{CLOCK_SKEW, Peer, identity_of, is_current, is_wrong_identity, reason};

/// What is spoken inside (RFC 7301). Our sidecars, which speak the hop protocol to each other, say so by names of their own.
pub mod alpn {
    /// HTTP/2 of whoever has a certificate.
    pub const H2: &[u8] = b"h2";
    /// HTTP/1.1 of whoever has a certificate.
    pub const HTTP1: &[u8] = b"http/1.1";
    /// HTTP/2 on a hop.
    pub const HOP_H2: &[u8] = b"outrigger-h2/1";
    /// HTTP/1.1 on a hop.
    pub const HOP_HTTP1: &[u8] = b"outrigger-http/1";
    /// Opaque bytes.
    pub const TCP: &[u8] = b"outrigger-tcp/1";
}

#[cfg(test)]
mod tests;
