//! Who is given a certificate, and who is not.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{Client, bundle, request, start, task, text, try_start};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use outrigger_control::identity::{Documents, Settings};
use outrigger_xds::identity::Proof;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_RSA_SHA256,
};
use serde_json::json;
use tempfile::tempdir;

fn key() -> KeyPair {
    KeyPair::generate().expect("a key is made")
}

#[tokio::test]
async fn of_two_that_show_a_join_token_at_once_exactly_one_is_enrolled() {
    let data = tempdir().unwrap();
    let running = start(data.path(), Settings::default()).await;
    let operator = Client::operator(running.api_addr, data.path());
    let token = operator
        .token(json!({ "namespace": "shop", "service": "orders" }))
        .await;
    let anonymous = Client::anonymous(running.api_addr, &bundle(data.path()));
    let proof = || Some(Proof::JoinToken(token.clone()));
    let other = anonymous
        .enrol(&request(&key(), "cart", "n", proof()))
        .await;
    assert_eq!(other, Err((403, "token_of_another_service".to_owned())));
    let (one, two) = (key(), key());
    let (one, two) = (
        request(&one, "orders", "n1", proof()),
        request(&two, "orders", "n2", proof()),
    );
    let answers = tokio::join!(anonymous.enrol(&one), anonymous.enrol(&two));
    let refused = |answer: &Result<_, (u16, String)>| {
        answer.as_ref().err() == Some(&(403, "used_token".to_owned()))
    };
    let (won, lost) = match (&answers.0, &answers.1) {
        (Ok(_), lost) if refused(lost) => (one, two),
        (lost, Ok(_)) if refused(lost) => (two, one),
        other => panic!("{other:?}"),
    };
    // Its answer may have been lost.
    assert!(anonymous.enrol(&won).await.is_ok());
    let mut elsewhere = won.clone();
    elsewhere.node = "n3".to_owned();
    assert!(refused(&anonymous.enrol(&elsewhere).await));
    assert!(refused(&anonymous.enrol(&lost).await));
    running.shutdown().await;
    let running = start(data.path(), Settings::default()).await;
    let anonymous = Client::anonymous(running.api_addr, &bundle(data.path()));
    assert!(refused(&anonymous.enrol(&lost).await));
    running.shutdown().await;
}

#[tokio::test]
async fn a_shared_token_is_good_until_it_is_revoked_and_only_an_operator_makes_one() {
    let data = tempdir().unwrap();
    let running = start(data.path(), Settings::default()).await;
    let operator = Client::operator(running.api_addr, data.path());
    let wanted = json!({ "namespace": "shop", "service": "orders", "shared": true });
    let token = operator.token(wanted.clone()).await;
    let fingerprint = operator.call("GET", "/v1/ca", json!(null)).await.1;
    assert!(token.starts_with(&format!("ost1.{}.", text(&fingerprint["fingerprint"]))));
    let anonymous = Client::anonymous(running.api_addr, &bundle(data.path()));
    let enrol = async |proof| {
        let wanted = request(&key(), "orders", "n", Some(proof));
        let answer = anonymous.enrol(&wanted).await;
        answer.map(drop).map_err(|(_, code)| code)
    };
    for _ in 0..2 {
        assert_eq!(enrol(Proof::ServiceToken(token.clone())).await, Ok(()));
    }
    let wrong = enrol(Proof::JoinToken(token.clone())).await;
    assert_eq!(wrong, Err("token_of_another_kind".to_owned()));
    let unknown = enrol(Proof::ServiceToken(format!("{token}x"))).await;
    assert_eq!(unknown, Err("unknown_token".to_owned()));

    // What it renewed itself is still by the token.
    let mut enrolled = anonymous.clone();
    for proof in [Some(Proof::ServiceToken(token.clone())), None] {
        let own = key();
        let given = enrolled.enrol(&request(&own, "orders", "n", proof)).await;
        let given = given.expect("it is enrolled");
        let pem = own.serialize_pem();
        enrolled = Client::with(running.api_addr, &given.bundle, &given.chain, &pem);
    }

    let (_, listed) = operator.call("GET", "/v1/tokens", json!(null)).await;
    assert!(!listed.to_string().contains(&token));
    let revoke = format!("/v1/tokens/{}", text(&listed[0]["id"]));
    let member = task(&running, data.path(), "orders", "n").await;
    for client in [&anonymous, &Client::plain(running.api_addr), &member] {
        for (method, path) in [
            ("POST", "/v1/tokens"),
            ("GET", "/v1/tokens"),
            ("DELETE", revoke.as_str()),
            ("POST", "/v1/ca/rotate"),
        ] {
            let (status, answer) = client.call(method, path, wanted.clone()).await;
            assert_eq!(
                (status, text(&answer["code"])),
                (403, "not_operator"),
                "{path}"
            );
        }
    }
    assert_eq!(operator.call("DELETE", &revoke, json!(null)).await.0, 200);
    let renewed = enrolled.enrol(&request(&key(), "orders", "n", None)).await;
    assert_eq!(renewed.unwrap_err(), (403, "revoked_token".to_owned()));
    assert!(
        member
            .enrol(&request(&key(), "orders", "n", None))
            .await
            .is_ok()
    );
    let revoked = enrol(Proof::ServiceToken(token)).await;
    assert_eq!(revoked, Err("revoked_token".to_owned()));
    running.shutdown().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_for_the_same_service_and_node_alone() {
    let data = tempdir().unwrap();
    let running = start(data.path(), Settings::default()).await;
    let orders = task(&running, data.path(), "orders", "n1").await;
    let next = orders.enrol(&request(&key(), "orders", "n1", None)).await;
    let next = next.expect("it is renewed");
    assert_eq!(next.identity.as_service(), Some(("shop", "orders")));
    let long = request(&key(), "orders", &"n".repeat(65), None);
    let refused = orders.enrol(&long).await.unwrap_err();
    assert_eq!(refused, (400, "invalid".to_owned()));
    for (client, service, node, code) in [
        (&orders, "cart", "n1", "certificate_of_another_service"),
        (&orders, "orders", "n2", "certificate_of_another_node"),
        (&Client::plain(running.api_addr), "orders", "n1", "no_proof"),
    ] {
        let refused = client.enrol(&request(&key(), service, node, None)).await;
        assert_eq!(refused.unwrap_err(), (403, code.to_owned()));
    }
    running.shutdown().await;
}

#[tokio::test]
async fn a_request_that_is_not_signed_with_its_key_or_has_another_kind_of_key_is_refused() {
    let data = tempdir().unwrap();
    let running = start(data.path(), Settings::default()).await;
    let orders = task(&running, data.path(), "orders", "n1").await;
    let mut forged = request(&key(), "orders", "n1", None);
    let mut der = pem::parse(&forged.csr).unwrap();
    let mut bytes = der.contents().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    der = pem::Pem::new(der.tag(), bytes);
    forged.csr = pem::encode(&der);
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let rsa = request(&rsa, "orders", "n1", None);
    for request in [forged, rsa] {
        let refused = orders.enrol(&request).await.unwrap_err();
        assert_eq!(refused, (400, "invalid".to_owned()));
    }
    running.shutdown().await;
}

fn openssl(arguments: &[&str], folder: &Path) -> String {
    let done = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .output();
    let done = done.expect("openssl is installed");
    assert!(done.status.success(), "{arguments:?}: {done:?}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[tokio::test]
async fn openssl_believes_a_leaf_and_finds_in_it_what_belongs_there() {
    let data = tempdir().unwrap();
    let running = start(data.path(), Settings::default()).await;
    let orders = task(&running, data.path(), "orders", "n1").await;
    // What a request asks for beside its key is not looked at.
    let mut greedy = CertificateParams::new(vec!["example.org".to_owned()]).unwrap();
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let csr = greedy.serialize_request(&key()).unwrap().pem().unwrap();
    let mut wanted = request(&key(), "orders", "n1", None);
    wanted.csr = csr;
    let signed = orders.enrol(&wanted).await.unwrap();
    std::fs::write(data.path().join("leaf.pem"), &signed.chain).unwrap();
    std::fs::write(data.path().join("roots.pem"), &signed.bundle).unwrap();
    for purpose in ["sslclient", "sslserver"] {
        let verify = [
            "verify",
            "-CAfile",
            "roots.pem",
            "-purpose",
            purpose,
            "leaf.pem",
        ];
        assert!(openssl(&verify, data.path()).contains("leaf.pem: OK"));
    }
    let shown = openssl(&["x509", "-in", "leaf.pem", "-noout", "-text"], data.path());
    for part in [
        "URI:spiffe://outrigger.internal/ns/shop/svc/orders\n",
        "CA:FALSE",
        "Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "OU = Outrigger node, CN = n1",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains("example.org"), "{shown}");
    running.shutdown().await;
}

#[tokio::test]
async fn a_key_file_that_others_may_read_is_refused_at_start() {
    let data = tempdir().unwrap();
    start(data.path(), Settings::default())
        .await
        .shutdown()
        .await;
    let path = data.path().join("ca-key.pem");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let refused = try_start(data.path(), Settings::default()).await;
    let reason = refused.err().expect("it does not start").to_string();
    assert!(
        reason.contains("ca-key.pem") && reason.contains("0640"),
        "{reason}"
    );
}

/// A root and an intermediate that it signed.
fn own_ca(folder: &Path) -> CertifiedIssuer<'static, KeyPair> {
    let params = |name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let root = CertifiedIssuer::self_signed(params("root"), key()).expect("it can be done");
    let intermediate =
        CertifiedIssuer::signed_by(params("intermediate"), key(), &root).expect("it can be done");
    let chain = format!("{}{}", intermediate.pem(), root.pem());
    std::fs::write(folder.join("own.pem"), chain).expect("it can be done");
    let file = folder.join("own-key.pem");
    std::fs::write(&file, intermediate.key().serialize_pem()).expect("it can be done");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("it can be done");
    root
}

#[tokio::test]
async fn an_intermediate_of_your_own_signs_and_is_sent_along() {
    let data = tempdir().unwrap();
    let root = own_ca(data.path());
    let settings = Settings {
        ca_cert: Some(data.path().join("own.pem")),
        ca_key: Some(data.path().join("own-key.pem")),
        ..Settings::default()
    };
    let running = start(data.path(), settings).await;
    assert_eq!(bundle(data.path()), root.pem());
    let orders = task(&running, data.path(), "orders", "n1").await;
    let renewed = orders.enrol(&request(&key(), "orders", "n1", None)).await;
    let chain = renewed.expect("it is renewed").chain;
    assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
    let operator = Client::operator(running.api_addr, data.path());
    let (status, answer) = operator.call("POST", "/v1/ca/rotate", json!(null)).await;
    assert_eq!((status, text(&answer["code"])), (409, "no_rotation"));
    running.shutdown().await;
}

fn seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it can be done")
        .as_secs()
}

#[tokio::test]
async fn a_document_is_taken_from_its_issuer_for_its_service_in_its_time() {
    let data = tempdir().unwrap();
    let (pair, other) = (key(), key());
    let point = pair.public_key_raw();
    let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
    let jwks = json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "x": part(1..33), "y": part(33..65),
    }] });
    let file = data.path().join("jwks.json");
    std::fs::write(&file, jwks.to_string()).unwrap();
    let documents = Documents {
        jwks: file,
        issuer: "runner".to_owned(),
        audience: "outrigger".to_owned(),
    };
    let settings = Settings {
        documents: Some(documents),
        ..Settings::default()
    };
    let running = start(data.path(), settings).await;
    let anonymous = Client::anonymous(running.api_addr, &bundle(data.path()));
    let good = json!({
        "iss": "runner", "aud": "outrigger", "exp": seconds() + 60,
        "namespace": "shop", "service": "orders",
    });
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("k".to_owned());
    let signed = |header: &Header, claims: &serde_json::Value, key: &EncodingKey| {
        jsonwebtoken::encode(header, claims, key).unwrap()
    };
    let ours = EncodingKey::from_ec_der(pair.serialized_der());
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signed(&header, &claims, &ours)
    };
    let foreign = EncodingKey::from_ec_der(other.serialized_der());
    let mut shared = Header::new(Algorithm::HS256);
    shared.kid = Some("k".to_owned());
    let hmac = signed(&shared, &good, &EncodingKey::from_secret(point));
    let body = URL_SAFE_NO_PAD.encode(good.to_string());
    let unsigned = format!(
        "{}.{body}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"k"}"#)
    );
    for (document, expected) in [
        (signed(&header, &good, &ours), None),
        // Clocks may differ by five minutes.
        (with("exp", json!(seconds() - 200)), None),
        (
            with("exp", json!(seconds() - 400)),
            Some("expired_document"),
        ),
        (with("nbf", json!(seconds() + 200)), None),
        (with("nbf", json!(seconds() + 400)), Some("clock")),
        (with("iat", json!(seconds() + 400)), Some("clock")),
        (with("iss", json!("else")), Some("bad_document")),
        (with("aud", json!("else")), Some("bad_document")),
        (
            with("service", json!("cart")),
            Some("document_of_another_service"),
        ),
        (
            with("namespace", json!("else")),
            Some("document_of_another_service"),
        ),
        (with("node", json!("n1")), None),
        (with("node", json!("n2")), Some("document_of_another_node")),
        (with("service", json!(null)), Some("bad_document")),
        (signed(&header, &good, &foreign), Some("bad_document")),
        (hmac, Some("bad_document")),
        (unsigned, Some("bad_document")),
        ("no document".to_owned(), Some("bad_document")),
    ] {
        let shown = document.clone();
        let proof = Some(Proof::Document(document));
        let answer = anonymous
            .enrol(&request(&key(), "orders", "n1", proof))
            .await;
        let code = answer.err().map(|(_, code)| code);
        assert_eq!(code.as_deref(), expected, "{shown}");
    }
    running.shutdown().await;
}
