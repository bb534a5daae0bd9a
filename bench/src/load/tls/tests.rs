//! The client against a server of rustls that verifies it.

use std::net::SocketAddr;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::load::{Load, Plan, Record, hold_idle};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Takes one group, and resumes sessions if it is told to.
async fn server(certificates: &Certificates, group: Group, resumes: bool) -> SocketAddr {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.retain(|one| match group {
        Group::X25519 => one.name() == rustls::NamedGroup::X25519,
        Group::X25519MLKEM768 => one.name() == rustls::NamedGroup::X25519MLKEM768,
    });
    let provider = Arc::new(provider);
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(&certificates.ca).unwrap();
    roots.add(ca).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let chain = vec![CertificateDer::from_pem_file(&certificates.server.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&certificates.server.key).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    if !resumes {
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(acceptor.clone(), stream));
        }
    });
    address
}

/// Answers every request of a connection; its head ends with its read.
async fn answer(acceptor: TlsAcceptor, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut read = [0; 4096];
    while stream.read(&mut read).await? > 0 {
        stream.write_all(ANSWER).await?;
        stream.flush().await?;
    }
    Ok(())
}

struct Ends {
    _folder: tempfile::TempDir,
    certificates: Certificates,
}

fn ends() -> Ends {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::write(folder.path()).unwrap();
    Ends {
        _folder: folder,
        certificates,
    }
}

async fn load(address: SocketAddr, tls: Tls) -> Record {
    let plan = Plan {
        connections: 2,
        requests: Some(20),
        tls: Some(tls),
        ..Plan::new(address, "orders")
    };
    Load::start(plan).finished().await
}

#[tokio::test]
async fn requests_are_answered_over_kept_full_and_resumed_sessions_in_both_groups() {
    let ends = ends();
    for group in [Group::X25519, Group::X25519MLKEM768] {
        for session in [Session::Kept, Session::Full, Session::Resumed] {
            let address = server(&ends.certificates, group, true).await;
            let tls = Tls::new(&ends.certificates, group, session).unwrap();
            let record = load(address, tls).await;
            let counts = (record.sent, record.failed);
            assert_eq!(
                counts,
                (20, 0),
                "{group:?} {session:?}: {:?}",
                record.reasons
            );
        }
    }
}

#[tokio::test]
async fn a_full_handshake_where_a_resumed_one_is_measured_is_a_failure() {
    let ends = ends();
    let group = Group::X25519;
    let address = server(&ends.certificates, group, false).await;
    let tls = Tls::new(&ends.certificates, group, Session::Resumed).unwrap();
    let record = load(address, tls).await;
    // Every second one of a worker's: after a failure it begins anew.
    assert_eq!((record.sent, record.failed), (20, 10));
    assert!(
        record
            .reasons
            .keys()
            .all(|reason| reason.contains("not Resumed"))
    );
}

#[tokio::test]
async fn a_server_without_the_group_or_of_another_ca_is_a_failure() {
    let (ours, theirs) = (ends(), ends());
    let address = server(&ours.certificates, Group::X25519, true).await;
    for (certificates, group) in [
        (&ours.certificates, Group::X25519MLKEM768),
        (&theirs.certificates, Group::X25519),
    ] {
        let tls = Tls::new(certificates, group, Session::Full).unwrap();
        let record = load(address, tls).await;
        assert_eq!((record.sent, record.failed), (20, 20));
        let of_tls = |reason: &String| reason.starts_with("TLS handshake:");
        assert!(record.reasons.keys().all(of_tls), "{:?}", record.reasons);
    }
}

#[tokio::test]
async fn idle_connections_are_held_behind_tls() {
    let ends = ends();
    let address = server(&ends.certificates, Group::X25519, true).await;
    let tls = Tls::new(&ends.certificates, Group::X25519, Session::Kept).unwrap();
    let plan = Plan {
        tls: Some(tls),
        ..Plan::new(address, "orders")
    };
    hold_idle(&plan, 10).await.unwrap();
}
