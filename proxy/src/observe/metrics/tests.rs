//! What is exposed, and that it is bounded.

use outrigger_xds::identity::TlsMode;
use outrigger_xds::tls::Identity;

use super::*;

#[test]
fn shards_are_summed_under_the_names_service_connect_uses() {
    let metrics = Metrics::new(
        2,
        Owner {
            service: "checkout".into(),
            cluster: "prod".into(),
        },
    );
    let orders = metrics.cluster("shop/orders", "orders");
    orders
        .shard(0)
        .response(http::StatusCode::OK, Duration::from_micros(700));
    orders.shard(1).response(
        http::StatusCode::SERVICE_UNAVAILABLE,
        Duration::from_secs(100),
    );
    orders.shard(0).tls_errors.add(5);
    let listener = metrics.listener("in", "ingress", "checkout");
    listener.shard(1).requests.add(3);
    listener.shard(0).tls_connections.add(2);
    listener.shard(1).plaintext_connections.add(4);
    listener.shard(1).tls_errors.add(6);
    let text = metrics.render();
    let labels = r#"TargetDiscoveryName="orders",ServiceName="checkout",ClusterName="prod""#;
    let ingress =
        r#"Direction="ingress",DiscoveryName="checkout",ServiceName="checkout",ClusterName="prod""#;
    for line in [
        format!("HTTPCode_Target_2XX_Count_total{{{labels}}} 1"),
        format!("HTTPCode_Target_5XX_Count_total{{{labels}}} 1"),
        format!(r#"TargetResponseTime_seconds_bucket{{le="0.001",{labels}}} 1"#),
        format!(r#"TargetResponseTime_seconds_bucket{{le="+Inf",{labels}}} 2"#),
        format!("TargetResponseTime_seconds_count{{{labels}}} 2"),
        format!("TargetTLSNegotiationErrorCount_total{{{labels}}} 5"),
        format!("RequestCount_total{{{ingress}}} 3"),
        format!("ClientTLSNegotiationErrorCount_total{{{ingress}}} 6"),
        format!(r#"outrigger_tls_connections_total{{{ingress},security="tls"}} 2"#),
        format!(r#"outrigger_tls_connections_total{{{ingress},security="plaintext"}} 4"#),
    ] {
        assert!(text.contains(&line), "{line}\nnot in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn what_is_no_longer_configured_is_no_longer_exposed() {
    let metrics = Metrics::new(1, Owner::default());
    metrics.cluster("a", "a");
    metrics.retain(|_| false, |_| false);
    assert!(!metrics.render().contains(r#"TargetDiscoveryName="a""#));
}

#[test]
fn the_modes_of_the_listeners_and_the_ends_of_own_certificates_are_shown_while_they_are_in_use() {
    let metrics = Metrics::new(1, Owner::default());
    let modes = [("in", TlsMode::Permissive), ("ops", TlsMode::Strict)];
    metrics.set_tls_modes(modes.map(|(name, mode)| (name.to_owned(), mode)).into());
    let identity = Arc::new(Identity::default());
    metrics.watch(&identity);
    metrics.watch(&identity);
    assert!(
        !metrics.render().contains("expiry_seconds{"),
        "it has none yet"
    );

    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    let id = "spiffe://td/ns/shop/svc/orders";
    params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().expect("ASCII"))];
    params.not_after = rcgen::date_time_ymd(2001, 9, 9);
    let certificate = params.self_signed(&key).expect("it is one");
    let credentials = outrigger_xds::tls::Credentials::from_pem(
        certificate.pem().as_bytes(),
        key.serialize_pem().as_bytes(),
    );
    identity.set_credentials(credentials.expect("they belong together"));
    let text = metrics.render();
    for line in [
        r#"outrigger_listener_tls_mode{listener="in",mode="permissive"} 1"#,
        r#"outrigger_listener_tls_mode{listener="ops",mode="strict"} 1"#,
        &format!(r#"outrigger_certificate_expiry_seconds{{identity="{id}"}} 999993600"#),
    ] {
        assert_eq!(text.matches(line).count(), 1, "{line}\nin\n{text}");
    }
    metrics.set_tls_modes(BTreeMap::new());
    drop(identity);
    let text = metrics.render();
    assert!(
        !text.contains("tls_mode{") && !text.contains("expiry_seconds{"),
        "{text}"
    );
}

#[test]
fn what_the_allow_list_said_is_shown_by_reason() {
    let metrics = Metrics::new(2, Owner::default());
    let listener = metrics.listener("in", "ingress", "checkout");
    listener.shard(0).access.denied.no_rule.add(2);
    listener.shard(1).access.would_deny.no_identity.add(3);
    let text = metrics.render();
    for line in [
        r#"verdict="denied",reason="no_rule"} 2"#,
        r#"verdict="would_deny",reason="no_identity"} 3"#,
    ] {
        assert!(text.contains(line), "{line}\nnot in\n{text}");
    }
    assert!(
        !text.contains("allowed"),
        "what never was is not shown:\n{text}"
    );
}
