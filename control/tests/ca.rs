//! The embedded CA and its files, over restarts and rotations.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use common::{Client, Running, bundle, start, text, try_start, until};
use outrigger_control::identity::Settings;
use outrigger_xds::tls::{Peer, Pin, alpn};
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

fn quick() -> Settings {
    Settings {
        lifetime: Duration::from_secs(4),
        overlap: Some(Duration::from_secs(1)),
        ..Settings::default()
    }
}

/// Until the old root is trusted no more.
async fn rotate(running: &Running, data: &Path) {
    let operator = || Client::operator(running.api_addr, data);
    let before = bundle(data);
    let begun = operator().call("POST", "/v1/ca/rotate", json!(null)).await;
    assert_eq!(begun.0, 200, "{}", begun.1);
    until(|| async {
        let now = bundle(data);
        now != before && now.matches("BEGIN").count() == 1
    })
    .await;
}

/// Whether a first contact that knows this fingerprint alone believes the server.
async fn is_pinned(running: &Running, fingerprint: &str) -> bool {
    let pin: Pin = fingerprint.parse().expect("it is a fingerprint");
    let control = "spiffe://outrigger.internal/outrigger/control";
    let peer = Peer::OneOf(vec![control.parse().expect("it is an id")]);
    let stream = TcpStream::connect(running.api_addr).await;
    let name = "localhost".try_into().expect("it is a name");
    let connector = TlsConnector::from(pin.connect(peer, &[alpn::HTTP1]));
    let stream = stream.expect("the server listens");
    connector.connect(name, stream).await.is_ok()
}

async fn refused(data: &Path, settings: Settings) -> String {
    let refused = try_start(data, settings).await;
    refused.err().expect("it does not start").to_string()
}

#[tokio::test]
async fn a_key_that_a_flag_names_outlives_a_rotation_and_so_does_the_flag() {
    let (data, keys) = (tempdir().unwrap(), tempdir().unwrap());
    let file = keys.path().join("mine.pem");
    let settings = || Settings {
        ca_key: Some(file.clone()),
        ..quick()
    };
    let running = start(data.path(), settings()).await;
    rotate(&running, data.path()).await;
    running.shutdown().await;
    assert!(file.exists());
    let running = start(data.path(), settings()).await;
    running.shutdown().await;
}

#[tokio::test]
async fn a_relative_key_file_is_beside_whoever_starts_the_server() {
    let data = tempdir().unwrap();
    let here = tempfile::tempdir_in(".").unwrap();
    let folder = here.path().file_name().unwrap();
    let settings = || Settings {
        ca_key: Some(Path::new(folder).join("mine.pem")),
        ..Settings::default()
    };
    for _ in 0..2 {
        let running = start(data.path(), settings()).await;
        running.shutdown().await;
    }
    assert!(here.path().join("mine.pem").exists());
    // No rotation has happened: another file is not meant.
    let other = Settings {
        ca_key: Some(here.path().join("other.pem")),
        ..Settings::default()
    };
    let reason = refused(data.path(), other).await;
    assert!(reason.contains("other.pem"), "{reason}");
}

#[tokio::test]
async fn a_pin_of_the_root_that_left_last_is_still_found() {
    let data = tempdir().unwrap();
    let running = start(data.path(), quick()).await;
    let operator = Client::operator(running.api_addr, data.path());
    let (_, ca) = operator.call("GET", "/v1/ca", json!(null)).await;
    let pin = text(&ca["fingerprint"]).to_owned();
    let shared = json!({ "namespace": "shop", "service": "orders", "shared": true });
    operator.token(shared).await;
    rotate(&running, data.path()).await;
    assert!(is_pinned(&running, &pin).await);
    let operator = Client::operator(running.api_addr, data.path());
    let (_, listed) = operator.call("GET", "/v1/tokens", json!(null)).await;
    assert_eq!(listed[0]["state"], "good");
    running.shutdown().await;
    let running = start(data.path(), quick()).await;
    assert!(is_pinned(&running, &pin).await);
    // It is not trusted, though: what tasks are given says nothing of it.
    let operator = Client::operator(running.api_addr, data.path());
    let (_, ca) = operator.call("GET", "/v1/ca", json!(null)).await;
    assert_eq!(ca["roots"][0]["stage"], "gone");
    assert_eq!(text(&ca["bundle"]).matches("BEGIN").count(), 1);
    rotate(&running, data.path()).await;
    assert!(!is_pinned(&running, &pin).await);
    let operator = Client::operator(running.api_addr, data.path());
    let (_, listed) = operator.call("GET", "/v1/tokens", json!(null)).await;
    assert_eq!(listed[0]["state"], "pins a root that is gone");
    running.shutdown().await;
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("it is ours");
}

#[tokio::test]
async fn a_state_that_others_may_have_written_or_that_says_what_is_not_so_is_refused() {
    let data = tempdir().unwrap();
    let running = start(data.path(), Settings::default()).await;
    running.shutdown().await;
    let file = data.path().join("ca.json");
    for (path, mode) in [(file.as_path(), 0o620), (data.path(), 0o777)] {
        let good = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        chmod(path, mode);
        let reason = refused(data.path(), Settings::default()).await;
        assert!(reason.contains(&format!("{mode:04o}")), "{reason}");
        chmod(path, good);
    }
    let good: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (field, value, said) in [
        ("key", json!(null), "key"),
        ("fingerprint", json!("00"), "fingerprint"),
    ] {
        let mut bad = good.clone();
        bad[0][field] = value;
        std::fs::write(&file, bad.to_string()).unwrap();
        let reason = refused(data.path(), Settings::default()).await;
        assert!(reason.contains(said), "{reason}");
    }
    std::fs::write(&file, good.to_string()).unwrap();
    let elsewhere = Settings {
        trust_domain: "else.where".to_owned(),
        ..Settings::default()
    };
    let reason = refused(data.path(), elsewhere).await;
    assert!(
        reason.contains("\"outrigger.internal\"") && reason.contains("\"else.where\""),
        "{reason}"
    );
    std::fs::remove_file(&file).unwrap();
    let reason = refused(data.path(), Settings::default()).await;
    assert!(
        reason.contains("ca.json") && reason.contains("ca-key.pem"),
        "{reason}"
    );
}

#[tokio::test]
async fn what_the_registry_holds_is_read_by_its_owner_alone() {
    let above = tempdir().unwrap();
    let data = above.path().join("data");
    let running = start(&data, Settings::default()).await;
    running.shutdown().await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("registry.redb")), 0o600);
}
