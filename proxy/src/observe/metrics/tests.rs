//! What is exposed, and that it is bounded.

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
