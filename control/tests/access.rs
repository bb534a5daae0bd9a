//! What a connection may do, by its certificate and the mode of the server.

mod common;

use std::time::Duration;

use common::{Client, Subscriber, bundle, in_time, request, start, task, text, until};
use outrigger_control::identity::Settings;
use outrigger_xds::ResourceType;
use outrigger_xds::identity::{TRUST_BUNDLE, TlsMode};
use outrigger_xds::tls::alpn;
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TRUST: (ResourceType, &str) = (ResourceType::Secret, TRUST_BUNDLE);

fn strict() -> Settings {
    Settings {
        tls: TlsMode::Strict,
        ..Settings::default()
    }
}

/// A namespace `shop` with these services; their ids.
async fn shop<const N: usize>(client: &Client, services: [&str; N]) -> [String; N] {
    let (status, answer) = client
        .cloud_map("CreateHttpNamespace", json!({ "Name": "shop" }))
        .await;
    assert_eq!(status, 200, "{answer}");
    let (_, listed) = client.cloud_map("ListNamespaces", json!({})).await;
    let namespace = listed["Namespaces"][0]["Id"].clone();
    let mut ids = services.map(str::to_owned);
    for id in &mut ids {
        let service = json!({ "Name": *id, "NamespaceId": namespace });
        let (status, made) = client.cloud_map("CreateService", service).await;
        assert_eq!(status, 200, "{made}");
        *id = text(&made["Service"]["Id"]).to_owned();
    }
    ids
}

fn instance(service: &str, id: &str, node: &str, tls: Option<&str>) -> Value {
    let mut attributes = json!({ "AWS_INSTANCE_IPV4": "10.0.0.1", "OUTRIGGER_NODE": node });
    if let Some(tls) = tls {
        attributes["OUTRIGGER_TLS"] =
            json!(format!("spiffe://outrigger.internal/ns/shop/svc/{tls}"));
    }
    json!({ "ServiceId": service, "InstanceId": id, "Attributes": attributes })
}

#[tokio::test]
async fn a_certificate_of_one_service_changes_nothing_of_another() {
    let data = tempdir().unwrap();
    let running = start(data.path(), Settings::default()).await;
    let operator = Client::operator(running.api_addr, data.path());
    let [orders_id, cart_id] = shop(&operator, ["orders", "cart"]).await;
    let orders = task(&running, data.path(), "orders", "n1").await;
    let cart = task(&running, data.path(), "cart", "n2").await;
    let plain = Client::plain(running.api_addr);
    let declare = |id: &str, of: &str| {
        let identity = format!("spiffe://outrigger.internal/ns/shop/svc/{of}");
        json!({ "ServiceId": id, "Attributes": { "OUTRIGGER_REVISION": of, "OUTRIGGER_IDENTITY": identity } })
    };
    let ours = instance(&orders_id, "i1", "n1", Some("orders"));
    let leave = json!({ "ServiceId": orders_id, "InstanceId": "i1" });
    for (who, operation, body, permitted) in [
        (
            &orders,
            "UpdateServiceAttributes",
            declare(&orders_id, "orders"),
            true,
        ),
        (
            &cart,
            "UpdateServiceAttributes",
            declare(&orders_id, "cart"),
            false,
        ),
        (
            &plain,
            "UpdateServiceAttributes",
            declare(&cart_id, "cart"),
            false,
        ),
        (&cart, "RegisterInstance", ours.clone(), false),
        (
            &cart,
            "RegisterInstance",
            instance(&orders_id, "i2", "n2", Some("cart")),
            false,
        ),
        (&plain, "RegisterInstance", ours.clone(), false),
        (
            &orders,
            "RegisterInstance",
            instance(&orders_id, "i1", "n9", Some("orders")),
            false,
        ),
        (&orders, "RegisterInstance", ours, true),
        (&cart, "DeregisterInstance", leave.clone(), false),
        (&plain, "DeregisterInstance", leave.clone(), false),
        (&orders, "DeregisterInstance", leave, true),
    ] {
        let (status, answer) = who.cloud_map(operation, body.clone()).await;
        match permitted {
            true => assert_eq!(status, 200, "{operation} {body}: {answer}"),
            false => {
                assert_eq!(status, 403, "{operation} {body}: {answer}");
                assert_eq!(answer["__type"], "AccessDeniedException");
            }
        }
    }
    // Once nothing is left in it.
    let emptied = || async {
        let (_, listed) = orders
            .cloud_map("ListInstances", json!({ "ServiceId": orders_id }))
            .await;
        listed["Instances"] == json!([])
    };
    until(emptied).await;
    let delete = json!({ "Id": orders_id });
    assert_eq!(cart.cloud_map("DeleteService", delete.clone()).await.0, 403);
    assert_eq!(orders.cloud_map("DeleteService", delete).await.0, 200);
    running.shutdown().await;
}

#[tokio::test]
async fn a_node_is_drained_and_reported_by_itself() {
    let data = tempdir().unwrap();
    let running = start(data.path(), Settings::default()).await;
    let operator = Client::operator(running.api_addr, data.path());
    shop(&operator, ["orders"]).await;
    let orders = task(&running, data.path(), "orders", "n1").await;
    let second = task(&running, data.path(), "orders", "n2").await;
    let on_xds = |client: &Client| Client {
        address: running.xds_addr,
        ..client.clone()
    };
    let mut stream = Subscriber::start(on_xds(&orders), "n1", "orders", &[TRUST]);
    stream.until(|seen| !seen.is_empty()).await;
    let problems = json!({ "problems": ["one"] });
    for (who, status) in [
        (&second, 403),
        (&Client::plain(running.api_addr), 403),
        (&orders, 200),
    ] {
        for (path, body) in [
            ("/v1/nodes/n1/report", problems.clone()),
            ("/v1/nodes/n1/drain", json!(null)),
        ] {
            assert_eq!(who.call("POST", path, body).await.0, status, "{path}");
        }
    }
    running.shutdown().await;
}

#[tokio::test]
async fn a_stream_is_of_the_service_in_its_certificate() {
    let data = tempdir().unwrap();
    let running = start(data.path(), Settings::default()).await;
    let operator = Client::operator(running.api_addr, data.path());
    let [orders_id] = shop(&operator, ["orders"]).await;
    let mut orders = task(&running, data.path(), "orders", "n1").await;
    let tls = instance(&orders_id, "i1", "n1", Some("orders"));
    assert_eq!(orders.cloud_map("RegisterInstance", tls).await.0, 200);
    orders.address = running.xds_addr;
    let mut other = Subscriber::start(orders.clone(), "n1", "cart", &[TRUST]);
    let reason = other.refused().await;
    assert!(
        reason.contains("svc/orders") && reason.contains("\"cart\""),
        "{reason}"
    );
    let mut plain = Subscriber::start(Client::plain(running.xds_addr), "n1", "orders", &[TRUST]);
    let reason = plain.refused().await;
    assert!(reason.contains("no certificate"), "{reason}");
    let mut same = Subscriber::start(orders, "n1", "orders", &[TRUST]);
    same.until(|seen| seen.contains_key(&(TRUST.0, TRUST.1.to_owned())))
        .await;
    running.shutdown().await;
}

#[tokio::test]
async fn permissive_tells_plaintext_from_tls_on_the_same_port() {
    let data = tempdir().unwrap();
    let running = start(data.path(), Settings::default()).await;
    let plain = Client::plain(running.api_addr);
    let anonymous = Client::anonymous(running.api_addr, &bundle(data.path()));
    for client in [plain, anonymous] {
        assert_eq!(client.call("GET", "/v1/health", json!(null)).await.0, 200);
    }
    let mut plain = Subscriber::start(Client::plain(running.xds_addr), "n", "client", &[]);
    let connected = |state: &Option<_>| state.is_some();
    let state = in_time(plain.connection.wait_for(connected))
        .await
        .unwrap()
        .clone();
    let state = format!("{state:?}");
    assert!(state.contains("Connected {"), "{state}");
    running.shutdown().await;
}

#[tokio::test]
async fn strict_takes_no_plaintext_and_without_a_certificate_enrolment_and_reading_alone() {
    let data = tempdir().unwrap();
    let running = start(data.path(), strict()).await;
    let mut plain = tokio::net::TcpStream::connect(running.api_addr)
        .await
        .unwrap();
    plain
        .write_all(b"GET /v1/health HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // Closed, or reset as it had sent something.
    let _closed = in_time(plain.read_to_end(&mut answer)).await;
    assert!(answer.is_empty(), "{answer:?}");
    let mut stream = Subscriber::start(Client::plain(running.xds_addr), "n", "client", &[]);
    stream.refused().await;

    let anonymous = Client::anonymous(running.api_addr, &bundle(data.path()));
    assert_eq!(
        anonymous.call("GET", "/v1/health", json!(null)).await.0,
        200
    );
    assert_eq!(
        anonymous.cloud_map("ListNamespaces", json!({})).await.0,
        200
    );
    let on_xds = Client {
        address: running.xds_addr,
        ..anonymous
    };
    // The client is done with the handshake before the server refuses it.
    let refused = async {
        let mut stream = on_xds.connect(alpn::H2).await?;
        stream.read_u8().await
    };
    let refused = in_time(refused).await.unwrap_err();
    assert!(
        refused.to_string().contains("CertificateRequired"),
        "{refused}"
    );

    let mut orders = task(&running, data.path(), "orders", "n1").await;
    orders.address = running.xds_addr;
    let mut member = Subscriber::start(orders, "n1", "orders", &[TRUST]);
    let operator = Client::operator(running.api_addr, data.path());
    shop(&operator, ["orders"]).await;
    member.until(|seen| !seen.is_empty()).await;
    running.shutdown().await;
}

#[tokio::test]
async fn where_tls_is_disabled_there_is_no_ca() {
    let data = tempdir().unwrap();
    let settings = Settings {
        tls: TlsMode::Disable,
        ..Settings::default()
    };
    let running = start(data.path(), settings).await;
    let plain = Client::plain(running.api_addr);
    let (status, answer) = plain.call("POST", "/v1/identity", json!({})).await;
    assert_eq!((status, text(&answer["code"])), (404, "tls_disabled"));
    assert!(!data.path().join("ca-key.pem").exists());
    running.shutdown().await;
}

#[tokio::test]
async fn a_new_root_signs_when_the_connected_have_it_and_no_stream_ends() {
    let data = tempdir().unwrap();
    let settings = Settings {
        lifetime: Duration::from_secs(4),
        overlap: Some(Duration::from_secs(1)),
        ..strict()
    };
    let running = start(data.path(), settings).await;
    let operator = Client::operator(running.api_addr, data.path());
    shop(&operator, ["orders"]).await;
    let orders = task(&running, data.path(), "orders", "n1").await;
    let on_xds = Client {
        address: running.xds_addr,
        ..orders.clone()
    };
    let mut stream = Subscriber::start(on_xds, "n1", "orders", &[TRUST]);
    stream.until(|seen| !seen.is_empty()).await;
    let stages = async || {
        // Whoever does not renew is not believed any more in the end.
        let operator = Client::operator(running.api_addr, data.path());
        let (_, shown) = operator.call("GET", "/v1/ca", json!(null)).await;
        let roots = shown["roots"].as_array().cloned().unwrap_or_default();
        let stage = |root: &Value| text(&root["stage"]).to_owned();
        roots.iter().map(stage).collect::<Vec<_>>()
    };
    assert_eq!(stages().await, ["signing"]);
    let old = bundle(data.path());
    assert_eq!(
        operator.call("POST", "/v1/ca/rotate", json!(null)).await.0,
        200
    );
    assert_eq!(stages().await, ["signing", "published"]);
    let again = operator.call("POST", "/v1/ca/rotate", json!(null)).await;
    assert_eq!(again.0, 409);
    let with = |roots: usize| {
        move |seen: &std::collections::BTreeMap<_, _>| {
            let trust = seen.get(&(TRUST.0, TRUST.1.to_owned()));
            trust.is_some_and(|trust| format!("{trust:?}").matches("BEGIN").count() == roots)
        }
    };
    stream.until(with(2)).await;
    until(|| async { stages().await == ["leaving", "signing"] }).await;
    // Whoever missed it checks the new root by the old one.
    let late = Client::anonymous(running.api_addr, &old);
    assert_eq!(late.call("GET", "/v1/health", json!(null)).await.0, 200);
    until(|| async { stages().await == ["gone", "signing"] }).await;
    stream.until(with(1)).await;
    // The server still leads from the old one to the new one.
    assert_eq!(late.call("GET", "/v1/health", json!(null)).await.0, 200);
    assert_ne!(bundle(data.path()), old);
    let keys = std::fs::read_dir(data.path()).unwrap();
    let keys = keys.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("ca-key")
    });
    assert_eq!(keys.count(), 1);
    assert!(
        !stream.connection.has_changed().unwrap() || {
            let state = stream.connection.borrow_and_update();
            format!("{state:?}").contains("Connected {")
        }
    );
    running.shutdown().await;
}

#[tokio::test]
async fn a_new_root_does_not_sign_while_one_that_is_connected_does_not_have_it() {
    let data = tempdir().unwrap();
    let settings = Settings {
        overlap: Some(Duration::from_secs(1)),
        ..Settings::default()
    };
    let running = start(data.path(), settings).await;
    let operator = Client::operator(running.api_addr, data.path());
    shop(&operator, ["orders"]).await;
    let mut orders = task(&running, data.path(), "orders", "n1").await;
    orders.address = running.xds_addr;
    let mut stream = Subscriber::refusing(orders, "n1", "orders", &[TRUST], Some(TRUST.0));
    stream.until(|seen| !seen.is_empty()).await;
    assert_eq!(
        operator.call("POST", "/v1/ca/rotate", json!(null)).await.0,
        200
    );
    let shown = || async { operator.call("GET", "/v1/ca", json!(null)).await.1 };
    // Two seconds after it could have signed.
    let late = || async {
        let shown = shown().await;
        shown["roots"][1]["until"].as_u64().unwrap() + 2 <= shown["now"].as_u64().unwrap()
    };
    until(late).await;
    let now = shown().await;
    assert_eq!(now["roots"][1]["stage"], "published", "{now}");
    assert_eq!(now["waiting_for"], json!(["n1"]));
    drop(stream);
    until(|| async { shown().await["roots"][1]["stage"] == "signing" }).await;
    running.shutdown().await;
}

#[tokio::test]
async fn a_node_id_is_that_of_the_certificate_and_of_whoever_has_instances_on_it() {
    let data = tempdir().unwrap();
    let running = start(data.path(), Settings::default()).await;
    let operator = Client::operator(running.api_addr, data.path());
    let [orders_id] = shop(&operator, ["orders"]).await;
    let orders = task(&running, data.path(), "orders", "n1").await;
    let cart = task(&running, data.path(), "cart", "n1").await;
    let on_xds = |client: &Client| Client {
        address: running.xds_addr,
        ..client.clone()
    };
    let mut other = Subscriber::start(on_xds(&orders), "n2", "orders", &[TRUST]);
    let reason = other.refused().await;
    assert!(
        reason.contains("\"n2\"") && reason.contains("\"n1\""),
        "{reason}"
    );
    // Whose it is does not depend on who is connected.
    let tls = instance(&orders_id, "i1", "n1", Some("orders"));
    assert_eq!(orders.cloud_map("RegisterInstance", tls).await.0, 200);
    let mut squatter = Subscriber::start(on_xds(&cart), "n1", "cart", &[TRUST]);
    let reason = squatter.refused().await;
    assert!(reason.contains("svc/orders"), "{reason}");
    let renewed = cart.enrol(&request(&key(), "cart", "n1", None)).await;
    assert_eq!(
        renewed.unwrap_err(),
        (403, "node_of_another_service".to_owned())
    );
    let renewed = orders.enrol(&request(&key(), "orders", "n1", None)).await;
    assert!(renewed.is_ok());
    running.shutdown().await;
}

fn key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate().expect("a key is made")
}

#[tokio::test]
async fn an_older_revision_is_told_which_is_in_force() {
    let data = tempdir().unwrap();
    let running = start(data.path(), Settings::default()).await;
    let operator = Client::operator(running.api_addr, data.path());
    let [id] = shop(&operator, ["orders"]).await;
    let declare = async |revision: &str| {
        let body = json!({ "ServiceId": id, "Attributes": { "OUTRIGGER_REVISION": revision } });
        operator.cloud_map("UpdateServiceAttributes", body).await
    };
    assert_eq!(declare("1").await, (200, json!({})));
    assert_eq!(declare("2").await, (200, json!({})));
    assert_eq!(declare("1").await, (200, json!({ "Superseded": "2" })));
    assert_eq!(declare("2").await, (200, json!({})));
    running.shutdown().await;
}
