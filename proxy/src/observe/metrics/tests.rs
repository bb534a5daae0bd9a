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
    metrics
        .listener("in", "ingress", "checkout")
        .shard(1)
        .requests
        .add(3);
    let text = metrics.render();
    let labels = r#"TargetDiscoveryName="orders",ServiceName="checkout",ClusterName="prod""#;
    for line in [
        format!("HTTPCode_Target_2XX_Count_total{{{labels}}} 1"),
        format!("HTTPCode_Target_5XX_Count_total{{{labels}}} 1"),
        format!(r#"TargetResponseTime_seconds_bucket{{le="0.001",{labels}}} 1"#),
        format!(r#"TargetResponseTime_seconds_bucket{{le="+Inf",{labels}}} 2"#),
        format!("TargetResponseTime_seconds_count{{{labels}}} 2"),
        r#"RequestCount_total{Direction="ingress",DiscoveryName="checkout",ServiceName="checkout",ClusterName="prod"} 3"#
            .to_owned(),
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
