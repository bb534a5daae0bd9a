//! Two sessions that are fed what the other one says, cut and damaged at random: whatever a peer sends, it is an error at most.

use outrigger_xds::tls::{Acceptor, Clients, Connector, Credentials, Identity, Peer, Roots, alpn};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

/// Somebody with a CA of his own, who believes the CA of `believed`, or his own.
fn identity(believed: Option<&Identity>) -> Arc<Identity> {
    let mut root = rcgen::CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = || rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertifiedIssuer::self_signed(root, key()).unwrap();
    let own = key();
    let leaf = rcgen::CertificateParams::default();
    let leaf = leaf.signed_by(&own, &ca).unwrap();
    let (pem, key) = (leaf.pem(), own.serialize_pem());
    let identity = Identity::default();
    identity.set_credentials(Credentials::from_pem(pem.as_bytes(), key.as_bytes()).unwrap());
    let own = Roots::from_pem(ca.pem().as_bytes()).unwrap();
    identity.set_roots(believed.and_then(Identity::roots).unwrap_or(own));
    Arc::new(identity)
}

/// One end, as a stream keeps it.
struct End {
    session: Session,
    left: Vec<u8>,
    plain: Vec<u8>,
    failed: bool,
}

impl End {
    fn new(session: Session) -> Self {
        Self {
            session,
            left: Vec::new(),
            plain: Vec::new(),
            failed: false,
        }
    }

    /// Takes these bytes in; what it says to them.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if self.failed {
            return out;
        }
        let mut all = [&self.left, bytes].concat();
        let plain = &mut self.plain;
        let digested = self
            .session
            .digest(&mut all, &mut out, |bytes| plain.extend_from_slice(bytes));
        match digested {
            Ok(digested) => self.left = all.split_off(digested.used),
            Err(_) => self.failed = true,
        }
        out
    }

    /// Says this, if it may.
    fn say(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plain.len() + 4096];
        if self.failed || self.session.state().is_handshaking() {
            return Vec::new();
        }
        let said = self.session.encrypt(&mut self.left, plain, &mut out);
        out.truncate(said.unwrap());
        out
    }
}

/// A conversation in which `damage` may change each piece on its way; both ends after it.
fn converse(
    [acceptor, connector]: [&dyn Fn() -> Session; 2],
    random: &mut SmallRng,
    damage: impl Fn(&mut SmallRng, &mut Vec<u8>),
) -> [End; 2] {
    let mut ends = [End::new(connector()), End::new(acceptor())];
    let mut ways = [Vec::new(), Vec::new()];
    ways[1] = ends[0].take(&[]);
    for turn in 0..60 {
        for at in [1, 0] {
            let length = random.random_range(0..=ways[at].len());
            let mut piece: Vec<u8> = ways[at].drain(..length).collect();
            damage(random, &mut piece);
            let answer = ends[at].take(&piece);
            let said = ends[at].say(&[turn; 100]);
            ways[1 - at].extend([answer, said].concat());
        }
    }
    ends
}

#[test]
fn whatever_is_cut_or_damaged_is_an_error_at_most() {
    let identity = identity(None);
    let clients = Clients::Must(Peer::Anybody);
    let acceptor = Acceptor::new(Arc::clone(&identity), clients, &[alpn::TCP], &[], None);
    let connector = Connector::new(identity, Peer::Anybody, &[alpn::TCP], &[]);
    let accept = || Session::server(acceptor.config().unwrap()).unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    let connect = || Session::client(connector.config().unwrap(), name.clone()).unwrap();
    let ends: [&dyn Fn() -> Session; 2] = [&accept, &connect];
    let mut random = SmallRng::seed_from_u64(7);
    for _ in 0..20 {
        let ends = converse(ends, &mut random, |_, _| ());
        assert!(ends.iter().all(|end| !end.failed && !end.plain.is_empty()));
    }
    let mut failed = 0;
    for _ in 0..400 {
        let ends = converse(ends, &mut random, |random, piece| {
            if !piece.is_empty() && random.random_ratio(1, 12) {
                let at = random.random_range(0..piece.len());
                match random.random_range(0..3) {
                    0 => piece[at] ^= random.random_range(1..=255),
                    1 => drop(piece.remove(at)),
                    _ => piece.insert(at, random.random()),
                }
            }
        });
        failed += usize::from(ends.iter().any(|end| end.failed));
    }
    assert!(failed > 200, "{failed}");
}

#[test]
fn a_refusal_that_comes_behind_the_handshake_is_an_error() {
    let orders = identity(None);
    let stranger = identity(Some(&orders));
    let clients = Clients::Must(Peer::Anybody);
    let acceptor = Acceptor::new(orders, clients, &[alpn::TCP], &[], None);
    let connector = Connector::new(stranger, Peer::Anybody, &[alpn::TCP], &[]);
    let accept = || Session::server(acceptor.config().unwrap()).unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    let connect = || Session::client(connector.config().unwrap(), name.clone()).unwrap();
    let mut random = SmallRng::seed_from_u64(7);
    for _ in 0..50 {
        let [client, server] = converse([&accept, &connect], &mut random, |_, _| ());
        assert!(!client.session.state().is_handshaking());
        assert!(client.failed && server.failed && server.plain.is_empty());
    }
}
