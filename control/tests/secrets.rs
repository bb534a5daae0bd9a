//! Nothing secret is written where others read it, by the program as it is started.

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Client, bundle, request};
use outrigger_xds::identity::Proof;
use rcgen::KeyPair;
use serde_json::json;
use tempfile::tempdir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_outrigger-control");
const PASSPHRASE: &str = "correct horse battery staple";

/// Killed when it is dropped.
struct Server {
    child: Child,
    api: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn serve(data: &Path) -> Server {
    let log = std::fs::File::create(data.join("log")).expect("it can be done");
    let mut child = Command::new(PROGRAM)
        .args([
            "serve",
            "--api",
            "127.0.0.1:0",
            "--xds",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(data)
        .env("OUTRIGGER_LOG", "trace")
        .env("OUTRIGGER_CA_PASSPHRASE", PASSPHRASE)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("it can be done");
    let mut lines = BufReader::new(child.stdout.take().expect("it can be done")).lines();
    let greeting = lines.next().expect("it greets").expect("it can be done");
    let api = greeting
        .strip_prefix("api listening on http://")
        .expect(&greeting);
    Server {
        api: api.to_owned(),
        child,
    }
}

fn operate(server: &Server, data: &Path, arguments: &[&str]) -> String {
    let done = Command::new(PROGRAM)
        .args(arguments)
        .args(["--server", &server.api, "--operator"])
        .arg(data.join("operator.json"))
        .output()
        .expect("it can be done");
    assert!(done.status.success(), "{arguments:?}: {done:?}");
    String::from_utf8(done.stdout)
        .expect("it can be done")
        .trim()
        .to_owned()
}

#[tokio::test]
async fn no_token_key_or_passphrase_is_in_a_log_or_in_a_file_that_others_may_read() {
    let data = tempdir().unwrap();
    let data = data.path();
    let server = serve(data);
    let of = ["--namespace", "shop", "--service", "orders"];
    let once = operate(&server, data, &[&["token", "create"][..], &of].concat());
    let shared = operate(
        &server,
        data,
        &[&["token", "create", "--shared"][..], &of].concat(),
    );
    let client = Client::anonymous(server.api.parse().unwrap(), &bundle(data));
    let key = KeyPair::generate().unwrap();
    for (proof, taken) in [
        (Proof::JoinToken(once.clone()), true),
        (Proof::ServiceToken(shared.clone()), true),
        (Proof::ServiceToken(once.clone()), false),
        (Proof::Document(shared.clone()), false),
    ] {
        let answer = client
            .enrol(&request(&key, "orders", "n", Some(proof)))
            .await;
        assert_eq!(answer.is_ok(), taken);
    }
    let broken = json!({ "proof": { "join_token": [once] } });
    assert_eq!(client.call("POST", "/v1/identity", broken).await.0, 422);
    let listed = operate(&server, data, &["token", "list"]);
    assert!(listed.contains("shop/orders"), "{listed}");
    let shown = operate(&server, data, &["ca", "show"]);
    assert!(shown.contains("signing"), "{shown}");
    operate(&server, data, &["ca", "rotate"]);

    let operator = std::fs::read_to_string(data.join("operator.json")).unwrap();
    let operator: serde_json::Value = serde_json::from_str(&operator).unwrap();
    let operator_key = common::text(&operator["key"]).lines().nth(1).unwrap();
    drop(server);
    let log = std::fs::read_to_string(data.join("log")).unwrap();
    assert!(log.contains("a certificate is signed"), "{log}");
    let last = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    let secrets = [
        &last(&once),
        &last(&shared),
        PASSPHRASE,
        operator_key,
        "PRIVATE KEY",
    ];
    for entry in std::fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        if mode & 0o077 == 0 {
            continue;
        }
        let content = std::fs::read(&path).unwrap();
        let content = String::from_utf8_lossy(&content);
        for (index, secret) in secrets.iter().enumerate() {
            assert!(
                !content.contains(secret),
                "secret {index} is in {}",
                path.display()
            );
        }
    }
    assert!(!listed.contains(&last(&once)) && !listed.contains(&last(&shared)));
    let key_file = std::fs::read_to_string(data.join("ca-key.pem")).unwrap();
    assert!(key_file.contains("ENCRYPTED PRIVATE KEY"));
}
