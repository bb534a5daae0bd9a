use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::identity::SpiffeId;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(ca: &Ca, names: &[&str], shift: i64) -> Credentials {
    chain(ca, names, shift, "")
}

/// A leaf, and what else is sent with it.
fn chain(ca: &Ca, names: &[&str], shift: i64, more: &str) -> Credentials {
    let mut params = CertificateParams::default();
    let uri = |name: &&str| SanType::URI((*name).try_into().unwrap());
    params.subject_alt_names = names.iter().map(uri).collect();
    let now = std::time::SystemTime::now();
    let at = |seconds: i64| {
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        date_time_ymd(1970, 1, 1) + Duration::from_secs((since + seconds) as u64)
    };
    params.not_before = at(shift);
    params.not_after = at(shift + 3600);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    let pem = certificate.pem() + more;
    Credentials::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap()
}

fn identity(ca: &Ca, credentials: Credentials) -> Arc<Identity> {
    let identity = Identity::default();
    identity.set_credentials(credentials);
    identity.set_roots(Roots::from_pem(ca.pem().as_bytes()).unwrap());
    Arc::new(identity)
}

fn id(service: &str) -> SpiffeId {
    SpiffeId::service("td", "shop", service).unwrap()
}

/// What each end sees of one handshake and a byte each way: the error, or whether the session was resumed.
async fn meet(acceptor: &Acceptor, connector: &Connector, name: &str) -> [Result<bool, String>; 2] {
    let config = connector.config().expect("it has an identity");
    meet_with(acceptor, config, name).await
}

async fn meet_with(
    acceptor: &Acceptor,
    connect: Arc<rustls::ClientConfig>,
    name: &str,
) -> [Result<bool, String>; 2] {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let accept = TlsAcceptor::from(acceptor.config().expect("it has an identity"));
    let connect = TlsConnector::from(connect);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let shown = |error: std::io::Error| reason(&error);
    let resumed = |kind| kind == Some(rustls::HandshakeKind::Resumed);
    let server = async {
        let mut stream = accept.accept(server).await.map_err(shown)?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await.map_err(shown)?;
        stream.write_all(&byte).await.map_err(shown)?;
        Ok(resumed(stream.get_ref().1.handshake_kind()))
    };
    let client = async {
        let mut stream = connect.connect(name, client).await.map_err(shown)?;
        stream.write_all(b"x").await.map_err(shown)?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await.map_err(shown)?;
        Ok(resumed(stream.get_ref().1.handshake_kind()))
    };
    let (server, client) = tokio::join!(server, client);
    [server, client]
}

fn members() -> Clients {
    Clients::Must(Peer::TrustDomain("td".to_owned()))
}

#[tokio::test]
async fn both_ends_prove_who_they_are_and_sessions_resume_until_an_identity_changes() {
    let ca = ca();
    let orders = identity(&ca, leaf(&ca, &[id("orders").as_str()], 0));
    let cart = identity(&ca, leaf(&ca, &[id("cart").as_str()], 0));
    let acceptor = Acceptor::new(Arc::clone(&orders), members(), &[alpn::H2], &[], None);
    let peer = Peer::OneOf(vec![id("orders")]);
    let connector = Connector::new(Arc::clone(&cart), peer, &[alpn::H2], &[]);
    let [server, client] = meet(&acceptor, &connector, "a.test").await;
    assert_eq!((server, client), (Ok(false), Ok(false)));
    let [server, _] = meet(&acceptor, &connector, "a.test").await;
    assert_eq!(server, Ok(true));
    for changed in [&orders, &cart] {
        let own = changed.id().unwrap();
        changed.set_credentials(leaf(&ca, &[own.as_str()], 0));
        let [server, client] = meet(&acceptor, &connector, "a.test").await;
        assert_eq!((server, client), (Ok(false), Ok(false)));
    }
}

#[tokio::test]
async fn who_is_another_or_nobody_is_refused() {
    let (ca, foreign) = (ca(), ca());
    let orders = identity(&ca, leaf(&ca, &[id("orders").as_str()], 0));
    let acceptor = Acceptor::new(orders, members(), &[], &[], None);
    let to = |identity, service| Connector::new(identity, Peer::OneOf(vec![id(service)]), &[], &[]);

    let cart = identity(&ca, leaf(&ca, &[id("cart").as_str()], 0));
    let [_, client] = meet(&acceptor, &to(cart, "stock"), "a.test").await;
    let said = client.unwrap_err();
    assert!(
        said.contains("svc/orders") && said.contains("svc/stock"),
        "{said}"
    );

    let own_ca = Roots::from_pem(ca.pem().as_bytes()).unwrap();
    for (from, names) in [
        (&foreign, &["spiffe://td/ns/shop/svc/cart"][..]),
        (&ca, &["spiffe://else/ns/shop/svc/cart"]),
        (&ca, &[]),
        (&ca, &["spiffe://td/a", "spiffe://td/b"]),
    ] {
        let caller = identity(from, leaf(from, names, 0));
        caller.set_roots(own_ca.clone());
        let [server, client] = meet(&acceptor, &to(caller, "orders"), "a.test").await;
        assert!(server.is_err() && client.is_err(), "{names:?}");
    }
    let nobody = Identity::default();
    nobody.set_roots(own_ca);
    let nobody = Connector::anonymous(Arc::new(nobody), Peer::OneOf(vec![id("orders")]), &[]);
    let [server, _] = meet(&acceptor, &nobody, "a.test").await;
    assert!(server.unwrap_err().contains("no certificates"));
}

#[tokio::test]
async fn a_member_knows_its_own_trust_domain_once_it_is_enrolled() {
    let ca = ca();
    let orders = Arc::new(Identity::default());
    orders.set_roots(Roots::from_pem(ca.pem().as_bytes()).unwrap());
    let clients = Clients::Must(Peer::OwnTrustDomain);
    let acceptor = Acceptor::new(Arc::clone(&orders), clients, &[], &[], None);
    let peer = Peer::OwnTrustDomain;
    let connector = Connector::new(Arc::clone(&orders), peer.clone(), &[], &[]);
    assert!(acceptor.config().is_none() && connector.config().is_none());
    orders.set_credentials(leaf(&ca, &["https://nobody"], 0));
    assert!(acceptor.config().is_none() && connector.config().is_none());
    orders.set_credentials(leaf(&ca, &[id("orders").as_str()], 0));
    for (name, let_in) in [
        ("spiffe://td/ns/shop/svc/cart", true),
        ("spiffe://else/ns/shop/svc/cart", false),
        ("https://td", false),
    ] {
        let caller = identity(&ca, leaf(&ca, &[name], 0));
        let to = Connector::new(caller, Peer::OneOf(vec![id("orders")]), &[], &[]);
        let [server, _] = meet(&acceptor, &to, "a.test").await;
        assert_eq!(server.is_ok(), let_in, "{name}");
        let other = identity(&ca, leaf(&ca, &[name], 0));
        let other = Acceptor::new(other, Clients::Must(Peer::Anybody), &[], &[], None);
        let [_, client] = meet(&other, &connector, "a.test").await;
        assert_eq!(client.is_ok(), let_in, "{name}");
    }
}

#[tokio::test]
async fn clocks_may_differ_by_five_minutes_and_more_is_reported() {
    let ca = ca();
    let orders = identity(&ca, leaf(&ca, &[id("orders").as_str()], 0));
    let acceptor = Acceptor::new(orders, members(), &[], &[], None);
    for (shift, said) in [
        (290, None),
        (-3600 - 290, None),
        (400, Some("begins in")),
        (-3600 - 400, Some("ended")),
    ] {
        let caller = identity(&ca, leaf(&ca, &[id("cart").as_str()], shift));
        let peer = Peer::OneOf(vec![id("orders")]);
        let connector = Connector::new(caller, peer, &[], &[]);
        let [server, _] = meet(&acceptor, &connector, "a.test").await;
        match said {
            None => assert_eq!(server, Ok(false), "{shift}"),
            Some(said) => {
                let error = server.unwrap_err();
                assert!(error.contains(said) && error.contains("300 s"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_hop_to_another_task_is_refused_before_anything_is_said() {
    let ca = ca();
    let orders = identity(&ca, leaf(&ca, &[id("orders").as_str()], 0));
    let (own, other) = (hop_name("shop/orders/1"), hop_name("shop/orders/2"));
    let ours = Some(vec![own.clone()]);
    let acceptor = Acceptor::new(Arc::clone(&orders), members(), &[], &[], ours);
    let peer = Peer::OneOf(vec![id("orders")]);
    let connector = Connector::new(orders, peer, &[], &[]);
    let [server, _] = meet(&acceptor, &connector, &own).await;
    assert_eq!(server, Ok(false));
    let [server, _] = meet(&acceptor, &connector, "a.test").await;
    assert_eq!(server, Ok(false));
    let [_, client] = meet(&acceptor, &connector, &other).await;
    assert!(client.unwrap_err().contains("AccessDenied"));
}

#[test]
fn a_key_of_another_certificate_is_refused_and_no_key_is_shown() {
    let ca = ca();
    let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let certificate = CertificateParams::default().signed_by(&one, &ca).unwrap();
    let pem = certificate.pem();
    let error = Credentials::from_pem(pem.as_bytes(), other.serialize_pem().as_bytes());
    assert_eq!(error.unwrap_err().what, "key");
    let good = Credentials::from_pem(pem.as_bytes(), one.serialize_pem().as_bytes()).unwrap();
    assert!(!format!("{good:?}").contains("PRIVATE"));
    for wrong in ["", "no PEM", &one.serialize_pem()] {
        assert!(Roots::from_pem(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn a_first_contact_believes_the_pinned_root_alone() {
    let (ca, foreign) = (ca(), ca());
    let control = SpiffeId::control("td").unwrap();
    let serving = |ca: &Ca, name: &str, with: &Ca| {
        let chain = chain(ca, &[name], 0, &with.pem());
        let clients = Clients::May(Peer::TrustDomain("td".to_owned()));
        Acceptor::new(identity(ca, chain), clients, &[], &[], None)
    };
    let roots = |ca: &Ca| Roots::from_pem(ca.pem().as_bytes()).unwrap();
    let shown = roots(&ca).fingerprints()[0].to_uppercase();
    let pairs = shown.as_bytes().chunks(2);
    let colons: Vec<_> = pairs
        .map(|pair| std::str::from_utf8(pair).unwrap())
        .collect();
    let by_fingerprint: Pin = colons.join(":").parse().unwrap();
    let good = serving(&ca, control.as_str(), &ca);
    let impostor = serving(&foreign, control.as_str(), &foreign);
    let lying = serving(&foreign, control.as_str(), &ca);
    let sibling = serving(&ca, id("orders").as_str(), &ca);
    for pin in [by_fingerprint, Pin::Roots(roots(&ca))] {
        let connect = pin.connect(Peer::OneOf(vec![control.clone()]), &[]);
        for (server, refused) in [
            (&good, None),
            (&impostor, Some("")),
            (&lying, Some("")),
            (&sibling, Some("svc/orders")),
        ] {
            let [_, client] = meet_with(server, Arc::clone(&connect), "a.test").await;
            match refused {
                None => assert_eq!(client, Ok(false)),
                Some(why) => {
                    let error = client.unwrap_err();
                    assert!(error.contains(why), "{error}");
                }
            }
        }
    }
    for wrong in ["", "00", &"x".repeat(64)] {
        assert!(wrong.parse::<Pin>().is_err(), "{wrong}");
    }
}
