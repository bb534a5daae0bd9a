//! The embedded CA and its files, over restarts and rotations.

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Client, Running, bundle, start, try_start, until};
use outrigger_control::identity::Settings;
use serde_json::json;
use tempfile::tempdir;

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
