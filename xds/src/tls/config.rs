//! rustls configured for either end, made anew when the identity behind it changes.

use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CipherSuite, ClientConfig, ServerConfig, version::TLS13};
use sha2::{Digest, Sha256};

use super::credentials::{Identity, State};
use super::verify::{Peer, Verifier};

/// Sessions that one connector keeps for endpoints to be resumed.
const SESSIONS: usize = 256;
/// The domain under which a hop names the task that it means; it is in no DNS (RFC 6761 section 6.4).
pub const HOP_DOMAIN: &str = "hop.invalid";

/// The cryptography: aws-lc-rs, TLS 1.3, AES-128 first, as it costs least and is what Service Connect's TLS begins with.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let mut provider = aws_lc_rs::default_provider();
        let first = CipherSuite::TLS13_AES_128_GCM_SHA256;
        provider
            .cipher_suites
            .sort_by_key(|suite| suite.suite() != first);
        Arc::new(provider)
    })
}

/// The name by which a hop says in SNI which task it means (`target` is [`crate::hop::target`]'s).
pub fn hop_name(target: &str) -> String {
    let digest = Sha256::digest(target);
    let hex: String = digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{hex}.{HOP_DOMAIN}")
}

/// A key exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// X25519 and ML-KEM-768 together, safe against what quantum computers may do later.
    X25519MlKem768,
    /// X25519 (RFC 7748).
    X25519,
    /// NIST P-256.
    P256,
}

impl Group {
    const fn algorithm(self) -> &'static dyn SupportedKxGroup {
        match self {
            Self::X25519MlKem768 => aws_lc_rs::kx_group::X25519MLKEM768,
            Self::X25519 => aws_lc_rs::kx_group::X25519,
            Self::P256 => aws_lc_rs::kx_group::SECP256R1,
        }
    }
}

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "X25519MLKEM768" => Ok(Self::X25519MlKem768),
            "X25519" => Ok(Self::X25519),
            "P-256" => Ok(Self::P256),
            _ => Err("must be X25519MLKEM768, X25519 or P-256".to_owned()),
        }
    }
}

fn with_groups(groups: &[Group]) -> Arc<CryptoProvider> {
    if groups.is_empty() {
        return Arc::clone(provider());
    }
    let kx_groups = groups.iter().map(|group| group.algorithm()).collect();
    Arc::new(CryptoProvider {
        kx_groups,
        ..CryptoProvider::clone(provider())
    })
}

/// Whose certificates a server asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clients {
    /// Everybody must have one, of this.
    Must(Peer),
    /// Who has one must be this.
    May(Peer),
}

/// A configuration, and the generation of the identity that it was made from.
type Built<C> = ArcSwapOption<(u64, Arc<C>)>;

/// The accepting end.
#[derive(Debug)]
pub struct Acceptor {
    identity: Arc<Identity>,
    clients: Clients,
    alpn: Vec<Vec<u8>>,
    groups: Vec<Group>,
    /// The names under [`HOP_DOMAIN`] by which this end is meant; `None` takes every name.
    hop_names: Option<Vec<String>>,
    built: Built<ServerConfig>,
}

impl Acceptor {
    /// `alpn` in the order of preference; `groups` empty is the default, the post-quantum one first.
    pub fn new(
        identity: Arc<Identity>,
        clients: Clients,
        alpn: &[&[u8]],
        groups: &[Group],
        hop_names: Option<Vec<String>>,
    ) -> Self {
        Self {
            identity,
            clients,
            alpn: alpn.iter().map(|protocol| protocol.to_vec()).collect(),
            groups: groups.to_vec(),
            hop_names,
            built: ArcSwapOption::empty(),
        }
    }

    /// What to accept with now; `None` while the identity lacks credentials or roots.
    pub fn config(&self) -> Option<Arc<ServerConfig>> {
        current(&self.identity, &self.built, |state| {
            let key = state.credentials.as_ref()?.key();
            let roots = state.roots.clone()?;
            let (peer, mandatory) = match &self.clients {
                Clients::Must(peer) => (peer, true),
                Clients::May(peer) => (peer, false),
            };
            let peer = peer.seen_by(state.identity())?;
            let verifier = Verifier::new(roots, peer, mandatory);
            let named = Named {
                key: Arc::clone(key),
                hop_names: self.hop_names.clone(),
            };
            let mut config = ServerConfig::builder_with_provider(with_groups(&self.groups))
                .with_protocol_versions(&[&TLS13])
                .expect("the provider has suites of TLS 1.3")
                .with_client_cert_verifier(Arc::new(verifier))
                .with_cert_resolver(Arc::new(named));
            config.alpn_protocols.clone_from(&self.alpn);
            config.ticketer = aws_lc_rs::Ticketer::new().ok()?;
            config.send_tls13_tickets = 1;
            Some(config)
        })
    }
}

/// One certificate, for those alone who mean this end.
#[derive(Debug)]
struct Named {
    key: Arc<CertifiedKey>,
    hop_names: Option<Vec<String>>,
}

impl ResolvesServerCert for Named {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().filter(|name| is_hop_name(name));
        let meant = match (&self.hop_names, named) {
            (Some(ours), Some(name)) => ours.iter().any(|our| our == name),
            _ => true,
        };
        meant.then(|| Arc::clone(&self.key))
    }
}

/// Whether a name in SNI is a task's as hops name it.
pub fn is_hop_name(name: &str) -> bool {
    let task = name.strip_suffix(HOP_DOMAIN);
    task.is_some_and(|task| task.ends_with('.'))
}

/// The dialling end.
#[derive(Debug)]
pub struct Connector {
    identity: Arc<Identity>,
    peer: Peer,
    alpn: Vec<Vec<u8>>,
    groups: Vec<Group>,
    anonymous: bool,
    built: Built<ClientConfig>,
}

impl Connector {
    /// See [`Acceptor::new`]. It proves who it is.
    pub fn new(identity: Arc<Identity>, peer: Peer, alpn: &[&[u8]], groups: &[Group]) -> Self {
        Self {
            identity,
            peer,
            alpn: alpn.iter().map(|protocol| protocol.to_vec()).collect(),
            groups: groups.to_vec(),
            anonymous: false,
            built: ArcSwapOption::empty(),
        }
    }

    /// For a first contact: it has roots and no credentials yet, or does not need any.
    pub fn anonymous(identity: Arc<Identity>, peer: Peer, alpn: &[&[u8]]) -> Self {
        Self {
            anonymous: true,
            ..Self::new(identity, peer, alpn, &[])
        }
    }

    /// What to connect with now; `None` while the identity lacks what it needs.
    pub fn config(&self) -> Option<Arc<ClientConfig>> {
        current(&self.identity, &self.built, |state| {
            let peer = self.peer.seen_by(state.identity())?;
            let verifier = Verifier::new(state.roots.clone()?, peer, true);
            let config = ClientConfig::builder_with_provider(with_groups(&self.groups))
                .with_protocol_versions(&[&TLS13])
                .expect("the provider has suites of TLS 1.3")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier));
            let mut config = match (&state.credentials, self.anonymous) {
                (_, true) => config.with_no_client_auth(),
                (Some(credentials), false) => {
                    let key = SingleCertAndKey::from(CertifiedKey::clone(credentials.key()));
                    config.with_client_cert_resolver(Arc::new(key))
                }
                (None, false) => return None,
            };
            config.alpn_protocols.clone_from(&self.alpn);
            config.resumption = Resumption::in_memory_sessions(SESSIONS);
            Some(config)
        })
    }
}

/// What was built from the identity as it is now, or is built now.
fn current<C>(
    identity: &Identity,
    built: &Built<C>,
    build: impl FnOnce(&State) -> Option<C>,
) -> Option<Arc<C>> {
    let held = built.load();
    if let Some(held) = held.as_ref()
        && held.0 == identity.generation()
    {
        return Some(Arc::clone(&held.1));
    }
    let (generation, state) = identity.now();
    let config = Arc::new(build(&state)?);
    built.store(Some(Arc::new((generation, Arc::clone(&config)))));
    Some(config)
}
